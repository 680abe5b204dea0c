"""Which distance tells images that a model was not made for? Writes docs/refusal_*.csv; docs/refusal.md reads them.

scripts/refusal.py --shared ../shared --weights PATH [--cache DIR] [--out docs] [--extract-only]

Samples: drawn tissue at 200X, and where --shared has them the 200X sample (thumbs) and the 100X fields (half). What a
number needs is fitted on other cases than those it is measured on: five folds by case number. k, quantile and method
are chosen on the 200X sample; the 100X fields confirm them. Some 20 minutes on 2 cores, then seconds from the cache.
"""

import argparse
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter
from scipy import special
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler, normalize

from breakhis_cls import config
from breakhis_cls.config import REFUSE_BEYOND as QUANTILE
from breakhis_cls.data import index, png, splits
from breakhis_cls.data.dataset import load_dataset
from breakhis_cls.modeling import devices, features, head
from breakhis_cls.pipeline.pixel_store import fit_image

QUANTILES = (0.9, 0.95, QUANTILE, 1.0)
UCSB = "other laboratory (UCSB)"
BLANKS = {"white": (255, 255, 255), "glass": (245, 245, 245), "black": (0, 0, 0), "pink": (220, 170, 200),
          "violet": (120, 70, 150)}  # fmt: skip
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg",
               "motorcycle_left.png", "retina.jpg")  # fmt: skip
PER_CASE = 2  # held-out images of each case that are corrupted
ROOT = Path(__file__).resolve().parents[1]


class Sample(NamedTuple):
    """Images of one magnification that a model would be trained on, and images that it is not for."""

    name: str
    images: pd.DataFrame  # case, subtype, label: (n,)
    pixels: np.ndarray  # (n, h, w, 3) uint8
    foreign: pd.DataFrame  # kind, name, case (of no tissue: the picture)
    foreign_pixels: np.ndarray


# --- images that a model is not for ---


def corrupt(rgb: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Ten corruptions of one fitted image (h, w, 3) uint8: five kinds, each mild and strong."""
    import tensorflow as tf

    from breakhis_cls.pipeline import stain_jitter

    picture, rng = Image.fromarray(rgb), np.random.default_rng(seed)
    found = {}
    for level, (sigma, quality, share, gain, stain) in {
        "mild": (1, 30, 0.05, 1.25, 0.25),
        "strong": (3, 10, 0.2, 0.5, 0.5),
    }.items():
        found[f"blur, {level}"] = np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma)))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        found[f"JPEG, {level}"] = np.asarray(Image.open(buffer).convert("RGB"))
        # Deposit of stain: dark blots until they cover the share.
        blots, (height, width, _) = np.zeros(rgb.shape[:2], bool), rgb.shape
        y, x = np.mgrid[:height, :width]
        while blots.mean() < share:
            (cy, cx), radius = rng.uniform((0, 0), (height, width)), rng.uniform(0.02, 0.08) * width
            blots |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        soft = np.asarray(Image.fromarray(blots.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(2))) / 255
        found[f"stain deposit, {level}"] = (
            rgb * (1 - soft[..., None]) + np.array([60, 20, 80]) * soft[..., None]
        ).astype(np.uint8)
        found[f"brightness, {level}"] = np.clip(rgb * gain, 0, 255).astype(np.uint8)
        sign = rng.choice([-1, 1])
        draws = np.array([[sign * stain, -sign * stain, 0, 0]], np.float32)
        found[f"H&E shift, {level}"] = stain_jitter.to_levels(
            stain_jitter.jitter_stains(tf.constant(rgb[None]), tf.constant(draws))
        )[0].numpy()
    return found


def windows(path: Path, n: int = 3) -> list[np.ndarray]:
    """Overlapping windows of 3:2 of a picture, as large as fit."""
    picture = Image.open(path).convert("RGB")
    width = min(picture.width, int(1.5 * picture.height)) * (0.7 if n > 1 else 1)
    height = width / 1.5
    corners = np.linspace((0, 0), (picture.width - width, picture.height - height), n)
    return [np.asarray(picture.crop((int(x), int(y), int(x + width), int(y + height)))) for x, y in corners]


def foreign_pictures() -> list[tuple[str, str, np.ndarray]]:
    """(kind, name, image): blanks, photographs that scikit-image and scikit-learn ship, and pages of this project."""
    import skimage
    import sklearn

    rng, found = np.random.default_rng(0), []
    for name, colour in BLANKS.items():
        flat = np.tile(np.array(colour), (460, 700, 1))
        found.append(("blank", name, flat.astype(np.uint8)))
        found.append(
            ("blank", f"{name} with noise", np.clip(flat + rng.normal(0, 6, flat.shape), 0, 255).astype(np.uint8))
        )
    data, more = Path(str(skimage.__file__)).parent / "data", Path(str(sklearn.__file__)).parent / "datasets" / "images"
    for path in [*(data / name for name in PHOTOGRAPHS), more / "china.jpg", more / "flower.jpg"]:
        found += [("photograph", f"{path.stem} {at}", window) for at, window in enumerate(windows(path))]
    found += [
        ("other stain (immunohistochemistry)", f"ihc {at}", one) for at, one in enumerate(windows(data / "ihc.png"))
    ]
    for path in [*sorted((ROOT / "docs").glob("*.png")), data / "page.png", data / "text.png"]:
        if path.stem != "saliency":  # it shows drawn tissue
            found += [("screenshot or figure", f"{path.stem} {at}", one) for at, one in enumerate(windows(path, 2))]
    return found


# --- samples ---


def read_sample(name: str, settings: config.Config, squeeze: bool, more: dict[str, pd.DataFrame]) -> Sample:
    """Images of `settings`, and foreign ones; `more`: kind -> images.csv with a column root, of other tissue."""
    dataset = load_dataset(settings)
    images = dataset.split.reset_index(drop=True)
    pixels = np.stack([fit_image(png.decode(dataset.root / file), settings.image) for file in images["file"]])
    rows, fitted = [], []
    for kind, table in more.items():
        for row in table.itertuples():
            rgb = png.decode(Path(str(row.root)) / str(row.file))
            if squeeze:  # the sample's fields were squeezed to a square: do the same, so that sharpness tells nothing
                rgb = np.asarray(Image.fromarray(rgb).resize((224, 224), Image.Resampling.BILINEAR))
            rows.append((kind, Path(str(row.file)).name, str(row.case)))
            fitted.append(fit_image(rgb, settings.image))
    for kind, picture, rgb in foreign_pictures():
        rows.append((kind, picture, picture.split()[0]))  # windows of one picture count as one case
        fitted.append(fit_image(rgb, settings.image))
    chosen = images.groupby("case").sample(frac=1, random_state=0).groupby("case").head(PER_CASE).sort_index()
    for at in chosen.index:
        for kind, rgb in corrupt(pixels[at], int(at)).items():
            rows.append((kind, images["file"][at], images["case"][at]))
            fitted.append(rgb)
    return Sample(name, images, pixels, pd.DataFrame(rows, columns=["kind", "name", "case"]), np.stack(fitted))


def of_root(
    root: Path | str, cache: Path, magnifications: tuple[int, ...], prefix: str = "", n: int = 0
) -> dict[str, pd.DataFrame]:
    """`40X` and so on -> images.csv of a tree with its root, n drawn per magnification."""
    found = {}
    for magnification in magnifications:
        data = config.Data(root=str(root), cache=cache, magnifications=(magnification,))  # type: ignore[arg-type]
        table = index.load_images(data)
        table = splits.drop_duplicates(table, "first", "binary")[0].assign(root=str(index.find_root(data)))
        found[prefix or f"{magnification}X"] = table.sample(
            min(n or len(table), len(table)), random_state=0
        ).sort_index()
    return found


def read_samples(shared: Path | None, weights: str, cache: Path) -> list[tuple[Sample, config.Config]]:
    """The samples with the settings that their features are extracted with."""

    def settings(name: str, root: Path | str, magnification: int, **more: object) -> config.Config:
        changes = {"data.root": str(root), "data.cache": cache, "data.magnifications": [magnification]}
        return config.change_settings(config.Config(name=name), changes | {"model.weights": weights} | more)

    drawn = settings("drawn", "synthetic", 200)
    demo = config.change_settings(config.load_config("demo"), {"data.cache": cache, "data.magnifications": [200]})
    tissue = of_root("synthetic", cache, (40, 100, 400))
    if shared is None:
        return [(read_sample("drawn tissue, random weights", demo, False, tissue), demo)]
    trees = {one: shared / "breakhis" / one for one in ("thumbs", "half", "full")}
    real = of_root(trees["thumbs"], cache, (200,), "real tissue", 60)
    of_drawn = of_root("synthetic", cache, (200,), "drawn tissue", 60)
    labels = pd.read_csv(shared / "external" / "ucsb" / "labels.csv")
    ucsb = {UCSB: labels.assign(root=str(shared / "external" / "ucsb"))}
    found = [(read_sample("drawn tissue, random weights", demo, False, tissue | real), demo)]
    for name, one, squeeze, other in (
        ("drawn tissue", drawn, False, tissue | real),
        ("200X sample", settings("thumbs", trees["thumbs"], 200), True,
         of_root(trees["full"], cache, (40, 100, 400)) | of_drawn | ucsb),
        ("100X fields", settings("half", trees["half"], 100), False,
         of_root(trees["half"], cache, (40, 200, 400)) | of_drawn | ucsb),
    ):  # fmt: skip
        found.append((read_sample(name, one, squeeze, other), one))
    return found


# --- methods: (training features, labels, cases) -> a function of features, higher for what is more foreign ---


class Fitted(NamedTuple):
    """One method on one training set."""

    score: Callable[[np.ndarray], np.ndarray]
    left_out: Callable[[], np.ndarray]  # (n,) scores of the training images by a fit that did not see their case


def nearest_cases(k: int, unit: bool) -> Callable[..., Fitted]:
    """The mean distance to the nearest image of each of the k nearest cases; unit: of vectors of length 1."""

    def fit(x: np.ndarray, labels: np.ndarray, cases: np.ndarray) -> Fitted:
        mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        prepare = (lambda x: normalize((x - mean) / deviation)) if unit else (lambda x: (x - mean) / deviation)
        known, (names, case) = prepare(x), np.unique(cases, return_inverse=True)

        def score(x: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
            distances = pairwise_distances(prepare(x), known)
            distances = distances**2 / 2 if unit else distances
            per_case = np.stack([distances[:, case == at].min(axis=1) for at in range(len(names))], axis=1)
            if own is not None:
                per_case[np.arange(len(x)), own] = np.inf
            return np.sort(per_case, axis=1)[:, : min(k, len(names) - 1)].mean(axis=1)

        return Fitted(score, lambda: score(x, case))

    return fit


def cross_fitted(fit_score: Callable[..., Callable[[np.ndarray], np.ndarray]]) -> Callable[..., Fitted]:
    """A method without neighbours: its left-out scores come from five inner folds of cases."""

    def fit(x: np.ndarray, labels: np.ndarray, cases: np.ndarray) -> Fitted:
        def left_out() -> np.ndarray:
            scores = np.zeros(len(x))
            for rest, held_out in case_folds(labels, cases):
                scores[held_out] = fit_score(x[rest], labels[rest], cases[rest])(x[held_out])
            return scores

        return Fitted(fit_score(x, labels, cases), left_out)

    return fit


def head_logits(x: np.ndarray, labels: np.ndarray, cases: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Logits of the package's own head."""
    fitted = head.fit_logistic(x, labels, head.case_weights(labels, cases), 2, config.Head(epochs=1).C)
    return lambda x: (x - fitted.mean) / np.maximum(np.sqrt(fitted.variance), 1e-7) @ fitted.kernel + fitted.bias


def max_softmax(x: np.ndarray, labels: np.ndarray, cases: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """1 minus the highest probability: Hendrycks and Gimpel 2017."""
    logits = head_logits(x, labels, cases)
    return lambda x: 1 - special.softmax(logits(x), axis=1).max(axis=1)


def energy(x: np.ndarray, labels: np.ndarray, cases: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Minus the log of the summed exponentials of the logits: Liu et al. 2020."""
    logits = head_logits(x, labels, cases)
    return lambda x: -special.logsumexp(logits(x), axis=1)


def mahalanobis(x: np.ndarray, labels: np.ndarray, cases: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """To the nearer class mean, one Ledoit-Wolf covariance of both: Lee et al. 2018."""
    scaler = StandardScaler().fit(x)
    z = scaler.transform(x)
    means = [z[labels == label].mean(axis=0) for label in np.unique(labels)]
    fitted = LedoitWolf(assume_centered=True).fit(
        np.concatenate([z[labels == label] - mean for label, mean in zip(np.unique(labels), means, strict=True)])
    )
    return lambda x: np.min([fitted.mahalanobis(scaler.transform(x) - mean) for mean in means], axis=0)


def vim(x: np.ndarray, labels: np.ndarray, cases: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The part outside the principal space, scaled to the logits, minus energy: Wang et al. 2022."""
    scaler, logits = StandardScaler().fit(x), head_logits(x, labels, cases)
    principal = PCA(n_components=min(len(x) // 4, 128), svd_solver="covariance_eigh").fit(scaler.transform(x))

    def residual(x: np.ndarray) -> np.ndarray:
        z = scaler.transform(x)
        return np.linalg.norm(z - principal.inverse_transform(principal.transform(z)), axis=1)

    alpha = logits(x).max(axis=1).mean() / residual(x).mean()
    return lambda x: alpha * residual(x) - special.logsumexp(logits(x), axis=1)


METHODS = {f"nearest cases, k = {k}": nearest_cases(k, True) for k in (1, 3, 5, 10)}
METHODS |= {f"nearest cases, not normalised, k = {k}": nearest_cases(k, False) for k in (1, 5)}
METHODS |= {"Mahalanobis": cross_fitted(mahalanobis), "ViM": cross_fitted(vim), "energy": cross_fitted(energy),
            "maximum softmax": cross_fitted(max_softmax)}  # fmt: skip


def case_folds(labels: np.ndarray, cases: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rest, held out) rows of five folds of cases, stratified by label."""
    return list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(cases, labels, cases))


# --- measured ---


def case_weights(cases: np.ndarray) -> np.ndarray:
    """(n,) 1 for each case in sum."""
    _, case, n = np.unique(cases, return_inverse=True, return_counts=True)
    return 1 / n[case]


def measure(sample: Sample, known: np.ndarray, foreign: np.ndarray) -> pd.DataFrame:
    """A row per method and kind of image: AUROC against held-out images, and the shares refused."""
    cases, labels = sample.images["case"].to_numpy(), (sample.images["label"] == "malignant").to_numpy().astype(int)
    subtypes, others = sample.images["subtype"].to_numpy(), sample.foreign
    runs = [("", np.zeros(len(cases), bool))] + [
        (one, np.isin(cases, cases[subtypes == one])) for one in np.unique(subtypes)
    ]
    rows = []
    for method, fit in METHODS.items():
        for without, is_out in runs:  # nothing, or every case of one subtype
            for rest, held_out in case_folds(labels, cases):
                rest, held_out = rest[~is_out[rest]], held_out[~is_out[held_out]]
                if len(np.unique(labels[rest])) < 2:
                    continue
                fitted = fit(known[rest], labels[rest], cases[rest])
                # A fold is a detector of its own: its scores are centred on its held-out images before they are pooled.
                own = fitted.score(known[held_out])
                limits = np.full(len(QUANTILES), np.nan)
                if not without:
                    weights = case_weights(cases[rest])
                    limits = np.quantile(fitted.left_out(), QUANTILES, weights=weights, method="inverted_cdf")
                new = np.flatnonzero(
                    ~others["case"].isin(set(cases[rest]))
                    & (others["case"].isin(set(cases[held_out])) | ~others["case"].isin(set(cases)))
                )
                parts = [("held out", known[held_out], cases[held_out])]
                if without:
                    at = np.flatnonzero(subtypes == without)
                    parts.append((f"subtype {without}", known[at], cases[at]))
                else:
                    kinds = others["kind"].to_numpy()[new]
                    for kind in others["kind"].unique():
                        at = new[kinds == kind]
                        parts.append((kind, foreign[at], others["case"].to_numpy()[at]))
                for kind, queries, unit in parts:
                    if not len(queries):
                        continue
                    scores = fitted.score(queries)
                    columns = {"method": method, "without": without, "kind": kind, "unit": unit}
                    columns["score"] = (scores - own.mean()) / own.std()
                    if not without:
                        columns |= {f"refused_{q}": scores > limit for q, limit in zip(QUANTILES, limits, strict=True)}
                    rows.append(pd.DataFrame(columns))
    scores = pd.concat(rows, ignore_index=True)
    found = []
    for (method, without), table in scores.groupby(["method", "without"], sort=False):
        held = table[table["kind"] == "held out"]
        for kind, of_kind in table.groupby("kind", sort=False):
            if without and kind == "held out":
                continue
            row = {
                "sample": sample.name,
                "method": method,
                "kind": kind,
                "n_images": of_kind["unit"].size,
                "n_cases": of_kind["unit"].nunique(),
            }
            row |= rates(of_kind)
            found.append(row | (auroc_by_case(held, of_kind) if kind != "held out" else {}))
    return pd.DataFrame(found)


def rates(table: pd.DataFrame) -> dict[str, float]:
    """The share refused at each quantile, and its 95 % interval over cases at the package's."""
    per_case, row = table.groupby("unit"), {}
    for q in QUANTILES:
        row[f"refused_{q}"] = table[f"refused_{q}"].mean()
    sums, counts = per_case[f"refused_{QUANTILE}"].sum().to_numpy(), per_case.size().to_numpy()
    if len(sums) >= 5:
        drawn = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
        row["low"], row["high"] = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return row


def auroc_by_case(held: pd.DataFrame, foreign: pd.DataFrame) -> dict[str, float]:
    """AUROC of foreign against held-out cases, each with its mean score, and an interval over cases; NaN below five."""
    one, other = (table.groupby("unit")["score"].mean().to_numpy() for table in (held, foreign))
    wins = (other[:, None] > one).astype(float) + 0.5 * (other[:, None] == one)
    row = {"auroc": wins.mean(), "auroc_low": np.nan, "auroc_high": np.nan}
    if min(wins.shape) >= 5:
        rng = np.random.default_rng(0)
        drawn = [
            wins[np.ix_(rng.integers(len(other), size=len(other)), rng.integers(len(one), size=len(one)))].mean()
            for _ in range(2000)
        ]
        row["auroc_low"], row["auroc_high"] = np.quantile(drawn, [0.025, 0.975])
    return row


def score_ucsb(sample: Sample, known: np.ndarray, foreign: np.ndarray, labels: pd.DataFrame) -> list[dict[str, object]]:
    """How many of the other laboratory's fields each method refuses, and how many of the rest are right."""
    at = np.flatnonzero(sample.foreign["kind"] == UCSB)
    truth = labels.set_index("file")["label"].loc[sample.foreign["name"].iloc[at]].to_numpy() == "malignant"
    y, cases = (sample.images["label"] == "malignant").to_numpy().astype(int), sample.images["case"].to_numpy()
    right = (head_logits(known, y, cases)(foreign[at]).argmax(axis=1) == 1) == truth
    found = []
    for method, fit in METHODS.items():
        fitted = fit(known, y, cases)
        limit = np.quantile(fitted.left_out(), QUANTILE, weights=case_weights(cases), method="inverted_cdf")
        refused = fitted.score(foreign[at]) > limit
        row = {"sample": sample.name, "method": method, "n_images": len(at), "refused": refused.sum()}
        row |= {"right_of_all": right.sum(), "kept": (~refused).sum(), "right_of_kept": right[~refused].sum()}
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder with breakhis/thumbs, half and full, and external/ucsb")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--samples", nargs="*", help="names of samples to measure; all by default")
    parser.add_argument("--extract-only", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    devices.prepare(deterministic=True)
    found, ucsb = [], []
    for sample, settings in read_samples(arguments.shared, arguments.weights, arguments.cache):
        if arguments.samples and sample.name not in arguments.samples:
            continue
        outputs = []
        for pixels in (sample.pixels, sample.foreign_pixels):
            hashes = np.array([png.pixel_sha256(one) for one in pixels])
            outputs.append(features.backbone_features(settings, hashes, pixels, np.arange(len(pixels))))
        print(sample.name, *(one.shape for one in outputs), flush=True)
        if not arguments.extract_only:
            found.append(measure(sample, outputs[0], outputs[1]))
            if (sample.foreign["kind"] == UCSB).any():
                ucsb += score_ucsb(
                    sample, outputs[0], outputs[1], pd.read_csv(arguments.shared / "external" / "ucsb" / "labels.csv")
                )
    if found:
        pd.concat(found).to_csv(arguments.out / "refusal.csv", index=False, float_format="%.4f", lineterminator="\n")
        pd.DataFrame(ucsb).to_csv(arguments.out / "refusal_ucsb.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main()

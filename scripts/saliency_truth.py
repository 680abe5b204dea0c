"""Does heat lie where the label is made? On drawn tissue the truth is known: new cases, one trained run.

    python scripts/saliency_truth.py runs/demo-0-0-* [--out docs] [--per_subtype 10]

Needs a run of two classes that was trained on synthetic tissue. Prints JSON, writes saliency.png and .svg.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from breakhis_cls import config, names
from breakhis_cls.errors import DONE, exits_cleanly

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FIRST_CASE = 91_001  # no case of the training tree
N_DRAWS = 5  # of random heads


class Arguments(config.Section):
    """What the script takes."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run on synthetic tissue."""
    out: Path = Path("docs")
    """Folder of the figure."""
    per_subtype: int = 10
    """Malignant cases that are drawn of each of the four subtypes, an image at each magnification."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Draw, measure, print, and save the figure."""
    given = config.parse_arguments(Arguments, argv, "saliency_truth", "Heat against drawn nuclei.")
    settings = config.load_config(given.run / "config.yaml")
    from breakhis_cls.modeling import devices

    devices.prepare(settings.run.deterministic)
    from breakhis_cls.modeling import gradcam, network
    from breakhis_cls.reports import plots

    model = network.load_run_model(given.run)
    table, pixels, masks = _drawn(given.per_subtype, settings)
    named = (model.predict(pixels, verbose=0)[:, 1] >= 0.5).astype(float)
    models = {"trained": [model]} | {
        "head randomised": [gradcam.randomize_weights(model, 0.0, seed) for seed in range(N_DRAWS)],
        "everything randomised": [gradcam.randomize_weights(model, 1.0, seed) for seed in range(N_DRAWS)],
    }
    ranked = {name: _ranked(some, pixels, masks) for name, some in models.items()}
    ranked["trained, nuclei of another image"] = _ranked([model], pixels, _others(table, masks))
    found = {name: _over_cases(values, table["case"]) for name, values in ranked.items()}
    print(json.dumps({"named_malignant": float(named.mean()), "n_images": len(table), "share_ranked": found}, indent=2))
    plots.save(_figure(found), given.out, "saliency")
    return DONE


def _drawn(per_subtype: int, settings: config.Config) -> tuple[pd.DataFrame, np.ndarray, list[np.ndarray]]:
    """Malignant images of cases that no run has seen, as the network is fed, and the nuclei that make their label."""
    import numpy as np
    import pandas as pd

    from breakhis_cls import parallel
    from breakhis_cls.pipeline import pixel_store
    from breakhis_cls.synthetic import tree

    codes = [code for code, (_, label) in names.SUBTYPES.items() if label == "malignant"]
    cases = [(code, FIRST_CASE + at) for at, code in enumerate(per_subtype * codes)]
    files = [f"SOB_M_{code}-14-{case}-{zoom}-001.png" for code, case in cases for zoom in settings.data.magnifications]

    def draw(file: str) -> tuple[np.ndarray, np.ndarray]:
        return pixel_store.fit_image(tree.draw_image(file)[0], settings.image), tree.epithelial_mask(file)

    fitted, masks = zip(*parallel.map_in_threads(draw, files, "drawing new cases"), strict=True)
    return pd.DataFrame([names.parse_image_name(file)._asdict() for file in files]), np.stack(fitted), list(masks)


def _ranked(models: list[Any], pixels: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """(n,) how well heat for malignant ranks the mask's pixels, mean over models."""
    import numpy as np

    from breakhis_cls.modeling import gradcam

    malignant = np.ones(len(pixels), int)
    found = []
    for model in models:
        evidence = gradcam.class_evidence(model, pixels, malignant)
        heats = [gradcam.upsample_heat(of_image, masks[0].shape) for of_image in evidence]
        found.append([gradcam.localization_auc(heat, mask) for heat, mask in zip(heats, masks, strict=True)])
    return np.mean(found, axis=0)


def _others(table: pd.DataFrame, masks: list[np.ndarray]) -> list[np.ndarray]:
    """Each image gets the nuclei of the next case of its subtype at its magnification: what luck would give."""
    others = list(masks)
    for _, rows in table.groupby(["subtype", "magnification"]):
        for at, other in zip(rows.index, [*rows.index[1:], rows.index[0]], strict=True):
            others[at] = masks[other]
    return others


def _over_cases(values: np.ndarray, case: pd.Series) -> dict[str, Any]:
    """Mean over images with its 95 % interval over cases."""
    import numpy as np
    import pandas as pd

    from breakhis_cls.evaluation import bootstrap

    known = np.isfinite(values)
    codes, cases = pd.factorize(case[known])
    sums, counts = np.bincount(codes, values[known]), np.bincount(codes)
    weights = bootstrap.case_weights(len(cases), bootstrap.N_RESAMPLES, 0)
    groups = np.zeros(len(cases), int)  # all are malignant
    interval = bootstrap.bootstrap_interval(
        lambda drawn: (drawn @ sums) / (drawn @ counts), weights, groups, len(cases)
    )
    mean = float(values[known].mean())
    return {"value": mean, "low": interval.low, "high": interval.high, "n": int(known.sum()), "cases": len(cases)}


def _figure(found: dict[str, dict[str, Any]]) -> Any:
    from breakhis_cls.reports import plots

    figure, axes = plots.new_figure(plots.PAGE_IN, 1.9)
    ax = axes[0, 0]
    for at, one in enumerate(found.values()):
        ax.plot([one["low"], one["high"]], [at, at], color=plots.BLUE, linewidth=2)
        ax.plot(one["value"], at, "o", color=plots.BLACK, markersize=5)
        told = f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
        ax.annotate(
            told, (1.02, at), xycoords=("axes fraction", "data"), va="center", fontsize=8, annotation_clip=False
        )
    ax.axvline(0.5, color=plots.GREY, linewidth=0.8, linestyle="--")
    ax.set(yticks=range(len(found)), yticklabels=list(found), ylim=(len(found) - 0.5, -0.5))
    ax.set_xlabel("chance that a pixel of a telling nucleus is hotter than another (dashed: luck)")
    trained, forgot = found["trained"], found["head randomised"]
    finding = (
        f"Drawn tissue, {trained['cases']} new malignant cases: a pixel of a telling nucleus is the hotter one with "
        f"chance {trained['value']:.3f}, and {forgot['value']:.3f} once the head has forgotten"
    )
    plots.add_title(figure, finding)
    return figure


if __name__ == "__main__":
    sys.exit(main())

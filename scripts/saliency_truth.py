"""Does heat lie where the label is made? On synthetic tissue the truth is known: new cases, one trained run.

    python scripts/saliency_truth.py runs/demo-0-0-* [--out docs] [--per-subtype 10]

Needs a run of two classes that was trained on synthetic tissue. Prints JSON, writes saliency.png and .svg.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from breakhis_cls import config, names, parallel
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.evaluation import bootstrap
from breakhis_cls.modeling import devices
from breakhis_cls.pipeline import pixel_store
from breakhis_cls.reports import plots, text
from breakhis_cls.synthetic import tree

FIRST_CASE = 91_001  # no case of the training tree
N_DRAWS = 5  # of random heads


class Arguments(config.Section):
    run: Annotated[Path, config.Positional("RUN")]
    """A finished run on synthetic tissue."""
    out: Path = Path("docs")
    """Folder of the figure."""
    per_subtype: int = 10
    """Malignant cases that are drawn of each of the four subtypes, an image at each magnification."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Draw, measure, print, and save the figure."""
    asked = config.parse_arguments(Arguments, argv, "saliency_truth", "Compare heat with drawn nuclei.")
    settings = config.load_config(asked.run / "config.yaml")
    devices.prepare(settings.run.deterministic)
    from breakhis_cls.modeling import gradcam, network  # imports TensorFlow

    model = network.load_run_model(asked.run)

    # --- malignant images of cases that no run has seen, and the nuclei that make their label ---
    codes = [code for code, (_, label) in names.SUBTYPES.items() if label == "malignant"]
    cases = [(code, FIRST_CASE + at) for at, code in enumerate(asked.per_subtype * codes)]
    files = [f"SOB_M_{code}-14-{case}-{zoom}-001.png" for code, case in cases for zoom in settings.data.magnifications]

    def draw(file: str) -> tuple[np.ndarray, np.ndarray]:
        drawing = tree.draw_image(file)
        return pixel_store.fit_image(drawing.rgb, settings.image), drawing.epithelium

    drawn = list(parallel.map_in_threads(draw, files, "drawing new cases"))
    pixels, masks = np.stack([image for image, _ in drawn]), [mask for _, mask in drawn]
    table = pd.DataFrame([names.parse_image_name(file)._asdict() for file in files])

    # What chance would give: each image gets the nuclei of the next case of its subtype at its magnification.
    other_masks = list(masks)
    for _, rows in table.groupby(["subtype", "magnification"]):
        for at, other in zip(rows.index, np.roll(rows.index, -1), strict=True):
            other_masks[at] = masks[other]

    # --- how well heat for malignant ranks the mask's pixels: mean over models and images, 95 % interval over cases ---
    def localize(models: list[Any], masks: list[np.ndarray]) -> dict[str, Any]:
        scores = []
        for one in models:
            evidence = gradcam.class_evidence(one, pixels, np.ones(len(pixels), int))
            heats = [gradcam.upsample_heat(image, masks[0].shape) for image in evidence]
            scores.append([gradcam.localization_auc(heat, mask) for heat, mask in zip(heats, masks, strict=True)])
        auc = np.mean(scores, axis=0)
        known = np.isfinite(auc)  # the image has epithelial nuclei
        codes, cases = pd.factorize(table["case"][known])
        sums, counts = np.bincount(codes, auc[known]), np.bincount(codes)
        weights = bootstrap.case_weights(len(cases), bootstrap.N_RESAMPLES, 0)
        one_group = np.zeros(len(cases), int)  # all are malignant
        interval = bootstrap.bootstrap_interval(lambda w: (w @ sums) / (w @ counts), weights, one_group, len(cases))
        bounds = {"low": interval.low, "high": interval.high}
        return {"value": float(auc[known].mean()), **bounds, "n": int(known.sum()), "cases": len(cases)}

    def draw_models(share: float) -> list[Any]:
        return [gradcam.randomize_weights(model, share, seed) for seed in range(N_DRAWS)]

    result = {
        "trained": localize([model], masks),
        "head randomised": localize(draw_models(0.0), masks),
        "everything randomised": localize(draw_models(1.0), masks),
        "trained, nuclei of another image": localize([model], other_masks),
    }
    is_malignant = model.predict(pixels, verbose=0)[:, 1] >= 0.5
    summary = {"named_malignant": float(is_malignant.mean()), "n_images": len(table), "share_ranked": result}
    print(json.dumps(summary, indent=2))

    # --- the figure: a row for each model with its mean and interval ---
    figure, axes = plots.new_figure(plots.PAGE_IN, 1.9)
    ax = axes[0, 0]
    for at, one in enumerate(result.values()):
        if one["low"] is not None:  # too few cases
            ax.plot([one["low"], one["high"]], [at, at], color=plots.BLUE, linewidth=2)
        ax.plot(one["value"], at, "o", color=plots.BLACK, markersize=5)
        ax.text(1.02, at, text.estimate(one), transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    ax.axvline(0.5, color=plots.GREY, linewidth=0.8, linestyle="--")
    ax.set(yticks=range(len(result)), yticklabels=list(result), ylim=(len(result) - 0.5, -0.5))
    ax.set_xlabel("AUC: probability that a pixel of an epithelial nucleus is hotter than another (dashed: chance)")
    trained, randomised = result["trained"], result["head randomised"]
    plots.add_title(
        figure,
        f"Synthetic tissue, {trained['cases']} new malignant cases: heat finds epithelial nuclei with AUC "
        f"{trained['value']:.3f}, and {randomised['value']:.3f} with a randomised head",
    )
    plots.save(figure, asked.out, "saliency", titled=True)
    return DONE


if __name__ == "__main__":
    sys.exit(main())

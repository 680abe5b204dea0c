"""Draw Grad-CAM heat maps of a finished run, with a randomisation check. A research tool, not a medical device.

examples:
  breakhis explain runs/binary_200x-0-0-1234abcd
  breakhis explain runs/binary_200x-0-0-1234abcd --n 8 --data.root FOLDER
"""

import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from . import config, files
from .errors import DONE, DataError, RunError, exits_cleanly, list_first

N_CHECKED = 16  # test images of the randomisation check; twelve randomised networks see each of them


class Arguments(config.Section):
    """Arguments of the command."""

    run: Annotated[config.UserPath, config.Positional("RUN")]
    """Folder of a finished run."""
    out: config.UserPath | None = None
    """Output folder; by default `explain` in the run's report folder."""
    n: int = 3
    """Number of images for each outcome (such as false positives) and for each subtype."""
    data_root: config.UserText | None = Field(None, alias="data.root")
    """Folder of the images, if it is not the one in the run's config."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Write heat maps and their check, and print the check's result."""
    arguments = config.parse_arguments(Arguments, argv, "breakhis explain", __doc__)
    folder, facts = explain_run(arguments.run, arguments.out, arguments.n, arguments.data_root)
    print(f"{facts['finding']}\nreport: {folder / 'index.html'}")
    return DONE


def explain_run(
    run: Path, out: Path | None = None, n: int = 4, data_root: str | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write index.html, explain.json and the figures of a finished run; returns their folder and explain.json. Raises
    RunError if the folder is not a finished run, DataError if its images are not where its config says."""
    from .data import dataset as datasets
    from .evaluation import error_analysis, experiments
    from .modeling import devices, head

    # --- the run ---
    if out:
        files.check_folder(out, "--out")
    if (run / "config.yaml").is_file():
        head.check_reads_images(config.load_config(run / "config.yaml"), run)
    for name in ("config.yaml", "predictions.csv", "head.npz" if (run / "head.npz").is_file() else "model.keras"):
        if not (run / name).is_file():
            advice = "finish it with its train command" if run.is_dir() else "name the folder that train printed"
            raise RunError(f"{run} holds no {name}; expected a finished run; {advice}")
    experiment = experiments.group_experiments([experiments.read_source(run)])[0]
    changes = {"data.root": data_root} if data_root else {}
    settings = config.load_config(run / "config.yaml", **changes)
    try:
        dataset = datasets.load_dataset(settings)
    except DataError as error:
        raise DataError(f"the run's images are needed ({error}); name their folder with --data.root") from None

    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    import numpy as np
    import pandas as pd
    from PIL import Image

    from .data.png import decode
    from .modeling import gradcam, network
    from .names import FULL_PX
    from .pipeline.pixel_store import PixelStore
    from .reports import plots_images, saliency_report
    from .reports.plots_saliency import SaliencyImage

    # --- the run's test images ---
    names = experiment.test["file"]
    rows = pd.Index(dataset.images["file"]).get_indexer(names)
    if missing := names[rows < 0].tolist():
        raise DataError(
            f"{len(missing):,} of the run's {len(names):,} test images are not under {dataset.root}; name the folder "
            f"that it was trained on with --data.root. Missing:{list_first(missing)}"
        )
    model = network.load_run_model(run)
    store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
    stored = store.rows[rows]
    test = error_analysis.add_predictions(experiment.test)
    predicted = test["class_index"].to_numpy()

    # --- heat maps of some images, on their originals ---
    examples = saliency_report.select_examples(experiment.test, n)
    shown = sorted({at for kinds in examples.values() for some in kinds.values() for at in some["at"]})
    evidence = gradcam.class_evidence(model, store.array[stored[shown]], predicted[shown])
    images = {}
    for (_, row), of_image in zip(test.iloc[shown].iterrows(), evidence, strict=True):
        rgb = decode(dataset.root / row["file"])
        heat = gradcam.upsample_heat(of_image, rgb.shape[:2], settings.image)
        if rgb.shape[0] == rgb.shape[1]:  # squeezed to a square: show it in its own shape
            rgb, heat = (np.asarray(Image.fromarray(a).resize(FULL_PX, Image.Resampling.BICUBIC)) for a in (rgb, heat))
        images[row["at"]] = SaliencyImage(rgb, heat.clip(0, 1), plots_images.caption(row))

    # --- do heat maps depend on what the network learned? ---
    checked = saliency_report.spread_over_cases(test, N_CHECKED)
    check = gradcam.randomization_check(model, store.array[stored[checked]], predicted[checked], settings.run.seed)

    folder = out or settings.run.reports / run.name / "explain"
    return folder, saliency_report.write_saliency_report(folder, experiment, examples, images, check)


if __name__ == "__main__":
    sys.exit(main())

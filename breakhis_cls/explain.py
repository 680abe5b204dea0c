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
from .errors import DONE, DataError, exits_cleanly, list_first

N_CHECKED = 16  # test images of the randomisation check; twelve randomised networks see each of them


class Arguments(config.Section):
    """Arguments of the command."""

    run: Annotated[config.UserPath, config.Positional("RUN")]
    """Folder of a finished run."""
    out: config.UserPath | None = None
    """Output folder; by default `explain` in the run's report folder."""
    n: int = 3
    """Number of images for each outcome, such as false positives."""
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
    ConfigError, DataError or ModelError if the folder is not a finished run, or its images are not where its config
    says."""
    from .data import dataset as datasets
    from .evaluation import error_analysis, experiments
    from .modeling import devices

    # --- the run ---
    if out:
        files.check_folder(out, "--out")
    experiment = experiments.group_experiments([experiments.read_source(run)])[0]
    settings = config.load_config(run / "config.yaml", **({"data.root": data_root} if data_root else {}))
    dataset = datasets.load_dataset(settings)

    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    import pandas as pd

    from .data.png import decode
    from .modeling import gradcam, network
    from .pipeline.pixel_store import PixelStore
    from .reports import plots_images, saliency_report

    # --- its test images ---
    test = error_analysis.add_predictions(experiment.test)
    rows = pd.Index(dataset.images["file"]).get_indexer(test["file"])
    if missing := test.loc[rows < 0, "file"].tolist():
        raise DataError(
            f"{len(missing):,} of the run's {len(test):,} test images are not under {dataset.root}; name the folder "
            f"that it was trained on with --data.root. Missing:{list_first(missing)}"
        )
    model = network.load_run_model(run)
    store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
    stored, predicted = store.rows[rows], test["class_index"].to_numpy()

    # --- heat maps of some images, on their originals ---
    examples = saliency_report.select_examples(experiment.test, n)
    shown = sorted(at for some in examples.values() for at in some["at"])
    evidence = gradcam.class_evidence(model, store.array[stored[shown]], predicted[shown])
    images = {}
    for at, cells in zip(shown, evidence, strict=True):
        rgb = decode(dataset.root / test["file"].iloc[at])
        heat = gradcam.upsample_heat(cells, rgb.shape[:2], settings.image)
        images[at] = saliency_report.SaliencyImage(rgb, heat, plots_images.caption(test.iloc[at]))

    # --- do heat maps depend on what the network learned? ---
    checked = saliency_report.spread_over_cases(test, N_CHECKED)
    check = gradcam.randomization_check(model, store.array[stored[checked]], predicted[checked], settings.run.seed)

    folder = out or settings.run.reports / run.name / "explain"
    return folder, saliency_report.write_saliency_report(folder, experiment, examples, images, check)


if __name__ == "__main__":
    sys.exit(main())

"""What a run's model looked at: `python -m breakhis_cls.explain RUN [--out DIR] [--n N]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from . import config
from .config import Section
from .errors import DONE, DataError, RunError, exits_cleanly, list_first

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from .data.dataset import Dataset
    from .evaluation.experiments import Experiment
    from .reports.plots_saliency import SaliencyImage

N_CHECKED = 16  # test images of the randomisation check; twelve random networks see each of them


class Arguments(Section):
    """What the command takes."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run's folder."""
    out: Path | None = None
    """Folder to write; by default `explain` in the run's report folder."""
    n: Annotated[int, tyro.conf.arg(metavar="N")] = 4
    """Images of each kind of answer and of each subtype."""
    data_root: str | None = None
    """Where the images are now, if not where the run's config says."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Write heat maps, their sanity check and the map of the test set, and say where they lie."""
    given = config.parse_arguments(
        Arguments, argv, "breakhis explain", "What a run's model looked at. A research tool, not a medical device."
    )
    folder, facts = explain(given.run, given.out, given.n, given.data_root)
    print(f"{facts['finding']}\npage: {folder / 'index.html'}")
    return DONE


def explain(
    run: Path, out: Path | None = None, n: int = 4, data_root: str | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write index.html, explain.json and the figures about a finished run; returns their folder and the numbers.

    Raises RunError where the folder is no finished run, DataError where its images are not where its config says.
    """
    from .evaluation import experiments
    from .modeling import devices

    experiment = experiments.group_experiments([experiments.read_source(_finished(run))])[0]
    settings = config.load_config(run / "config.yaml")
    if data_root:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"root": data_root})})
    material = _material(settings)
    rows = _rows_of(experiment, material)
    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    from .modeling import gradcam, network
    from .pipeline.pixel_store import PixelStore
    from .reports import plots_images, saliency_report

    model = network.load_run_model(run)
    store = PixelStore.open(material.images, material.root, settings.image, settings.data.cache)
    fields = store.rows[rows]
    test, shown = plots_images.add_predictions(experiment.test), saliency_report.select_examples(experiment.test, n)
    named, some = test["class_index"].to_numpy(), saliency_report.spread_over_cases(test, N_CHECKED)
    evidence = gradcam.class_evidence(model, store.array[fields[shown.at]], named[shown.at])
    sanity = gradcam.randomization_check(model, store.array[fields[some]], named[some], settings.run.seed)
    features = _features(settings, model, material.images["pixel_sha256"].to_numpy()[rows], store.array, fields)
    seen = _seen(test.iloc[shown.at], evidence, material.root, settings.image)
    folder = out or settings.run.reports / run.name / "explain"
    return folder, saliency_report.write_saliency_report(folder, experiment, shown, seen, sanity, features)


def _features(settings: config.Config, model, hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(n, d) pooled features: of a frozen backbone those that are kept, else of the run's own."""
    from .modeling import features
    from .pipeline import batches

    if settings.head.epochs and (settings.tune.part == "none" or not settings.tune.epochs):
        return features.backbone_features(settings, hashes, pixels, index, (0,))[:, 0]
    return model.get_layer("backbone").predict(batches.ordered_batches(pixels, index, features.BATCH_SIZE), verbose=0)


def _seen(rows: pd.DataFrame, evidence: np.ndarray, root: Path, image: config.Image) -> dict[int, SaliencyImage]:
    """The originals with their heat, by place in the test; one that was squeezed to a square is restored."""
    import numpy as np
    from PIL import Image

    from .data.png import decode
    from .modeling import gradcam
    from .names import FULL_PX
    from .reports import plots_images
    from .reports.plots_saliency import SaliencyImage

    found = {}
    for (_, row), of_row in zip(rows.iterrows(), evidence, strict=True):
        rgb = decode(root / row["file"])
        pair = rgb, gradcam.upsample_heat(of_row, rgb.shape[:2], image)
        if rgb.shape[0] == rgb.shape[1]:
            pair = [np.asarray(Image.fromarray(one).resize(FULL_PX, Image.Resampling.BICUBIC)) for one in pair]
        found[row["at"]] = SaliencyImage(pair[0], pair[1].clip(0, 1), plots_images.caption(row))
    return found


def _material(settings: config.Config) -> Dataset:
    from .data import dataset as materials

    try:
        return materials.load_dataset(settings)
    except DataError as error:
        raise DataError(f"the run's images are needed ({error}); --data_root names the folder they are in") from None


def _finished(run: Path) -> Path:
    model = "head.npz" if (run / "head.npz").is_file() else "model.keras"
    for name in ("config.yaml", "predictions.csv", model):
        if not (run / name).is_file():
            advice = "finish it with its train command" if run.is_dir() else "name the folder that train printed"
            raise RunError(f"{run} holds no {name}; expected a finished run; {advice}")
    return run


def _rows_of(experiment: Experiment, material: Dataset) -> np.ndarray:
    """Where each test image of the run is in the material; DataError where it is not there."""
    import pandas as pd

    files = experiment.test["file"]
    rows = pd.Index(material.images["file"]).get_indexer(files)
    missing = files[rows < 0].tolist()
    if missing:
        raise DataError(
            f"{len(missing):,} of the run's {len(files):,} test images are not under {material.root}; name the folder "
            f"that it was trained on with --data_root. Missing:{list_first(missing)}"
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())

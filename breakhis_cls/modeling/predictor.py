"""A trained model that answers for single images: class, calibrated probability, or why it refuses."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax

from .. import config
from ..data import png, splits
from ..errors import ConfigError, DataError, ModelError
from ..pipeline import pixel_store
from . import devices
from .head import head_settings
from .reference import Reference, load_reference

FEW = 8  # images; the page asks for one at a time


class Predictor(NamedTuple):
    """What `predict`, `serve` and `export` share. `reference` is None for a run that left none: nothing is refused."""

    settings: config.Config
    classes: tuple[str, ...]
    model: Any  # keras.Model: images -> probabilities
    joint: Any  # keras.Model: images -> {"probabilities", "features"}, those of the frozen backbone
    combined: Any  # the same, side by side: (n, n_classes + d)
    reference: Reference | None
    quantile: float

    def compute(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, height_px, width_px, 3) uint8 -> raw probabilities (n, n_classes) and features (n, d)."""
        import keras

        from .features import predict_rows

        n_classes = len(self.classes)
        if len(pixels) < FEW:  # predict_rows fills up a whole batch
            combined = keras.ops.convert_to_numpy(self.combined(pixels, training=False))
        else:
            combined = predict_rows(self.combined, pixels, np.arange(len(pixels)))
        return combined[:, :n_classes], combined[:, n_classes:]

    def predict(self, pixels: np.ndarray, magnification: int | None = None) -> tuple[pd.DataFrame, np.ndarray]:
        """A row for each of (n, height_px, width_px, 3) uint8 images, and their features (n, d).

        Columns p_<class> (raw), predicted, probability (calibrated, of the predicted class), refused, refusal_reason,
        distance_percentile, nearest_<class> (a training file).
        """
        raw, features = self.compute(pixels)
        at, reference = raw.argmax(axis=1), self.reference
        temperature = reference.about["temperature"] if reference else 1.0
        calibrated = softmax(np.log(np.clip(raw, 1e-12, 1)) / temperature, axis=1)
        columns: dict[str, Any] = {f"p_{name}": raw[:, column] for column, name in enumerate(self.classes)}
        columns |= {"predicted": np.asarray(self.classes)[at], "probability": calibrated[np.arange(len(at)), at]}
        if not reference:
            return pd.DataFrame(
                columns | {"refused": None, "refusal_reason": None, "distance_percentile": None}
            ), features
        distance, trained = reference.distance(features), sorted(set(reference.magnifications.tolist()))
        reason = np.where(
            distance > reference.threshold(self.quantile),
            f"farther from the training images than {100 * self.quantile:g} % of those are from other cases", "",
        )  # fmt: skip
        if magnification and magnification not in trained:
            reason[:] = f"the model was trained at {'X, '.join(map(str, trained))}X, not at {magnification}X"
        columns |= {"refused": reason != "", "refusal_reason": reason}
        columns["distance_percentile"] = reference.percentile(distance).round(2)
        for name in self.classes:
            rows = reference.nearest(features, name)
            columns[f"nearest_{name}"] = [reference.files[row[0]] if row else "" for row in rows]
        return pd.DataFrame(columns), features


def read_field(path: Path, image: config.Image) -> np.ndarray | str:
    """An image file as the network wants it, (height_px, width_px, 3) uint8; or why it cannot be read."""
    try:
        return pixel_store.fit_image(png.decode_any(path), image)
    except (OSError, ValueError, DataError, Image.DecompressionBombError) as error:
        return str(error)


def open_predictor(model_path: Path | str, quantile: float = config.REFUSE_BEYOND) -> Predictor:
    """The model of a finished run's folder, or a model.keras with its settings beside it or within.

    Raises ModelError where model, settings or reference cannot be read or do not belong together.
    """
    # --- settings: of the same size and classes, images may be fitted in other ways ---
    model_path = Path(model_path)
    folder, file = model_path, model_path / "model.keras"
    if not model_path.is_dir():
        folder, file = model_path.parent, model_path
    settings = config.Config()
    if (folder / "config.yaml").is_file():
        settings = config.load_config(folder / "config.yaml")
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if config.IN_MODEL not in archive.namelist():
                expected = "name the folder of its run, or put the config.yaml of its run beside it"
                raise ModelError(f"{file} does not say how its images were prepared; {expected}")
            settings = config.parse_config(archive.read(config.IN_MODEL), file)
    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    import keras

    from . import network

    # --- model ---
    model = network.load_run_model(model_path) if model_path.is_dir() else network.load_model(model_path)
    size, classes = settings.image, splits.class_names(settings.data.task, settings.split.protocol)
    is_of = (*model.input_shape[1:3], model.output_shape[-1])
    if is_of != (size.height_px, size.width_px, len(classes)):  # config.yaml was edited
        expected = f"{size.height_px}x{size.width_px} px, {len(classes)} classes"
        raise ConfigError(
            f"the model's input is {is_of[0]}x{is_of[1]} px, {is_of[2]} classes, its settings say {expected}; restore "
            f"the {folder / 'config.yaml'} of its run"
        )

    # --- what its images are compared with ---
    reference = load_reference(model_path)
    if reference and settings.fine_tunes and reference.about["features"] != head_settings(settings):
        raise ModelError(f"the reference of {model_path} was made with other weights or settings; train the run again")
    frozen = model.get_layer("backbone")
    if reference and settings.fine_tunes:
        frozen = network.build_backbone(settings.model, seed=settings.run.seed)
        frozen = keras.Model(frozen.input, frozen.output, name="frozen")
    joint = network.join_outputs(model, frozen)
    outputs = [joint.output["probabilities"], joint.output["features"]]
    combined = keras.Model(joint.input, keras.layers.Concatenate(dtype="float32")(outputs))
    return Predictor(settings, classes, model, joint, combined, reference, quantile)

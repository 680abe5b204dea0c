"""A trained model that answers for single images: class, calibrated probability, or why it refuses."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax

from .. import config
from ..data import splits
from ..errors import ConfigError, ModelError
from . import devices
from .head import head_settings
from .reference import Reference, load_reference

BATCH_SIZE = 32
FEW = 8  # images; the page asks for one at a time


class Predictor(NamedTuple):
    """What `predict`, `serve` and `export` share. `reference` is None for a run that left none: nothing is refused."""

    settings: config.Config
    classes: tuple[str, ...]
    model: Any  # keras.Model: images -> probabilities
    joint: Any  # keras.Model: images -> {"probabilities", "features"}, those of the frozen backbone
    reference: Reference | None
    quantile: float

    def compute(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, height_px, width_px, 3) uint8 -> raw probabilities (n, n_classes) and features (n, d)."""
        n = len(pixels)
        size = BATCH_SIZE if n > FEW else n
        full = pixels[np.pad(np.arange(n), (0, -n % size), mode="edge")]  # every batch in one shape: one graph
        found = [self.joint.predict_on_batch(full[at : at + size]) for at in range(0, len(full), size)]
        probabilities, features = (
            np.concatenate([one[name] for one in found])[:n] for name in ("probabilities", "features")
        )
        return probabilities, features

    def predict(self, pixels: np.ndarray, magnification: int | None = None) -> tuple[pd.DataFrame, np.ndarray]:
        """A row for each of (n, height_px, width_px, 3) uint8 images, and their features (n, d).

        Columns p_<class> (raw), predicted, probability (calibrated, of the predicted class), refused, refusal_reason,
        distance_percentile, nearest_<class> (a training file).
        """
        raw, features = self.compute(pixels)
        at, reference = raw.argmax(axis=1), self.reference
        temperature = reference.about["temperature"] if reference else 1.0
        calibrated = softmax(np.log(np.clip(raw, 1e-12, 1)) / temperature, axis=1)
        table = pd.DataFrame({f"p_{name}": raw[:, column] for column, name in enumerate(self.classes)})
        table = table.assign(predicted=np.asarray(self.classes)[at], probability=calibrated[np.arange(len(at)), at])
        if not reference:
            return table.assign(refused=None, refusal_reason=None, distance_percentile=None), features

        distance, trained = reference.distance(features), sorted(set(reference.magnifications.tolist()))
        too_far = f"farther from the training images than {100 * self.quantile:g} % of those are from other cases"
        reason = np.where(distance > reference.threshold(self.quantile), too_far, "")
        if magnification and magnification not in trained:
            reason[:] = f"the model was trained at {'X, '.join(map(str, trained))}X, not at {magnification}X"
        table["refused"], table["refusal_reason"] = reason != "", reason
        table["distance_percentile"] = reference.percentile(distance).round(2)
        for name in self.classes:
            rows = reference.nearest(features, name)
            table[f"nearest_{name}"] = [reference.files[row[0]] if row else "" for row in rows]
        return table, features


def open_predictor(run: Path, quantile: float = config.REFUSE_BEYOND) -> Predictor:
    """The model of a finished run's folder, or the model.keras in it; ModelError where model, settings or reference
    cannot be read or do not belong together."""
    run = run.parent if run.name == "model.keras" else run
    if not (run / "config.yaml").is_file():
        expected = "the folder of a run, or the model.keras in it, beside its config.yaml"
        raise ModelError(f"{run} is not {expected}; name the folder that train printed")
    settings = config.load_config(run / "config.yaml")
    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    import keras

    from . import network

    model = network.load_run_model(run)
    size, classes = settings.image, splits.class_names(settings.data.task, settings.split.protocol)
    is_of = (*model.input_shape[1:3], model.output_shape[-1])
    if is_of != (size.height_px, size.width_px, len(classes)):  # config.yaml was edited
        expected = f"{size.height_px}x{size.width_px} px, {len(classes)} classes"
        raise ConfigError(
            f"the model's input is {is_of[0]}x{is_of[1]} px, {is_of[2]} classes, its settings say {expected}; restore "
            f"the {run / 'config.yaml'} of its run"
        )

    # --- what its images are compared with ---
    frozen, reference = model.get_layer("backbone"), load_reference(run)
    if reference and settings.fine_tunes:
        if reference.about["features"] != head_settings(settings):
            raise ModelError(f"the reference of {run} was made with other weights or settings; train the run again")
        frozen = network.build_backbone(settings.model, seed=settings.run.seed)
        frozen = keras.Model(frozen.input, frozen.output, name="frozen")
    joint = network.join_outputs(model, frozen)
    joint.jit_compile = devices.jit_compile()
    return Predictor(settings, classes, model, joint, reference, quantile)

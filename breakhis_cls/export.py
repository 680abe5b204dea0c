"""Export a run's model for use without this package, and prove that it answers the same. Research use only.

examples:
  breakhis export runs/binary_200x-0-0-1234abcd --to onnx --out exported
  breakhis export runs/binary_200x-0-0-1234abcd --to litert --out exported --data.root FOLDER

The folder holds the model, contract.json (how to prepare an image and read the answer), reference.npz (to refuse), a
model card, and parity.json: all test images of the run, scored by the exported file in its own runtime.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from . import config, files
from .errors import ANSWER_IS_NO, DONE, ConfigError, DataError, ModelError, RunError, exits_cleanly


class Format(NamedTuple):
    """A format of `keras.Model.export`: its name there, the file, the module that scores it, and what else it needs."""

    keras_name: str
    file: str
    runtime: str
    needs: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format("onnx", "model.onnx", "onnxruntime", ("onnx", "tf2onnx")),
    "saved_model": Format("tf_saved_model", "saved_model", "tensorflow"),
    "litert": Format("litert", "model.tflite", "ai_edge_litert"),
}


class Arguments(config.Section):
    """Arguments of the command."""

    run: Annotated[config.UserPath, config.Positional("RUN")]
    """Folder of a finished run."""
    to: Literal["onnx", "saved_model", "litert"] = "onnx"
    """Format: ONNX, TensorFlow's SavedModel, or LiteRT (TensorFlow Lite)."""
    out: config.UserPath = Path("exported")
    """New folder to write."""
    quantile: config.Quantile = config.REFUSE_BEYOND
    """Share of the training images, their own case left out, within whose distance the contract accepts an image."""
    data_root: config.UserText | None = Field(None, alias="data.root")
    """Folder of the images, if it is not the one in the run's config."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Write the exported folder, and print whether the exported file answers as the run did."""
    arguments = config.parse_arguments(Arguments, argv, "breakhis export", __doc__)
    run, to, out = arguments.run, arguments.to, arguments.out
    form = FORMATS[to]
    if missing := [name for name in (form.runtime, *form.needs) if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"--to {to} needs {', '.join(missing)}: pip install -c constraints.txt -e '.[export]'")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ConfigError(f"--out {out} exists and is not empty; name a new folder")
    if not (run / "metrics.json").is_file():
        raise RunError(f"{run} is not a finished run; name the folder that train printed")

    import pandas as pd

    from .data import dataset as datasets
    from .evaluation import predictions
    from .modeling.predictor import open_predictor
    from .pipeline.pixel_store import GLASS, PixelStore
    from .train import TrainedRun

    # --- the run's test images, as its network saw them ---
    settings = config.load_config(run / "config.yaml")
    if arguments.data_root:
        settings = config.change_settings(settings, {"data.root": arguments.data_root})
    try:
        dataset = datasets.load_dataset(settings)
    except DataError as error:
        raise DataError(f"the run's images are needed ({error}); name their folder with --data.root") from None
    store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
    test = predictions.select_part(predictions.read_predictions(run / "predictions.csv"), "test")
    at = pd.Index(dataset.images["file"]).get_indexer(test["file"])
    if (at < 0).any():
        raise DataError(f"{(at < 0).sum():,} test images of {run} are not under {dataset.root}; see --data.root")
    rows = store.rows[at]

    predictor = open_predictor(run, arguments.quantile)
    if (found := predictor.model.dtype_policy.compute_dtype) != "float32":
        raise ModelError(f"{run} computes in {found}, which {to} does not keep; train it with --run.precision float32")
    reference, size = predictor.reference, settings.image
    with files.atomic_folder(out) as folder, tempfile.TemporaryDirectory() as scratch:
        _, features = predictor.compute(store.array[rows])
        predictor.joint(store.array[rows[:1]])  # Keras exports what was called
        with warnings.catch_warnings():  # of Keras's converters about NumPy
            warnings.simplefilter("ignore", FutureWarning)
            predictor.joint.export(str(folder / form.file), format=form.keras_name, verbose=False)

        # --- score all test images in the format's own runtime, and compare ---
        words = [folder / form.file, to, store.path, answers := Path(scratch, "answers.npz")]
        code = "import sys; from breakhis_cls.export import score_exported; score_exported(*sys.argv[1:])"
        command, indices = [sys.executable, "-c", code, *map(str, words)], json.dumps(rows.tolist())
        done = subprocess.run(command, input=indices, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise ModelError(f"{form.runtime} cannot run the exported model: {done.stderr.strip().splitlines()[-1]}")
        with np.load(answers) as saved:
            exported = dict(saved)
        recorded = predictions.probabilities(test)
        parity: dict[str, Any] = {
            "format": to,
            "runtime": f"{form.runtime} {metadata.version(form.runtime.replace('_', '-'))}",
            "tensorflow_in_its_process": bool(exported["tensorflow"]),
            "n_images": len(test),
            "n_cases": int(test["case"].nunique()),
            "compared_with": "predictions.csv (probabilities), Keras (features, refusals)",
            "largest_difference": {
                "probabilities": float(np.abs(exported["probabilities"] - recorded).max()),
                "features": float(np.abs(exported["features"] - features).max()),
            },
            "decisions_that_differ": int((exported["probabilities"].argmax(1) != recorded.argmax(1)).sum()),
            "refusals_that_differ": None,
        }
        contract: dict[str, Any] = {
            "use": "research only, not a medical device",
            "input": {"name": "image", "dtype": "uint8", "shape": ["n", size.height_px, size.width_px, 3],
                      "colours": "RGB, 0 to 255, turned as EXIF says"},
            "preparation": size.model_dump() | {"filter": "Pillow's bilinear, which averages", "margin_of_pad": GLASS},
            "outputs": {"probabilities": list(predictor.classes), "features": features.shape[1]},
            "predicted": "the class of the highest probability",
            "temperature": reference.about["temperature"] if reference else 1.0,
            "calibrated": "softmax(log(probabilities) / temperature)",
            "trained_on": {"data": test["data"].iloc[0], "magnifications": list(settings.data.magnifications)},
            "refusal": None,
        }  # fmt: skip
        if reference:
            shutil.copy(run / "reference.npz", folder)
            threshold = reference.threshold(arguments.quantile)
            refused = [reference.distance(one) > threshold for one in (exported["features"], features)]
            parity["refusals_that_differ"] = int((refused[0] != refused[1]).sum())
            contract["refusal"] = {
                "file": "reference.npz",
                "magnifications": sorted(set(reference.magnifications.tolist())),
                "distance": "standardise features by mean and deviation of the file's; root mean square difference to "
                            "each image of the file; the least of them. Refuse above the threshold.",
                "quantile": arguments.quantile,
                "threshold": threshold,
            }  # fmt: skip
        files.write_json(folder / "contract.json", contract)
        files.write_json(folder / "parity.json", parity)
        shutil.copy(TrainedRun(run, settings).report().parent / "model_card.md", folder)
    print(
        f"exported: {out}\nparity:   {len(test):,} test images in {parity['runtime']}; largest difference of a "
        f"probability {parity['largest_difference']['probabilities']:.1e}; decisions that differ: "
        f"{parity['decisions_that_differ']}, refusals: {parity['refusals_that_differ']}"
    )
    return ANSWER_IS_NO if parity["decisions_that_differ"] else DONE


def score_exported(path: str, to: str, pixels: str, answers: str) -> None:
    """Write the outputs of an exported file for rows (JSON on stdin) of an .npy of images; imports no other runtime."""
    images = np.load(pixels, mmap_mode="r")
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def model(image: np.ndarray) -> dict[str, Any]:
            return dict(zip(names, session.run(names, {"image": image}), strict=True))

    elif to == "litert":
        from ai_edge_litert.interpreter import Interpreter

        model = Interpreter(path).get_signature_runner()
    else:
        import tensorflow as tf

        model = tf.saved_model.load(path).signatures["serving_default"]
    outputs = [model(image=images[[row]]) for row in json.loads(sys.stdin.read())]
    scored = {name: np.concatenate([one[name] for one in outputs]) for name in ("probabilities", "features")}
    np.savez(answers, allow_pickle=False, tensorflow="tensorflow" in sys.modules, **scored)


if __name__ == "__main__":
    sys.exit(main())

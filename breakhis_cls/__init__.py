"""Patient-level, reproducible evaluation of classifiers on BreakHis: from the archive to a report.

>>> import breakhis_cls
>>> settings = breakhis_cls.load_config("binary_200x")
>>> run = breakhis_cls.train_run(settings)
>>> breakhis_cls.evaluate_runs([run.folder])

The rooms: `data` (which images, which split), `pipeline` (file -> batch), `modeling` (Keras), `evaluation` (numbers),
`reports` (figures and pages), `sweeping` (many runs), `synthetic` (drawn tissue). `breakhis --help` lists the commands.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> the module that defines it, imported on first use: pandas and TensorFlow take seconds
_LIBRARY = {
    "load_config": "config",
    "load_dataset": "data.dataset",
    "audit_split": "data.leakage",
    "train_run": "train",
    "evaluate_runs": "evaluate",
    "predict_images": "predict",
}


def __getattr__(name: str) -> Any:
    if name not in _LIBRARY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LIBRARY[name]}"), name)

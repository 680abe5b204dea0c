"""Patient-level, reproducible evaluation of classifiers on BreakHis: from the archive to a report.

>>> import breakhis_cls as bk
>>> settings = bk.load_config("demo", **{"split.fold": 2})
>>> run = bk.train_run(settings)
>>> run.confusion_matrix()
>>> run.report()

docs/api.md has an example of each public name. `breakhis --help` lists the commands. The rooms: `data` (which images,
which split), `pipeline` (file -> batch), `modeling` (Keras), `evaluation` (numbers), `reports` (figures and pages),
`sweeping` (many runs), `synthetic` (drawn tissue).
"""

import importlib
from typing import Any

__version__ = "0.2.0"

# name -> the module that defines it, imported on first use: pandas and TensorFlow take seconds. No name is that of a
# module: `import breakhis_cls.train` would put the module in the place of a function `train`.
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


def __dir__() -> list[str]:
    return sorted([*globals(), *_LIBRARY])  # so that Tab completes them in a notebook

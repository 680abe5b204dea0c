"""Numbers and reports need neither Keras nor TensorFlow."""

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys
for room in ("evaluation", "reports"):
    for module in pkgutil.iter_modules(importlib.import_module(f"breakhis_cls.{room}").__path__):
        importlib.import_module(f"breakhis_cls.{room}.{module.name}")
        if room == "evaluation":
            assert "matplotlib" not in sys.modules, module.name
loaded = set(sys.modules)
rooms = {name for name in loaded if name.startswith(("breakhis_cls.modeling", "breakhis_cls.pipeline"))}
assert not rooms | (loaded & {"tensorflow", "keras", "matplotlib.pyplot"}), rooms
"""


def test_evaluation_and_reports_import_no_keras() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

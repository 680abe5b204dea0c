# For pyright, pandas is untyped, as it is without pandas-stubs, which mlcroissant installs and which refuse our idioms.
from typing import Any

def __getattr__(name: str) -> Any: ...

# pyright takes pandas for untyped, as without pandas-stubs, which mlcroissant installs: those call idioms of ours errors.
from typing import Any

def __getattr__(name: str) -> Any: ...

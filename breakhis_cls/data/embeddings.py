"""Embeddings computed elsewhere: a file of a usual kind -> a matrix, whose rows have official image names.

Nothing is ever unpickled. docs/embeddings.md lists the kinds. The last file that was read stays in memory.
"""

import functools
import json
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import files, names
from ..errors import DataError, list_first
from . import index, protocols
from .protocols import FILE_COLUMNS

KINDS = (".npz", ".npy", ".csv", ".parquet", ".h5", ".hdf5")
HASH = "pixel_sha256"  # optional column: with it a run is known to be on the same pixels as one that read the images


class Embeddings(NamedTuple):
    """Rows in the order of the official tree."""

    images: pd.DataFrame  # images.csv; sizes are 0, since no image is read
    matrix: np.ndarray  # (n, d) float32
    sha256: str  # of the file, and of the names beside it


def load_embeddings(source: str) -> Embeddings:
    """The embeddings of a file. DataError says in one sentence what is invalid."""
    path = Path(source)
    if not path.is_file() or path.suffix.lower() not in KINDS:
        found = "is of no known kind" if path.exists() else "does not exist"
        raise DataError(f"features.source {path} {found}; expected a file that ends in {' '.join(KINDS)}")
    beside = path.with_suffix(".csv")  # names of the rows
    if path.suffix.lower() == ".npy" and not beside.is_file():
        raise DataError(f"{path} needs {beside} beside it, with a column `file`: a name for each row of the matrix")
    parts = [path, beside] if path.suffix.lower() in (".npz", ".npy") and beside.is_file() else [path]
    return _read(tuple((part, part.stat().st_mtime_ns, part.stat().st_size) for part in parts))


def load_images(source: str, magnifications: tuple[int, ...]) -> pd.DataFrame:
    """images.csv of what a source holds at these magnifications; warns of what it leaves out, lacks or repeats."""
    images, matrix, _ = load_embeddings(source)
    wanted, official = images["magnification"].isin(magnifications), protocols.official_images()
    if absent := sorted({*magnifications} - {*images["magnification"]}):
        found = "X, ".join(map(str, absent))
        raise DataError(f"{source} has no images at {found}X; choose other magnifications with --data.magnifications")
    official = official[official["magnification"].isin(magnifications)]
    n, n_constant = images["file"].isin(official["file"]).sum(), (np.ptp(matrix, axis=0) == 0).sum()
    others = "X, ".join(map(str, sorted({*images["magnification"]} - {*magnifications})))
    for applies, message in (
        (others, f"{source} holds {(~wanted).sum():,} images at {others}X too; data.magnifications leaves them out"),
        (n < len(official), f"{source} holds {n:,} of BreakHis's {len(official):,} images at its magnifications"),
        (n_constant, f"{n_constant:,} of {matrix.shape[1]:,} columns of {source} hold a single value, and say nothing"),
    ):
        if applies:
            warnings.warn(message, stacklevel=2)
    return images.loc[wanted].reset_index(drop=True)


def select_rows(source: str, wanted: pd.Series) -> np.ndarray:
    """(n, d) float32 embeddings of images, by their `file` in images.csv of the source."""
    images, matrix, _ = load_embeddings(source)
    return matrix[pd.Index(images["file"]).get_indexer(pd.Index(wanted))]


@functools.lru_cache(maxsize=2)
def _read(stamps: tuple[tuple[Path, int, int], ...]) -> Embeddings:
    """Read and check; a file that changed has another stamp."""
    parts = [path for path, _, _ in stamps]
    path = parts[0]
    try:
        table, vectors = _read_rows(path, parts[1:])
        column = next((name for name in table.columns if str(name).lower() in FILE_COLUMNS), None)
        if column is None:
            raise ValueError(f"it has the columns {', '.join(map(str, table.columns[:5]))} and none called file")
        if len(table) != len(vectors):
            raise ValueError(f"it has {len(table):,} names and {len(vectors):,} rows")
    except (ValueError, KeyError, OSError, EOFError, ImportError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as embeddings: {first_line}; write it again") from None

    # --- what is invalid: names, and vectors ---
    found, official = table[column].astype(str), protocols.official_images()
    paths = found.map(lambda name: names.official_path(name) if names.official_name(name) else "")
    is_known = paths.isin(official["file"]) | (paths.ne("") & ~paths.str.split("/").str[-3].isin(official["slide"]))
    arrays = [np.atleast_2d(np.asarray(vector, dtype=np.float32)) for vector in vectors]
    vectors = [array.reshape(-1, array.shape[-1]).mean(axis=0) for array in arrays]  # of several patches
    widths = sorted({len(vector) for vector in vectors})
    is_finite = np.array([np.isfinite(vector).all() for vector in vectors], dtype=bool)
    for faults, what in (
        (found[~is_known], "names that BreakHis does not have; name rows by the official file names"),
        (paths[paths.duplicated()], "images more than once; keep one row for each"),
        ([str(width) for width in widths if len(widths) > 1], "widths; one encoder gives vectors of one length"),
        (found[~is_finite], "rows with NaN or infinite values; compute them again"),
    ):
        if len(faults):
            raise DataError(f"{path} has {len(faults):,} {what}:{list_first(list(faults))}")
    matrix = np.stack(vectors) if vectors else np.empty((0, 0))
    if len(matrix) < 2 or (matrix == matrix[0]).all():
        raise DataError(f"{path} holds no two different embeddings; expected one for each image")

    # --- images.csv, of names alone ---
    images = pd.DataFrame([{"file": file, **names.parse_image_name(Path(file).name)._asdict()} for file in paths])
    hashes = table[HASH].astype(object).fillna("").astype(str).to_numpy() if HASH in table else ""
    images = images.assign(width_px=0, height_px=0, bytes=0, sha256="", pixel_sha256=hashes)
    # Without pixels, the two copies of slide 13412 are known by their case number (docs/dataset.md, 4).
    stems = images["file"].map(names.image_stem).str.replace("LC-14-13412", "DC-14-13412")
    by_name = stems.map(lambda stem: files.sha256_of_values("name", stem))
    images[HASH] = images[HASH].mask(files.is_empty(images[HASH]), by_name)
    order = images["file"].argsort(kind="stable").to_numpy()
    digests = [files.sha256_of_file(part) for part in parts]
    listed = [[part.name, digest] for part, digest in zip(parts, digests, strict=True)]
    sha256 = digests[0] if len(parts) == 1 else files.sha256_of_values(*listed)
    return Embeddings(images.iloc[order][list(index.COLUMNS)].reset_index(drop=True), matrix[order], sha256)


def _read_rows(path: Path, beside: list[Path]) -> tuple[pd.DataFrame, list]:
    """A table of names, perhaps with HASH, and the vector of each of its rows."""
    kind = path.suffix.lower()
    if kind in (".h5", ".hdf5"):  # a dataset for each image, as THUNDER writes them
        import h5py

        items: dict[str, h5py.Dataset | h5py.Group] = {}
        with h5py.File(path) as opened:
            opened.visititems(items.__setitem__)  # names with slashes are groups within groups
            images = [(name, item) for name, item in items.items() if isinstance(item, h5py.Dataset)]
            rows = [(name, str(item.attrs.get(HASH, "")), item[()]) for name, item in images]
        return pd.DataFrame(rows, columns=["file", HASH, "vector"]), [vector for _, _, vector in rows]
    if kind in (".npz", ".npy"):
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if kind == ".npz" else {"features": loaded}
        columns = {name: array for name, array in arrays.items() if name in (*FILE_COLUMNS, HASH)}
        if not beside and not columns:  # an array for each image
            return pd.DataFrame({"file": list(arrays)}), list(arrays.values())
        matrix = next((array for array in arrays.values() if array.ndim == 2), None)
        if matrix is None:
            raise ValueError("it holds no matrix of a row for each image")
        return pd.read_csv(beside[0]) if beside else pd.DataFrame(columns), list(matrix)

    # The quick parser of CSV loses a float's last bit.
    table = pd.read_parquet(path) if kind == ".parquet" else pd.read_csv(path, float_precision="round_trip")
    numbered = [name for name in table.columns if str(name)[:1] == "f" and str(name)[1:].isdigit()]
    lists = [name for name in table.select_dtypes("object").columns if name not in (*FILE_COLUMNS, HASH)]
    if numbered:
        return table, list(table[sorted(numbered, key=lambda name: int(name[1:]))].to_numpy(np.float32))
    if lists:  # text in a CSV, arrays in a Parquet file
        return table, [json.loads(cell) if isinstance(cell, str) else cell for cell in table[lists[0]]]
    raise ValueError("it has no columns f0, f1, ... and no column of lists")


def write_embeddings(path: Path, images: pd.DataFrame, matrix: np.ndarray) -> None:
    """Write embeddings (n, d) and the `file` and pixel hashes of images.csv, as the suffix of the path says; .npy needs
    the names in a CSV beside it."""
    kind, named = path.suffix.lower(), images[["file", HASH]].reset_index(drop=True)
    with files.atomic_path(path) as temporary:
        if kind == ".npz":
            listed, hashed = (named[column].to_numpy(dtype="U") for column in named)
            np.savez(temporary, filename=listed, pixel_sha256=hashed, features=matrix)
        elif kind == ".npy":
            np.save(temporary, matrix)
            files.write_csv(path.with_suffix(".csv"), named)
        elif kind in (".h5", ".hdf5"):
            import h5py

            with h5py.File(temporary, "w") as opened:
                for name, pixel_sha256, vector in zip(named["file"], named[HASH], matrix, strict=True):
                    opened.create_dataset(name, data=vector).attrs[HASH] = pixel_sha256
        else:
            table = pd.concat([named, pd.DataFrame(matrix).add_prefix("f")], axis=1)
            write = table.to_parquet if kind == ".parquet" else table.to_csv
            write(temporary, index=False)

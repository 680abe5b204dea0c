"""Embeddings computed elsewhere: a file or folder of a usual kind -> a matrix, whose rows have official image names.

Nothing is ever unpickled. docs/embeddings.md lists the kinds. The last file that was read stays in memory.
"""

from __future__ import annotations

import functools
import importlib
import json
import pickle
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .. import files, names
from ..errors import DataError, list_first
from . import index, protocols
from .split_files import FILE_COLUMNS

KINDS = (".npz", ".npy", ".csv", ".parquet", ".h5", ".hdf5")
HASH = "pixel_sha256"  # optional column: with it a run is known to be on the same pixels as one that read the images


class Embeddings(NamedTuple):
    """Rows in the order of the official tree."""

    images: pd.DataFrame  # images.csv; sizes are 0, since no image is read
    matrix: np.ndarray  # (n, d) float32
    sha256: str  # of the file, or of all files


def load_embeddings(source: str) -> Embeddings:
    """The embeddings of a file or folder. DataError says in one sentence what is invalid."""
    path = Path(source)
    if not path.exists() or (path.is_file() and path.suffix.lower() not in KINDS):
        found = "is of no known kind" if path.exists() else "does not exist"
        raise DataError(f"features.source {path} {found}; expected a folder, or a file that ends in {' '.join(KINDS)}")
    # What one source consists of: a folder's files, a matrix and its names, or a manifest and what it lists.
    if path.is_dir():
        parts = [file for file in sorted(path.rglob("*")) if file.is_file() and not names.is_system_file(file.name)]
        if not (parts := [file for file in parts if file.suffix.lower() in (".h5", ".hdf5")]):
            raise DataError(f"features.source {path} holds no .h5 file; name a file, or a folder of them")
    elif path.suffix.lower() == ".npy" or (path.suffix.lower() == ".npz" and path.with_suffix(".csv").is_file()):
        parts = [path, path.with_suffix(".csv")]
    else:
        parts = [path, *sorted(path.parent.rglob("*.pt"))] if path.name == "manifest.csv" else [path]
    if missing := [str(part) for part in parts if not part.is_file()]:
        raise DataError(f"{path} needs {missing[0]} beside it, with a column `file`: a name for each row of the matrix")
    return _read(path, tuple((str(part), part.stat().st_mtime_ns, part.stat().st_size) for part in parts))


def load_images(source: str, magnifications: tuple[int, ...]) -> pd.DataFrame:
    """images.csv of what a source holds at these magnifications; warns of what it leaves out, lacks or repeats."""
    images, matrix, _ = load_embeddings(source)
    wanted = images["magnification"].isin(magnifications)
    if not wanted.all():
        others = ", ".join(f"{value}X" for value in sorted(set(images.loc[~wanted, "magnification"])))
        found = f"{source} holds {(~wanted).sum():,} images at {others} too"
        warnings.warn(f"{found}; data.magnifications leaves them out", stacklevel=2)
    if absent := sorted(set(magnifications) - set(images["magnification"])):
        found = ", ".join(f"{value}X" for value in absent)
        raise DataError(f"{source} has no images at {found}; choose other magnifications with --data.magnifications")
    official = protocols.official_images()
    n_official = int(official["magnification"].isin(magnifications).sum())
    if (n := int(images.loc[wanted, "file"].isin(official["file"]).sum())) < n_official:
        warnings.warn(f"{source} holds {n:,} of BreakHis's {n_official:,} images at its magnifications", stacklevel=2)
    if n_constant := int((matrix.max(axis=0) == matrix.min(axis=0)).sum()):
        found = f"{n_constant:,} of {matrix.shape[1]:,} columns of {source} hold a single value"
        warnings.warn(f"{found}, and say nothing", stacklevel=2)
    return images.loc[wanted].reset_index(drop=True)


def select_rows(source: str, wanted: pd.Series) -> np.ndarray:
    """(n, d) float32 embeddings of images, by their `file` in images.csv of the source."""
    images, matrix, _ = load_embeddings(source)
    return matrix[pd.Index(images["file"]).get_indexer(pd.Index(wanted))]


@functools.lru_cache(maxsize=2)
def _read(path: Path, stamps: tuple[tuple[str, int, int], ...]) -> Embeddings:
    """Read and check; a file that changed has another stamp."""
    parts = [Path(part) for part, _, _ in stamps]
    try:
        rows = _read_rows(path, parts)
    except (ValueError, KeyError, OSError, EOFError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as embeddings: {first_line}; write it again") from None

    # --- what is invalid: names, and vectors ---
    known, slides = set(protocols.official_images()["file"]), set(protocols.slides()["slide"])
    paths = pd.Series([names.official_path(name) if names.official_name(name) else "" for name in rows.index])
    unknown = (paths == "") | (~paths.isin(known) & paths.str.split("/").str[-3].isin(slides))
    vectors = [np.asarray(vector, dtype=np.float32) for vector in rows["vector"]]
    widths = sorted({len(vector) for vector in vectors})
    is_invalid = np.array([not np.isfinite(vector).all() for vector in vectors], dtype=bool)
    for faults, what in (
        (rows.index[unknown], "names that BreakHis does not have; name rows by the official file names"),
        (paths[paths.duplicated()], "images more than once; keep one row for each"),
        ([str(width) for width in widths if len(widths) > 1], "widths; one encoder gives vectors of one length"),
        (rows.index[is_invalid], "rows with NaN or infinite values; compute them again"),
    ):
        if len(faults):
            raise DataError(f"{path} has {len(faults):,} {what}:{list_first(list(faults))}")
    matrix = np.stack(vectors) if vectors else np.empty((0, 0))
    if len(matrix) < 2 or (matrix == matrix[0]).all():
        raise DataError(f"{path} holds no two different embeddings; expected one for each image")

    # --- images.csv, of names alone ---
    images = pd.DataFrame([{"file": file, **names.parse_image_name(Path(file).name)._asdict()} for file in paths])
    images = images.assign(width_px=0, height_px=0, bytes=0, sha256="", pixel_sha256=rows[HASH].to_numpy())
    # Without pixels, the two copies of slide 13412 are known by their case number (docs/dataset.md, 4).
    stems = images["file"].map(names.image_stem).str.replace("LC-14-13412", "DC-14-13412")
    by_name = stems.map(lambda stem: files.sha256_of_values("name", stem))
    images[HASH] = images[HASH].mask(files.is_empty(images[HASH]), by_name)
    order = images["file"].argsort(kind="stable").to_numpy()
    digests = [files.sha256_of_file(part) for part in parts]
    listed = [[part.name, digest] for part, digest in zip(parts, digests, strict=True)]
    sha256 = digests[0] if len(parts) == 1 else files.sha256_of_values(*listed)
    return Embeddings(images.iloc[order][list(index.COLUMNS)].reset_index(drop=True), matrix[order], sha256)


def _read_rows(path: Path, parts: list[Path]) -> pd.DataFrame:
    """`vector` and HASH of each row, in the order of the file; the index holds the names as they were found."""
    kind, vectors = path.suffix.lower(), None
    if path.is_dir() or kind in (".h5", ".hdf5"):
        table = pd.DataFrame([row for part in parts for row in _read_hdf5(part)], columns=["file", HASH, "vector"])
        vectors = table["vector"].tolist()
    elif kind in (".npz", ".npy"):
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if kind == ".npz" else {"matrix": loaded}
        vectors = next((array for array in arrays.values() if array.ndim == 2), None)
        table = pd.DataFrame({name: array for name, array in arrays.items() if name in (*FILE_COLUMNS, HASH)})
        if len(parts) == 2:
            table = pd.read_csv(parts[1])
        elif table.empty:  # an array for each image
            table, vectors = pd.DataFrame({"file": list(arrays)}), list(map(_mean_of_patches, arrays.values()))
    elif kind == ".parquet":
        _need("pyarrow", path)
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, float_precision="round_trip")  # the quick parser loses a float's last bit

    column = next((name for name in table.columns if str(name).lower() in (*FILE_COLUMNS, "origin")), None)
    if column is None:
        raise ValueError(f"it has the columns {', '.join(map(str, table.columns[:5]))} and none called file")
    if vectors is None:
        numbered = [name for name in table.columns if str(name)[:1] == "f" and str(name)[1:].isdigit()]
        lists = [name for name in table.select_dtypes("object").columns if name not in (column, HASH)]
        if column == "origin":  # kaiko-eva's manifest
            vectors = [_read_pt(path.parent / file) for file in table["embeddings"]]
        elif numbered:
            vectors = table[sorted(numbered, key=lambda name: int(name[1:]))].to_numpy(np.float32)
        elif lists:  # text in a CSV, arrays in a Parquet file
            vectors = [json.loads(cell) if isinstance(cell, str) else cell for cell in table[lists[0]]]
        else:
            raise ValueError("it has no columns f0, f1, ... and no column of lists")
    if len(table) != len(vectors):
        raise ValueError(f"it has {len(table):,} names and {len(vectors):,} rows")
    hashes = table[HASH].astype(object).fillna("").astype(str).to_numpy() if HASH in table else ""
    return pd.DataFrame({"vector": list(vectors), HASH: hashes}, index=table[column].astype(str))


def _read_hdf5(path: Path) -> list[tuple[str, str, np.ndarray]]:
    """(name, pixel hash, vector) of each image: one dataset an image, as THUNDER writes them; or one file an image,
    with `features` (TRIDENT, CLAM) or `feats` (STAMP) of its patches."""
    import h5py

    found: list[tuple[str, str, np.ndarray]] = []
    with h5py.File(path) as opened:
        for key in ("features", "feats"):
            if isinstance(item := opened.get(key), h5py.Dataset):
                return [(path.stem, str(item.attrs.get(HASH, "")), _mean_of_patches(item))]

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found.append((name, str(item.attrs.get(HASH, "")), _mean_of_patches(item)))

        opened.visititems(visit)  # names with slashes are groups within groups
    return found


def _read_pt(path: Path) -> np.ndarray:
    torch = _need("torch", path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{path.name}: {str(error).splitlines()[0]}") from None
    tensors = loaded if isinstance(loaded, list) else [loaded]
    return _mean_of_patches(np.concatenate([np.atleast_2d(one.float().numpy()) for one in tensors]))


def _mean_of_patches(array: Any) -> np.ndarray:
    return np.asarray(array, dtype=np.float32).reshape(-1, np.shape(array)[-1]).mean(axis=0)


def _need(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"{path} needs {module}; pip install {module}, or write the embeddings as .npz") from None


def write_embeddings(path: Path, images: pd.DataFrame, matrix: np.ndarray) -> None:
    """Write embeddings (n, d) and the `file` and pixel hashes of images.csv, as the suffix of the path says; without
    one as a folder of .h5 files, one an image, as TRIDENT and CLAM do. .npy needs the names in a CSV beside it."""
    kind, file, hashes = path.suffix.lower(), images["file"], images[HASH]
    if not kind:
        import h5py

        path.mkdir(parents=True, exist_ok=True)
        for name, pixel_sha256, vector in zip(file.map(names.image_stem), hashes, matrix, strict=True):
            with files.atomic_path(path / f"{name}.h5") as temporary, h5py.File(temporary, "w") as opened:
                opened["features"], opened["coords"] = vector[None], np.zeros((1, 2), int)
                opened["features"].attrs[HASH] = pixel_sha256
        return
    with files.atomic_path(path) as temporary:
        if kind == ".npz":
            listed, hashed = (np.asarray(column, dtype="U") for column in (file, hashes))
            np.savez(temporary, filename=listed, pixel_sha256=hashed, features=matrix)
        elif kind == ".npy":
            np.save(temporary, matrix)
            files.write_csv(path.with_suffix(".csv"), images[["file", HASH]])
        elif kind in (".h5", ".hdf5"):
            import h5py

            with h5py.File(temporary, "w") as opened:
                for name, pixel_sha256, vector in zip(file, hashes, matrix, strict=True):
                    opened[name] = vector
                    opened[name].attrs[HASH] = pixel_sha256
        else:
            columns = pd.DataFrame(matrix, columns=[f"f{at}" for at in range(matrix.shape[1])])
            table = pd.concat([images[["file", HASH]].reset_index(drop=True), columns], axis=1)
            if kind == ".parquet":
                _need("pyarrow", path)
                table.to_parquet(temporary, index=False)
            else:
                table.to_csv(temporary, index=False)

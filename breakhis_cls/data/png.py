"""One image file -> 8-bit RGB pixels, exactly, or the reason why not.

Decoding with Pillow alone is too lenient for data that results depend on: it skips the checksums of pixel data, halves
16-bit colours without a word and drops alpha.
"""

import hashlib
import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError

MAX_PX = 50_000_000  # 155 fields of BreakHis; more is a decompression bomb or a whole slide
MIN_PX = 32  # of a side: the network's last cells are of 32 px
SIGNATURE, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
N_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: PNG specification, 11.2.1
BITS_PER_SAMPLE = 258  # TIFF's tag


def decode(path: Path) -> np.ndarray:
    """A PNG as uint8 (height, width, 3) RGB in [0, 255], read-only; DataError with path and reason if not."""
    try:
        return decode_bytes(path.read_bytes())
    except (OSError, DataError) as error:
        raise DataError(f"{path}: {read_error(error)}") from None


def decode_bytes(raw: bytes) -> np.ndarray:
    """The bytes of a PNG as uint8 (height, width, 3) RGB, read-only; DataError with the reason if not."""
    if not raw.startswith(SIGNATURE):
        raise DataError(f"not a PNG (begins with {raw[:4]!r})" if raw else "empty file")
    if END not in raw:
        raise DataError(f"truncated after {len(raw):,} bytes")
    try:
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:  # no other decoder
            check_field(picture, raw[24])  # bit depth: PNG specification, 11.2.1
            picture.verify()  # the checksums; Pillow cannot decode the same object afterwards
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:
            # Inflating twice costs half of decoding: rows are counted only where the last is zero, if not interlaced.
            width_px, height_px = picture.size
            last_row = picture.crop((0, height_px - 1, width_px, height_px))
            if last_row.getbbox(alpha_only=False) is None and raw[28] != 1:
                check_rows(raw, width_px, height_px)
            return to_rgb(picture)
    except UnidentifiedImageError:  # whose message names a BytesIO
        raise DataError("damaged: its header cannot be read") from None
    except (OSError, SyntaxError, ValueError, IndexError, zlib.error, Image.DecompressionBombError) as error:
        raise DataError(f"damaged ({error})") from None


def decode_any(path: Path) -> np.ndarray:
    """Any image file as uint8 (height, width, 3) RGB, turned as its EXIF orientation says; a PNG as strictly as above.
    DataError for what is no image or no single field in 8 bits, such as a whole slide; Pillow's errors for damage."""
    raw = path.read_bytes()
    if raw.startswith(SIGNATURE):
        return decode_bytes(raw)
    try:
        with Image.open(io.BytesIO(raw)) as picture:
            check_field(picture, np.max(getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, 8)))
            return to_rgb(picture)
    except UnidentifiedImageError:  # whose message names a BytesIO
        raise DataError("no image that Pillow can read" if raw else "empty file") from None


def check_field(picture: Image.Image, n_bits: int) -> None:
    """DataError if a picture is no single field in 8 bits: its size, its pages, its bits; decodes nothing."""
    width_px, height_px = picture.size
    if min(width_px, height_px) < MIN_PX or width_px * height_px > MAX_PX:
        expected = f"expected a field of {MIN_PX} px or more on each side and {MAX_PX:,} px at most in all"
        raise DataError(f"{width_px:,}x{height_px:,} px; {expected}")
    if (n_pages := getattr(picture, "n_frames", 1)) > 1:
        raise DataError(f"{n_pages} pages or levels; save the one you mean as a file of its own")
    if n_bits > 8:  # Pillow drops them without a word
        raise DataError(f"{n_bits} bits for each colour do not convert to 8 without loss")


def check_rows(raw: bytes, width_px: int, height_px: int) -> None:
    """DataError if rows of a PNG are missing under valid checksums: Pillow fills them with zero and reports nothing."""
    packed, at = b"", len(SIGNATURE)
    while at < len(raw):  # chunk: length, kind, content, checksum
        end = at + 12 + int.from_bytes(raw[at : at + 4])
        packed += raw[at + 8 : end - 4] if raw[at + 4 : at + 8] == b"IDAT" else b""
        at = end
    row_bytes = 1 + (width_px * N_CHANNELS[raw[25]] * raw[24] + 7) // 8
    n_rows = len(zlib.decompressobj().decompress(packed, row_bytes * height_px)) // row_bytes
    if n_rows < height_px:
        raise DataError(f"truncated: {n_rows:,} of {height_px:,} rows")


def to_rgb(picture: Image.Image) -> np.ndarray:
    """A picture as uint8 (height, width, 3), read-only; DataError if 8-bit RGB cannot hold what it holds. Grey and
    palettes convert exactly; alpha is dropped only where it is opaque everywhere."""
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.asarray(picture)
    if picture.mode not in {"1", "L", "P", "RGB", "LA", "PA", "RGBA"}:
        raise DataError(f"mode {picture.mode} does not convert to 8-bit RGB without loss")
    picture = picture.convert("RGBA")
    n_transparent = np.count_nonzero(np.asarray(picture)[..., 3] < 255)
    if n_transparent:
        raise DataError(f"{n_transparent:,} transparent pixels; their colour is unknown")
    return np.asarray(picture.convert("RGB"))


def pixel_sha256(rgb: np.ndarray) -> str:
    """SHA-256 of shape and uint8 bytes: equal for equal pictures, however their files are compressed."""
    height_px, width_px, _ = rgb.shape
    hashed = hashlib.sha256(f"{height_px} {width_px} 3 uint8\n".encode())
    hashed.update(np.ascontiguousarray(rgb).data)
    return hashed.hexdigest()


def read_error(error: OSError | DataError) -> str:
    """What the content lacks, or why the disk, the permissions or a link fails."""
    return f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else str(error)

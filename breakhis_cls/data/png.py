"""One PNG file -> 8-bit RGB pixels, exactly, or the reason why not.

Pillow alone is too kind for data that a result rests on: it skips the checksums of pixel data, halves 16-bit
colours without a word and drops alpha. Here every length and checksum is verified before it decodes.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError

MAX_PX = 50_000_000  # 155 fields of BreakHis; more is a decompression bomb or a whole slide
SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}  # colour types
N_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # in the order that the specification asks for


def decode(path: Path) -> np.ndarray:
    """A PNG as uint8 (height, width, 3) RGB in [0, 255], read-only; DataError with path and reason if not."""
    try:
        return decode_bytes(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {read_error(error)}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def decode_bytes(raw: bytes) -> np.ndarray:
    """The bytes of a PNG as uint8 (height, width, 3) RGB, read-only; DataError with the reason if not."""
    lean = _checked(raw)
    try:
        with Image.open(io.BytesIO(lean), formats=["PNG"]) as picture:
            _check_last_row(picture, raw)
            return to_rgb(picture)
    except (OSError, SyntaxError, ValueError, zlib.error) as error:  # what Pillow raises for damaged content
        raise DataError(f"damaged content ({error})") from None


def to_rgb(picture: Image.Image) -> np.ndarray:
    """A picture as uint8 (height, width, 3), read-only; DataError if 8-bit RGB cannot hold what it holds.

    Grey and palettes convert exactly; alpha is dropped only where it is opaque everywhere.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.asarray(picture)
    if picture.mode not in {"1", "L", "P", "RGB", "LA", "PA", "RGBA"}:
        raise DataError(f"mode {picture.mode} does not convert to 8-bit RGB without loss")
    picture = picture.convert("RGBA")
    least = picture.tobytes()[3::4]
    n_clear = len(least) - least.count(255)
    if n_clear:
        raise DataError(f"{n_clear:,} transparent pixels; the colour that belongs there is unknown")
    return np.asarray(picture.convert("RGB"))


def png_kind(raw: bytes) -> str:
    """`8-bit palette` and the like, from the header of a PNG that decodes."""
    return f"{raw[24]}-bit {COLOURS[raw[25]]}"


def pixel_sha256(rgb: np.ndarray) -> str:
    """SHA-256 of shape and uint8 bytes: equal for equal pictures, however their files are compressed."""
    height_px, width_px, _ = rgb.shape
    hashed = hashlib.sha256(f"{height_px} {width_px} 3 uint8\n".encode())
    hashed.update(np.ascontiguousarray(rgb).data)
    return hashed.hexdigest()


def read_error(error: OSError) -> str:
    """The reason when not the content but the disk, the rights or a link is at fault."""
    return f"cannot be read ({error.strerror or error})"


def _checked(raw: bytes) -> bytes:
    """The PNG's chunks that make pixels, after every length and checksum has been verified."""
    if not raw:
        raise DataError("empty file")
    if not raw.startswith(SIGNATURE):
        raise DataError(f"not a PNG (begins with {raw[:4]!r})")
    chunks: dict[bytes, list[bytes]] = {}
    for kind, chunk in _chunks(raw):
        chunks.setdefault(kind, []).append(chunk)
    if b"acTL" in chunks:
        raise DataError("animated; expected one picture")
    _check_header(raw)
    return SIGNATURE + b"".join(chunk for kind in PIXEL_CHUNKS for chunk in chunks.get(kind, []))


def _chunks(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, whole chunk) up to IEND (PNG specification, third edition, section 5.3)."""
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(raw[at : at + 4])
        if max(end, at + 12) > len(raw):
            raise DataError(f"truncated after {len(raw):,} bytes")
        kind = raw[at + 4 : at + 8]
        if zlib.crc32(memoryview(raw)[at + 4 : end - 4]) != int.from_bytes(raw[end - 4 : end]):
            raise DataError(f"damaged: the checksum of its {kind.decode('latin-1')} chunk does not hold")
        yield kind, raw[at:end]
        at = end


def _check_header(raw: bytes) -> None:
    if raw[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise DataError("damaged: it does not begin with a header")
    width_px, height_px, depth = int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24]), raw[24]
    if width_px * height_px > MAX_PX:
        raise DataError(f"{width_px:,} x {height_px:,} pixels; refused above {MAX_PX:,}")
    if depth == 16:
        raise DataError(f"{png_kind(raw)}: 8-bit RGB would lose half of each value")


def _check_last_row(picture: Image.Image, raw: bytes) -> None:
    """Where pixel data ends early, Pillow leaves the rest zero and says nothing.

    Inflating twice to count rows costs half of decoding, so it is done only where the last row is zero.
    """
    last_row = picture.crop((0, picture.height - 1, picture.width, picture.height))
    is_interlaced = raw[28] == 1
    if is_interlaced or last_row.getbbox(alpha_only=False) is not None:
        return
    row_bytes = 1 + (picture.width * N_CHANNELS[raw[25]] * raw[24] + 7) // 8
    packed = b"".join(chunk[8:-4] for kind, chunk in _chunks(raw) if kind == b"IDAT")
    n_rows = len(zlib.decompressobj().decompress(packed, row_bytes * picture.height)) // row_bytes
    if n_rows < picture.height:
        raise DataError(f"truncated: {n_rows:,} of {picture.height:,} rows")

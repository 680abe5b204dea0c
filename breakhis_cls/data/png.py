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
MIN_PX = 32  # of a side of any other image: the network's last cells are of 32 px
BITS_PER_SAMPLE = 258  # TIFF's tag
SIGNATURE, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}  # PNG specification, 11.2.1
N_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def decode(path: Path) -> np.ndarray:
    """A PNG as uint8 (height, width, 3) RGB in [0, 255], read-only; DataError with path and reason if not."""
    try:
        return decode_bytes(path.read_bytes())
    except (OSError, DataError) as error:
        raise DataError(f"{path}: {read_error(error) if isinstance(error, OSError) else error}") from None


def decode_bytes(raw: bytes) -> np.ndarray:
    """The bytes of a PNG as uint8 (height, width, 3) RGB, read-only; DataError with the reason if not."""
    if not raw:
        raise DataError("empty file")
    if not raw.startswith(SIGNATURE):
        raise DataError(f"not a PNG (begins with {raw[:4]!r})")
    if END not in raw:
        raise DataError(f"truncated after {len(raw):,} bytes")
    if raw[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise DataError("damaged: it does not begin with a header")
    width_px, height_px = int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24])
    if width_px * height_px > MAX_PX:
        raise DataError(f"{width_px:,} x {height_px:,} pixels; refused above {MAX_PX:,}")
    if raw[24] == 16:  # bit depth; 25 is the colour type, 28 the interlacing (PNG specification, 11.2.1)
        raise DataError(f"{png_kind(raw)}: 8-bit RGB would lose half of each value")
    try:
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:  # no other decoder
            picture.verify()  # the checksums; Pillow cannot decode the same object afterwards
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:
            if getattr(picture, "is_animated", False):
                raise DataError("animated; expected one picture")
            rgb = to_rgb(picture)
            # Where pixel data ends early, Pillow leaves the remaining rows zero and reports nothing. Inflating twice
            # costs half of decoding, so rows are counted only where the last one is zero; not for interlaced files.
            last_row = picture.crop((0, height_px - 1, width_px, height_px))
            if last_row.getbbox(alpha_only=False) is None and raw[28] != 1:
                _check_row_count(raw, width_px, height_px)
            return rgb
    except UnidentifiedImageError:  # whose message names a BytesIO
        raise DataError("damaged: its header cannot be read") from None
    except (OSError, SyntaxError, ValueError, IndexError, zlib.error) as error:  # raised by Pillow for damage
        raise DataError(f"damaged ({error})") from None


def decode_any(path: Path) -> np.ndarray:
    """Any image file as uint8 (height, width, 3) RGB, turned as its EXIF orientation says. DataError for what is no
    single field in 8 bits: several pages, more bits, a whole slide, or fewer than MIN_PX."""
    raw = path.read_bytes()
    if raw.startswith(SIGNATURE):
        decode_bytes(raw)  # as strict as with the data set: checksums, bit depth
    with Image.open(io.BytesIO(raw)) as opened:
        width_px, height_px = opened.size
        if not min(width_px, height_px) >= MIN_PX or width_px * height_px > MAX_PX:
            expected = f"expected a field of {MIN_PX} px or more on each side and {MAX_PX:,} px at most in all"
            raise DataError(f"{width_px:,}x{height_px:,} px; {expected}")
        if (n_pages := getattr(opened, "n_frames", 1)) > 1:
            raise DataError(f"{n_pages} pages or levels; save the one you mean as a file of its own")
        bits = getattr(opened, "tag_v2", {}).get(BITS_PER_SAMPLE, 8)
        if max(np.atleast_1d(bits)) > 8:
            raise DataError(f"{max(np.atleast_1d(bits))} bits for each colour do not convert to 8 without loss")
        return to_rgb(ImageOps.exif_transpose(opened))


def to_rgb(picture: Image.Image) -> np.ndarray:
    """A picture as uint8 (height, width, 3), read-only; DataError if 8-bit RGB cannot hold what it holds. Grey and
    palettes convert exactly; alpha is dropped only where it is opaque everywhere."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.asarray(picture)
    if picture.mode not in {"1", "L", "P", "RGB", "LA", "PA", "RGBA"}:
        raise DataError(f"mode {picture.mode} does not convert to 8-bit RGB without loss")
    picture = picture.convert("RGBA")
    alpha = picture.tobytes()[3::4]
    n_transparent = len(alpha) - alpha.count(255)
    if n_transparent:
        raise DataError(f"{n_transparent:,} transparent pixels; their colour is unknown")
    return np.asarray(picture.convert("RGB"))


def png_kind(raw: bytes) -> str:
    """`8-bit palette` and the like, from the header of a PNG."""
    return f"{raw[24]}-bit {COLOURS.get(raw[25], 'unknown colours')}"


def pixel_sha256(rgb: np.ndarray) -> str:
    """SHA-256 of shape and uint8 bytes: equal for equal pictures, however their files are compressed."""
    height_px, width_px, _ = rgb.shape
    hashed = hashlib.sha256(f"{height_px} {width_px} 3 uint8\n".encode())
    hashed.update(np.ascontiguousarray(rgb).data)
    return hashed.hexdigest()


def read_error(error: OSError) -> str:
    """The reason when not the content but the disk, the permissions or a link fails."""
    return f"cannot be read ({error.strerror or error})"


def _check_row_count(raw: bytes, width_px: int, height_px: int) -> None:
    # Pillow fills rows that are missing under valid checksums with black, and reports nothing.
    packed, at = b"", len(SIGNATURE)
    while at < len(raw):  # chunk: length, kind, content, checksum
        end = at + 12 + int.from_bytes(raw[at : at + 4])
        packed += raw[at + 8 : end - 4] if raw[at + 4 : at + 8] == b"IDAT" else b""
        at = end
    row_bytes = 1 + (width_px * N_CHANNELS[raw[25]] * raw[24] + 7) // 8
    n_rows = len(zlib.decompressobj().decompress(packed, row_bytes * height_px)) // row_bytes
    if n_rows < height_px:
        raise DataError(f"truncated: {n_rows:,} of {height_px:,} rows")

"""png.py: what 8-bit RGB can hold is read exactly; what it cannot is refused with the reason."""

from __future__ import annotations

import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from breakhis_cls.data import png
from breakhis_cls.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (46, 70, 3), np.uint8)


def written(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def with_chunks(raw: bytes, change) -> bytes:
    """The PNG with `change(kind, body) -> body or None` applied to each chunk, with valid checksums."""
    changed, at = png.SIGNATURE, len(png.SIGNATURE)
    while at < len(raw):
        end = at + 12 + int.from_bytes(raw[at : at + 4])
        kind = raw[at + 4 : at + 8]
        body = change(kind, raw[at + 8 : end - 4])
        if body is not None:
            changed += len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)
        at = end
    return changed


RGB = written(Image.fromarray(PIXELS))
GREY = Image.fromarray(PIXELS[..., 0])
PALETTE = Image.fromarray(PIXELS).quantize(16)
HALF_CLEAR = Image.fromarray(np.dstack([PIXELS, np.full((46, 70), 128, np.uint8)]))
OPAQUE = Image.fromarray(np.dstack([PIXELS, np.full((46, 70), 255, np.uint8)]))
TRUE_16_BIT = with_chunks(  # Pillow cannot write it: a header of depth 16 over twice the bytes
    written(Image.fromarray(np.zeros((46, 140, 3), np.uint8))),
    lambda kind, body: (70).to_bytes(4) + body[4:8] + b"\x10" + body[9:] if kind == b"IHDR" else body,
)
SHORT = zlib.compress(bytes([0, *[99] * 210]) * 20)  # 20 rows: filter 0, then 70 RGB pixels
SHORT_4_BIT = zlib.compress(bytes([0, *[17] * 35]) * 20)
BOMB = with_chunks(RGB, lambda kind, body: (60_000).to_bytes(4) * 2 + body[8:] if kind == b"IHDR" else body)

CANNOT = {
    "empty": (b"", "empty file"),
    "text": (b"<html>404</html>", "not a PNG"),
    "jpeg": (written(Image.fromarray(PIXELS), "JPEG"), "not a PNG"),
    "half": (RGB[: len(RGB) // 2], "truncated after"),
    "signature only": (RGB[:8], "truncated after 8 bytes"),
    "no end": (RGB[:-12], "truncated after"),
    "one byte short": (RGB[:-1], "truncated after"),
    "flipped bit": (RGB[:2_000] + bytes([RGB[2_000] ^ 1]) + RGB[2_001:], "checksum in b'IDAT'"),
    "zeros inside": (RGB[:3_000] + bytes(500) + RGB[3_500:], "checksum in b'IDAT'"),
    "20 rows": (with_chunks(RGB, lambda kind, body: SHORT if kind == b"IDAT" else body), "20 of 46 rows"),
    "20 palette rows": (
        with_chunks(written(PALETTE), lambda kind, body: SHORT_4_BIT if kind == b"IDAT" else body), "20 of 46",
    ),
    "no pixels": (with_chunks(RGB, lambda kind, body: None if kind == b"IDAT" else body), "damaged"),
    "no header": (with_chunks(RGB, lambda kind, body: None if kind == b"IHDR" else body), "header cannot be read"),
    "damaged header": (RGB[:20] + b"\0\0\0\1" + RGB[24:], "header cannot be read"),
    "bomb": (BOMB, "3600000000 pixels"),
    "16-bit grey": (written(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200)), "16 bits"),
    "16-bit RGB": (TRUE_16_BIT, "16 bits"),
    "clear": (written(HALF_CLEAR), "3,220 transparent pixels"),
    "clear grey": (written(HALF_CLEAR.convert("LA")), "transparent pixels"),
    "clear palette": (written(PALETTE, transparency=3), "transparent pixels"),
    "clear colour": (written(Image.fromarray(PIXELS), transparency=(*PIXELS[0, 0].tolist(),)), "1 transp"),
    "animated": (written(OPAQUE, save_all=True, append_images=[OPAQUE.rotate(180)]), "2 pages"),
}  # fmt: skip
CAN = {
    "RGB": (RGB, PIXELS),
    "grey": (written(GREY), np.asarray(GREY.convert("RGB"))),
    "two greys": (written(GREY.convert("1")), np.asarray(GREY.convert("1").convert("RGB"))),
    "black": (written(Image.new("RGB", (70, 46))), np.zeros_like(PIXELS)),
    "black grey": (written(Image.new("1", (70, 46))), np.zeros_like(PIXELS)),
    "palette": (written(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "opaque": (written(OPAQUE), PIXELS),
    "opaque grey": (written(GREY.convert("LA")), np.asarray(GREY.convert("RGB"))),
    "junk after the end": (RGB + b"junk", PIXELS),
}  # fmt: skip


@pytest.mark.parametrize("kind", CANNOT)
def test_what_cannot_be_rgb_is_refused_with_the_reason(kind, tmp_path):
    content, reason = CANNOT[kind]
    (tmp_path / "image.png").write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(DataError, match=reason) as caught:
        warnings.simplefilter("error")
        png.decode(tmp_path / "image.png")
    assert str(tmp_path / "image.png") in str(caught.value)


@pytest.mark.parametrize("kind", CAN)
def test_what_can_be_rgb_is_converted_exactly(kind, tmp_path):
    content, pixels = CAN[kind]
    (tmp_path / "image.png").write_bytes(content)
    decoded = png.decode(tmp_path / "image.png")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: cannot be read \(No such file"):
        png.decode(tmp_path / "gone.png")


def test_pixel_hashes_know_shapes():
    flat = np.zeros((2, 6, 3), np.uint8)
    assert png.pixel_sha256(flat) != png.pixel_sha256(flat.reshape(6, 2, 3))
    assert png.pixel_sha256(flat[:, ::2]) == png.pixel_sha256(flat[:, :3].copy())

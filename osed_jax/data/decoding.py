"""Decodes image files of any format, size and mode, with bounded memory."""

import contextlib
import io
import math
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from osed_jax.data.bit_depth import check_colour_depth, is_deep, to_8_bit
from osed_jax.errors import UserError

# Part of the cache key of decoded images: change it whenever `decode` returns other pixels.
DECODER = "2"
# Formats that Pillow reads itself and recognises by their first bytes. It would use other programs
# for some formats (EPS), and take any file for others (TGA).
_LOSSLESS = ("PNG", "GIF", "BMP", "DIB", "PPM", "QOI", "TIFF")
FORMATS = (*_LOSSLESS, "JPEG", "JPEG2000", "WEBP", "AVIF")
MOST_PIXELS = 2**26  # of an image once decoded, 8192 x 8192: below 1 GiB of memory
_MOST_STORED = 2**28  # limit for formats that can be decoded at a reduced size
_LARGE = 2**24  # pixels; images above it are decoded one at a time
_one_large = threading.Lock()
_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
NO_EXIF = "have an EXIF block that cannot be read, so they are not turned upright"
NO_TEXT = "have text or other data beside the pixels that cannot be read and is left out"
FRAMES = "hold several frames or pages, of which the first is taken"
_PNG = b"\x89PNG\r\n\x1a\n"

Image.MAX_IMAGE_PIXELS = None  # the limits are those above


class UnreadableError(UserError):
    """An image file that cannot be used: `path`, and `why` in words."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"cannot read the image {path}: {why}; replace or remove it")
        self.path, self.why = path, why


class Decoded(NamedTuple):
    """An image of a file.

    Attributes:
      pixels: uint8 [image_size, image_size, 3].
      size: (width, height) that it had, upright.
      notes: what the user should know about it: `NO_EXIF`, `NO_TEXT`, `FRAMES`.
      white: the value taken as white, for an image with more than 8 bits; else 0.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...] = ()
    white: float = 0.0


def decode(path: Path, image_size: int, white: float = 0.0) -> Decoded:
    """Reads an image file of any format, size and mode.

    EXIF rotation is applied; transparent pixels are laid on white; grey of more than 8 bits is
    scaled. The shorter side is resized to `image_size` (Lanczos, antialiased), the longer one
    cropped about its centre. JPEG files much larger than that are decoded at a reduced size.

    Args:
      path: of the file.
      image_size: side in pixels.
      white: the value that becomes white in an image with more than 8 bits; 0: the smallest of
        1, 3, 7, 15, ... that is not below any of its values.

    Raises:
      UnreadableError: if it is empty, too large or cannot be decoded.
    """
    with naming_the_file(path):
        chunks = _png_chunks(path)
        try:
            with Image.open(path, formats=FORMATS) as image:
                return _decode(image, image_size, white)
        except UserError:
            raise
        except Exception as error:
            if not chunks:
                raise
            source = io.BytesIO(b"".join(c for c in chunks if _is_of_the_pixels(c)))
            with contextlib.suppress(Exception), Image.open(source, formats=("PNG",)) as image:
                decoded = _decode(image, image_size, white)
                return decoded._replace(notes=(*decoded.notes, NO_TEXT))
            raise error


def is_image(path: Path) -> bool:
    """Whether the first bytes of a file are those of an image that `decode` reads."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # a file of another kind can raise any error in a decoder
        return False


def fit(image: Image.Image, image_size: int) -> Image.Image:
    """The image as RGB, resized and cropped to a square as `decode` says."""
    size = (image_size, image_size)
    return ImageOps.fit(_as_rgb(image), size, Image.Resampling.LANCZOS)


@contextlib.contextmanager
def naming_the_file(path: Path) -> Iterator[None]:
    """Turns any error of a damaged image into one line that names the file."""
    try:
        yield
    except Exception as error:
        empty = path.is_file() and path.stat().st_size == 0
        why = "the file is empty" if empty else str(error) or type(error).__name__
        raise UnreadableError(path, " ".join(why.split())) from error


def _decode(image: Image.Image, image_size: int, white: float) -> Decoded:
    stored = image.size
    # The second half of the reduction is done by Lanczos.
    image.draft(None, (2 * image_size, 2 * image_size))
    _check_size(stored, image.size)
    large = math.prod(image.size) > _LARGE or math.prod(stored) > MOST_PIXELS
    with _one_large if large else contextlib.nullcontext():
        check_colour_depth(image)
        orientation, notes = _orientation(image)
        if image.format != "MPO" and getattr(image, "is_animated", False):
            notes += (FRAMES,)
        if is_deep(image):
            image, white = to_8_bit(image, white)
        else:
            white = 0.0
        square = fit(image, image_size)
    if orientation in _TURNS:
        square = square.transpose(_TURNS[orientation])
    size = stored[::-1] if orientation in _TURNED else stored
    return Decoded(np.asarray(square), size, notes, white)


def _orientation(image: Image.Image) -> tuple[int, tuple[str, ...]]:
    try:
        if block := image.info.get("exif"):
            Image.Exif().load(block)  # `getexif` does not report this for a JPEG
        return image.getexif().get(_ORIENTATION, 1), ()
    except Exception:  # many kinds, where the block is damaged; the pixels do not need it
        return 1, (NO_EXIF,)


def _check_size(stored: tuple[int, int], decoded: tuple[int, int]) -> None:
    for (width, height), most in ((stored, _MOST_STORED), (decoded, MOST_PIXELS)):
        if width * height > most:
            raise UserError(
                f"it has {width:,} x {height:,} pixels, more than the limit of {most / 1e6:.0f} "
                "million; make it smaller"
            )


def _png_chunks(path: Path) -> list[bytes]:
    """The chunks of a PNG after its signature; [] for another format.

    Raises:
      UserError: if the checksum of a chunk that the pixels need is wrong; Pillow ignores that.
    """
    with open(path, "rb") as file:
        if file.read(len(_PNG)) != _PNG:
            return []
        content, at, chunks = file.read(), 0, [_PNG]
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        chunks.append(content[at:end])
        if _is_critical(chunks[-1]) and not _is_whole(chunks[-1]):
            kind = chunks[-1][4:8].decode(errors="replace")
            raise UserError(f"the checksum of its {kind} chunk is wrong, so it is damaged")
        at = end
    return chunks


def _is_of_the_pixels(chunk: bytes) -> bool:
    needed = _is_critical(chunk) or chunk[4:8] in (b"tRNS", b"eXIf")
    return chunk == _PNG or (needed and _is_whole(chunk))


def _is_critical(chunk: bytes) -> bool:
    return not chunk[4] & 32  # capital first letter


def _is_whole(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")

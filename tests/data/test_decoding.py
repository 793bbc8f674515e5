"""From an image file to pixels: depths, limits, and what surrounds whole pixels."""

import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from osed_jax.data import decoding
from osed_jax.data.decoding import FRAMES, NO_EXIF, NO_TEXT, decode, is_image
from osed_jax.errors import UserError

RANDOM = np.random.RandomState(0)
RGB = RANDOM.randint(0, 256, (12, 12, 3)).astype(np.uint8)
RAMP = np.linspace(0, 1, 144).reshape(12, 12)


def save(path, pixels=RGB, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "values", "white"),
    [
        ("10 bits.png", (RAMP * 1023).astype(np.uint16), 1023),
        ("14 bits.tif", (RAMP * 16000).astype(np.uint16), 16383),
        ("16 bits.png", (RAMP * 65535).astype(np.uint16), 65535),
        ("20 bits.tif", (RAMP * 1e6).astype(np.int32), 2**20 - 1),
        ("mask.tif", (RAMP > 0.5).astype(np.int32), 1),
        ("dark.tif", (RAMP * 0.1).astype(np.float32), 0.125),
        ("overshot.tif", (RAMP * 1.03).astype(np.float32), 1),
        ("12 bits.tif", (RAMP * 4095).astype(np.float32), 4095),
    ],
)
def test_the_white_of_a_deep_image_is_the_smallest_full_range(tmp_path, name, values, white):
    decoded = decode(save(tmp_path / name, values), 12)
    assert decoded.white == white
    want = np.clip(values.astype(np.float64) / white, 0, 1) * 255
    np.testing.assert_allclose(decoded.pixels, want[..., None] + np.zeros(3), atol=0.51)
    wider = decode(tmp_path / name, 12, 2.0 * white).pixels
    np.testing.assert_allclose(wider[..., 0], values / white * 127.5, atol=0.51)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((RAMP * 100 - 50).astype(np.int32), "from -50 to 50"),
        ((RAMP - 0.5).astype(np.float32), "from -0.5 to 0.5"),
        (np.where(RAMP > 0.9, np.nan, RAMP).astype(np.float32), "not finite numbers"),
    ],
)
def test_values_without_a_black_are_refused(tmp_path, values, why):
    with pytest.raises(UserError, match=rf"deep.tif.*{why}.*with 8 bits"):
        decode(save(tmp_path / "deep.tif", values), 12)


def deep_colour(path, values):
    """A PNG of 16-bit colour, which Pillow reads but does not write."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b""))
    return path


def test_16_bit_colours_are_refused_where_their_upper_bits_are_unused(tmp_path):
    full = decode(deep_colour(tmp_path / "full.png", RGB.astype(np.uint16) * 257), 12)
    np.testing.assert_array_equal(full.pixels, RGB)
    with pytest.raises(UserError, match=r"low.png.*lower 12 of the 16 bits"):
        decode(deep_colour(tmp_path / "low.png", RGB.astype(np.uint16) * 16), 12)


@pytest.mark.parametrize("ending", ["avif", "jp2", "webp", "jfif", "qoi", "tiff", "dib"])
def test_formats_are_known_by_their_content(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    save(path, np.full((40, 40, 3), 90, np.uint8), format="JPEG" if ending == "jfif" else None)
    bare = path.rename(tmp_path / "bare")
    assert is_image(bare)
    np.testing.assert_allclose(decode(bare, 12).pixels, 90, atol=3)


def test_other_content_is_no_image(tmp_path):
    eps = tmp_path / "figure.png"  # Pillow would hand it to Ghostscript
    Image.fromarray(RGB).save(eps, format="EPS")
    (tmp_path / "notes.txt").write_text("BMW 3 series")
    assert not is_image(eps) and not is_image(tmp_path / "notes.txt")
    with pytest.raises(UserError, match=r"figure.png.*cannot identify"):
        decode(eps, 12)


def test_a_large_jpeg_is_decoded_at_a_reduced_size(tmp_path, monkeypatch):
    smooth = (RAMP[..., None] * [255, 128, 60]).astype(np.uint8)
    large = Image.fromarray(smooth).resize((960, 720), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 960 * 720 // 8)
    decoded = decode(tmp_path / "a.jpg", 24)
    assert decoded.size == (960, 720)
    want = decoding.fit(large, 24)
    np.testing.assert_allclose(decoded.pixels, np.asarray(want), atol=6)


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_an_image_of_too_many_pixels_is_named_before_it_is_decoded(tmp_path, monkeypatch, ending):
    path = save(tmp_path / f"huge.{ending}", np.zeros((80, 100), np.uint8))
    monkeypatch.setattr(decoding, "MOST_PIXELS", 7999)
    monkeypatch.setattr(decoding, "fit", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match=rf"huge.{ending}: it has 100 x 80 pixels, more than"):
        decode(path, 12)


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"{i}.png", np.zeros((20, 20, 3), np.uint8)) for i in range(4)]
    monkeypatch.setattr(decoding, "_LARGE", 399)
    at_work, most, real = [], [], decoding.fit

    def watched(image, size):
        at_work.append(image)
        most.append(len(at_work))
        threading.Event().wait(0.01)
        done = real(image, size)
        at_work.pop()
        return done

    monkeypatch.setattr(decoding, "fit", watched)
    threads = [threading.Thread(target=decode, args=(path, 12)) for path in paths]
    for step in ("start", "join"):
        for thread in threads:
            getattr(thread, step)()
    assert most == [1, 1, 1, 1]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_an_unreadable_exif_block_leaves_the_pixels(tmp_path, ending):
    options = {"quality": 100, "lossless": True} if ending == "webp" else {}
    save(tmp_path / f"plain.{ending}", **options)
    save(tmp_path / f"exif.{ending}", exif=b"Exif\0\0no TIFF header", **options)
    want, got = (decode(tmp_path / f"{name}.{ending}", 12) for name in ("plain", "exif"))
    np.testing.assert_array_equal(got.pixels, want.pixels)
    assert got.notes == (NO_EXIF,) and not want.notes


def test_a_text_that_is_too_large_or_damaged_leaves_the_pixels(tmp_path):
    path = save(tmp_path / "a.png")
    content = path.read_bytes()

    def with_chunk(kind, data, crc=None):
        body = kind + data
        crc = zlib.crc32(body) if crc is None else crc
        path.write_bytes(
            content[:33]
            + struct.pack(">I", len(data))
            + body
            + struct.pack(">I", crc)
            + content[33:]
        )
        return decode(path, 12)

    bomb = b"comment\0\0" + zlib.compress(b"x" * 5_000_000)
    for decoded in (with_chunk(b"zTXt", bomb), with_chunk(b"tEXt", b"a\0b", crc=1)):
        np.testing.assert_array_equal(decoded.pixels, RGB)
        assert decoded.notes == (NO_TEXT,)
    assert with_chunk(b"tEXt", b"a\0b").notes == ()


def test_damaged_pixels_are_not_saved_by_leaving_text_out(tmp_path):
    path = save(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 40] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read the image .*a.png"):
        decode(path, 12)


def test_of_several_frames_the_first_is_taken_and_that_is_noted(tmp_path):
    frames = [Image.fromarray(np.full((12, 12), v, np.uint8)) for v in (50, 200)]
    for ending in ("gif", "tif"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
        decoded = decode(tmp_path / f"a.{ending}", 12)
        assert (decoded.pixels == 50).all() and decoded.notes == (FRAMES,)

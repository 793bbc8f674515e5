"""Image folders: every mode and size, the cache, streaming, and what is wrong with them."""

import numpy as np
import pytest
from PIL import Image

from osed_jax.data import images
from osed_jax.data.decoding import decode
from osed_jax.data.folder import load_folder
from osed_jax.data.images import ArrayImages, Bank, FileImages, channel_statistics
from osed_jax.errors import UserError
from osed_jax.store.reading import check_need, load_generated

RANDOM = np.random.RandomState(0)
RGB = RANDOM.randint(0, 256, (12, 12, 3)).astype(np.uint8)


def write(path, pixels=RGB, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def make_folder(root, classes=("cat", "dog"), count=3):
    for split in ("train", "test"):
        for c in classes:
            for i in range(count):
                write(root / split / c / f"{i}.png", RANDOM.randint(0, 256, (12, 12, 3), np.uint8))
    return root


def load(root, split="train", *, cache="cache", gib=1.0, image_size=12):
    return load_folder(
        str(root), split, image_size=image_size, cache_dir=root / cache, max_decoded_gib=gib
    )


def test_same_size_rgb_is_kept_to_the_bit(tmp_path):
    pixels, size = decode(write(tmp_path / "a.png"), 12)[:2]
    np.testing.assert_array_equal(pixels, RGB)
    assert size == (12, 12)


def test_grey_palette_and_one_bit_become_rgb(tmp_path):
    grey = decode(write(tmp_path / "g.png", mode="L"), 12).pixels
    np.testing.assert_array_equal(
        grey, np.asarray(Image.fromarray(RGB).convert("L"))[..., None] + np.zeros(3, np.uint8)
    )
    palette = Image.fromarray(RGB).convert("P")
    palette.save(tmp_path / "p.gif")
    np.testing.assert_array_equal(
        decode(tmp_path / "p.gif", 12)[0], np.asarray(palette.convert("RGB"))
    )
    bits = decode(write(tmp_path / "b.png", mode="1"), 12).pixels
    assert set(np.unique(bits)) == {0, 255}


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = (np.arange(144).reshape(12, 12) * 450).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    pixels = decode(tmp_path / "deep.png", 12).pixels
    np.testing.assert_allclose(pixels[..., 0], deep / 257, atol=1)


def test_transparent_pixels_lie_on_white(tmp_path):
    alpha = np.concatenate([RGB, np.zeros((12, 12, 1), np.uint8)], axis=-1)
    alpha[:6, :, 3] = 255
    pixels = decode(write(tmp_path / "a.png", alpha), 12).pixels
    np.testing.assert_array_equal(pixels[:6], RGB[:6])
    assert (pixels[6:] == 255).all()


def test_palette_with_a_transparent_colour_lies_on_white(tmp_path):
    image = Image.fromarray((np.arange(144).reshape(12, 12) % 2).astype(np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "p.png", transparency=1)
    pixels = decode(tmp_path / "p.png", 12).pixels
    assert pixels[0, 0].tolist() == [10, 20, 30] and pixels[0, 1].tolist() == [255, 255, 255]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    pixels, size = decode(write(tmp_path / "r.png", RGB[:, :8], exif=exif), 8)[:2]
    assert size == (12, 8)
    np.testing.assert_array_equal(pixels, np.rot90(RGB[:, :8], -1)[:, 2:10])


def test_other_sizes_are_resized_and_cropped_about_the_centre(tmp_path):
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, 20:40] = 200  # the middle third is what a centre crop keeps
    pixels = decode(write(tmp_path / "wide.png", stripes), 10).pixels
    assert pixels.shape == (10, 10, 3)
    assert (np.abs(pixels.astype(int) - 200) < 15).all()  # Lanczos rings at the border


def test_order_is_that_of_the_names(tmp_path):
    make_folder(tmp_path, ("b", "a", "C"))
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    data = load(tmp_path)
    assert data.class_names == ("C", "a", "b") and data.class_counts == (3, 3, 3)
    want = np.asarray(Image.open(tmp_path / "train" / "a" / "1.png"))
    np.testing.assert_array_equal(data.images.take(np.array([4]))[0], want)


def test_decoded_once_and_keyed_by_content(tmp_path, monkeypatch):
    make_folder(tmp_path)
    first = load(tmp_path).images.take(np.arange(6))
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(load(tmp_path).images.take(np.arange(6)), first)
    monkeypatch.undo()
    write(tmp_path / "train" / "dog" / "0.png", RGB[::-1])
    changed = load(tmp_path).images.take(np.arange(6))
    np.testing.assert_array_equal(changed[3], RGB[::-1])
    np.testing.assert_array_equal(changed[4:], first[4:])


def test_streamed_images_equal_cached_ones(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / "train" / "cat" / "0.png", RGB[:5])
    cached, streamed = load(tmp_path).images, load(tmp_path, gib=0).images
    assert isinstance(cached, ArrayImages) and isinstance(streamed, FileImages)
    rows = np.array([5, 0, 0, 3, 2])
    np.testing.assert_array_equal(cached.take(rows), streamed.take(rows))
    np.testing.assert_array_equal(
        cached.select(rows).take(rows[:2] * 0 + 3), streamed.take(rows[3:4].repeat(2))
    )


def test_a_bank_counts_through_its_parts():
    parts = [ArrayImages(RANDOM.randint(0, 256, (n, 4, 4, 3), np.uint8)) for n in (5, 3)]
    bank = Bank(*parts)
    rows = np.array([7, 0, 5, 4, 0])
    want = np.concatenate([p.array for p in parts])[rows]
    np.testing.assert_array_equal(bank.take(rows), want)
    assert len(bank) == 8 and bank.nbytes == 8 * 48 and bank.in_memory


def test_channel_statistics_equal_numpy():
    array = RANDOM.randint(0, 200, (1234, 5, 5, 3)).astype(np.uint8)
    mean, std = channel_statistics(ArrayImages(array))
    np.testing.assert_allclose(mean, (array / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, (array / 255).std((0, 1, 2)), atol=1e-6)
    with pytest.raises(UserError, match="constant"):
        channel_statistics(ArrayImages(np.full((3, 5, 5, 3), 7, np.uint8)))


def test_resizing_is_said_aloud(tmp_path, capsys):
    make_folder(tmp_path)
    load(tmp_path)
    assert "resized" not in capsys.readouterr().out
    load(tmp_path, image_size=8)
    assert "6 images" in (out := capsys.readouterr().out) and "12x12" in out and "8x8" in out
    load(tmp_path, image_size=8)  # from the cache
    assert "resized to 8x8" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["npy", "json"])
def test_a_broken_cache_is_made_anew(tmp_path, ending):
    make_folder(tmp_path)
    whole = load(tmp_path).images.take(np.arange(4))
    (file,) = (tmp_path / "cache").glob(f"*.{ending}")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - 5])
    np.testing.assert_array_equal(load(tmp_path).images.take(np.arange(4)), whole)
    assert file.read_bytes() == content and len(list((tmp_path / "cache").iterdir())) == 2


def damage_empty(root):
    (root / "train" / "dog" / "1.png").write_bytes(b"")


def damage_truncated(root):
    path = write(root / "train" / "dog" / "1.jpg", np.tile(RGB, (9, 9, 1)))
    path.write_bytes(path.read_bytes()[:-500])


def damage_text(root):
    (root / "test" / "cat" / "x.jpeg").write_text("this is no image")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_empty, "dog/1.png: the file is empty"),
        (damage_truncated, "dog/1.jpg"),
        (damage_text, "cat/x.jpeg"),
    ],
)
def test_a_broken_image_is_named_and_nothing_is_half_cached(tmp_path, damage, named):
    make_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=named):
        load(tmp_path), load(tmp_path, "test")
    assert not list((tmp_path / "cache").glob("*partial"))


def test_streaming_checks_the_files_too(tmp_path):
    make_folder(tmp_path)
    damage_empty(tmp_path)
    with pytest.raises(UserError, match=r"dog/1.png"):
        load(tmp_path, gib=0)


def generated(root, counts=(5, 2), names=("cat", "dog"), **settings):
    data = load_generated(
        str(root),
        class_names=names,
        image_size=12,
        cache_dir=root / ".cache",
        max_decoded_gib=1.0,
    )
    check_need(root, data, counts, **settings)
    return data


def test_generated_images_of_any_tool(tmp_path, capsys):
    for i in range(3):
        write(tmp_path / "dog" / f"sample_{i}.jpg", np.tile(RGB, (4, 4, 1)))
    data = generated(tmp_path)
    assert data.class_counts == (0, 3) and data.images.image_size == 12
    out = capsys.readouterr().out
    assert "48x48" in out and "repeat" not in out


def test_too_few_generated_images_are_said_aloud(tmp_path, capsys):
    write(tmp_path / "dog" / "0.png")
    generated(tmp_path)
    assert "repeat: dog (1 of 3)" in capsys.readouterr().out


def test_a_class_without_generated_images_is_refused(tmp_path):
    write(tmp_path / "cat" / "0.png")
    with pytest.raises(UserError, match="no generated images of class 'dog'"):
        generated(tmp_path)


def test_all_classes_may_be_asked_to_have_generated_images(tmp_path):
    write(tmp_path / "dog" / "0.png")
    with pytest.raises(UserError, match="'cat', but config"):
        generated(tmp_path, in_all_classes=True)
    write(tmp_path / "cat" / "0.png")
    assert generated(tmp_path, in_all_classes=True).class_counts == (1, 1)


def test_a_broken_store_file_is_named(tmp_path):
    write(tmp_path / "dog" / "0.png")
    (tmp_path / "store.json").write_text('{"class_na')
    with pytest.raises(UserError, match=r"store.json is damaged .*; restore it, or remove it"):
        generated(tmp_path)


def test_an_unknown_generated_class_is_refused(tmp_path):
    write(tmp_path / "dog" / "0.png")
    write(tmp_path / "wolf" / "0.png")
    with pytest.raises(UserError, match="class 'wolf'"):
        generated(tmp_path)

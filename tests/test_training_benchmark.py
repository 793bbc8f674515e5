"""What the benchmark of the training step says about its nets, against published figures."""

import pytest

from benchmarks.training_sizes import Size


@pytest.mark.parametrize(
    ("net", "multiply_adds"),
    [
        ("resnet32", 69.1e6),  # He et al. 2016 as counted by public tables: 69 M
        ("wrn-16-2", 101.4e6),  # its layers summed by hand
        ("wrn-28-10", 5.243e9),  # 5.2 G, Zagoruyko & Komodakis 2016
    ],
)
def test_operations_of_a_forward_pass(net, multiply_adds):
    assert Size(net, 16).forward_flops() == pytest.approx(2 * multiply_adds, rel=0.01)


def test_a_size_is_read_as_it_is_written():
    for text in ("wrn-28-10:16", "resnet32:128:flip-crop"):
        assert str(Size.parse(text)) == text


def test_flip_and_crop_alone_leaves_out_the_rest_of_the_recipe():
    config = Size.parse("resnet32:128:flip-crop").config()
    assert config.augment.flip and config.augment.crop_padding == 4
    rest = ("cutout", "color_jitter_prob", "grayscale_prob", "blur_prob")
    assert [config.augment[name] for name in rest] == [0, 0, 0, 0]
    assert Size.parse("resnet32:128").config()["augment"]["cutout"] == 16


@pytest.mark.parametrize("text", ["16-2-128", "resnet32", "resnet32:8:all", ""])
def test_other_sizes_are_refused_in_one_line(text):
    with pytest.raises(SystemExit, match="is not NET:BATCH"):
        Size.parse(text)


def test_nets_that_the_project_does_not_have_are_refused():
    with pytest.raises(SystemExit, match=r"resnet31:128.*6n\+2"):
        Size.parse("resnet31:128")
    with pytest.raises(SystemExit, match="batch_size"):
        Size.parse("wrn-16-2:0")

"""Class names to prompts."""

import json

import pytest

from osed_jax.errors import UserError
from osed_jax.generation.prompts import class_prompts, display_name, read_own

TEMPLATES = ("a photo of a {class}", "a {class}, the {class}")


def test_names_are_cleaned_up():
    assert display_name("sea_lion") == "sea lion"
    assert display_name("__pick-up  truck_") == "pick-up truck"


def test_templates_take_turns_then_modifiers():
    prompts = class_prompts("sea_lion", templates=TEMPLATES, modifiers=("", "blurred"), own=None)
    assert prompts == (
        "a photo of a sea lion",
        "a sea lion, the sea lion",
        "a photo of a sea lion, blurred",
        "a sea lion, the sea lion, blurred",
    )


def test_own_names_and_own_prompts():
    own = {"0": "zero", "1": ["one stroke", "the digit {class}"]}
    first, second, third = (
        class_prompts(name, templates=["a {class}"], modifiers=["ink"], own=own) for name in "012"
    )
    assert first == ("a zero, ink",)
    assert second == ("one stroke, ink", "the digit 1, ink")
    assert third == ("a 2, ink",)


def test_a_file_of_prompts_is_read(tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"cat": ["a cat"], "dog": "hound"}))
    assert read_own(str(file), ["cat", "dog"]) == {"cat": ["a cat"], "dog": "hound"}
    assert read_own("", ["cat"]) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "must be a JSON object"),
        ('{"cat": []}', "must be a JSON object"),
        ('{"cat": [""]}', "must be a JSON object"),
        ('{"cat": 3}', "must be a JSON object"),
        ('{"cow": "a cow"}', "class 'cow', which the data set does not have; its classes are cat"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path, content, message):
    file = tmp_path / "prompts.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        read_own(str(file), ["cat"])

"""Names of models, and texts that are no sentences."""

import pytest

from emotion_perception.recognizers.base import has_sentence, model_name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL-2B-Instruct"),
        ("emotion_perception/data/small_world/vlm", "small_world/vlm"),
        ("runs/monday/adapter/", "monday/adapter"),
        ("/vlm", "vlm"),
    ],
)
def test_name_of_a_model_says_which_it_is(model, name):
    assert model_name(model) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He smiles at a birthday cake.", True),
        ("Он улыбается, глядя на торт.", True),
        ("他对着生日蛋糕微笑，看起来很开心。", True),  # noqa: RUF001
        ("no No No no 1111yes1yes", False),
        ("", False),
    ],
)
def test_repeated_answers_are_not_a_sentence(text, expected):
    assert has_sentence(text) is expected

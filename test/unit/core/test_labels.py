"""The extraction of labels from generated texts."""

import pytest

from emotion_perception.core.labels import named_in, named_in_as_in_paper, without_thoughts

THOUGHT = "fear or sadness, perhaps pain"
MARKERS = [
    ("<think>", "</think>"),
    ("<THINKING>\n", "</THINKING>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ('<think budget="9">', "</think >"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]


@pytest.mark.parametrize("extract", [named_in, named_in_as_in_paper])
@pytest.mark.parametrize(("begin", "end"), MARKERS, ids=[end for _, end in MARKERS])
def test_text_inside_thoughts_names_no_label(extract, begin, end):
    assert extract(f"{begin}{THOUGHT}\n{end}\n\npeace") == ("peace",)
    assert extract(f"anger {begin}{THOUGHT}{end} peace {begin}{THOUGHT}{end}") == ("anger", "peace")
    assert extract(f"{THOUGHT}{end}peace") == ("peace",), "the template wrote the beginning"
    assert extract(f"{begin}{THOUGHT}") == (), "the limit cut off the end"
    assert extract(f"{THOUGHT}{end}peace{begin}{THOUGHT}") == ("peace",)
    assert extract(f"{begin}{begin}{THOUGHT}{end}{THOUGHT}{end}peace") == ("peace",)


@pytest.mark.parametrize(
    "text",
    ["peace, I think", "I think: <peace>", "peace < pain", "[peace]", "<answer>peace</answer>"],
)
def test_text_outside_markers_is_no_thought(text):
    assert without_thoughts(text) == text
    assert "peace" in named_in(text)

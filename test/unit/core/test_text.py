"""Text from outside is shown as one line of bounded length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_perception.core.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("na\u00efve", "na\u00efve"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("two\nlines\tand\rmore", "two lines and more"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
        (ValueError("\x00"), "\\x00"),
    ],
)
def test_control_characters_are_shown_as_in_python(text, shown):
    assert printable(text) == shown


def test_line_breaks_are_kept_on_request():
    assert printable("a\n\tb\x1b\r", lines=True) == "a\n\tb\\x1b "


@given(st.text(alphabet=st.characters(codec=None), max_size=50), st.integers(1, 60))
def test_result_is_printable_and_bounded(text, limit):
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def test_long_text_ends_in_an_ellipsis():
    assert printable("x" * 100_000, 10) == "x" * 9 + "…"
    assert printable("x" * 10, 10) == "x" * 10

"""A reader in a child process: what ends the child is one reason."""

import pytest

from emotion_perception.io.child import run_in_child

pytestmark = pytest.mark.command


def test_values_of_the_function_are_yielded(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\nc,d\n")
    rows = run_in_child("emotion_perception.core.documents:csv_rows", str(tmp_path / "table.csv"))
    assert list(rows) == [[1, ["a", "b"]], [2, ["c", "d"]]]


@pytest.mark.parametrize(
    ("function", "arguments", "limits", "reason"),
    [
        ("os:abort", (), {}, r"the library that reads it crashed \(SIGABRT\)"),
        ("itertools:count", (), {"seconds": 1}, "it takes more than 1 s"),
        ("signal:pause", (), {"seconds": 1}, "it takes more than 1 s"),
        ("emotion_perception.core.documents:csv_rows", ("/dev/zero",), {}, "has more than"),
        ("emotion_perception.core.documents:csv_rows", ("/missing",), {}, "No such file"),
        ("not_a_module:rows", (), {}, "No module named 'not_a_module'"),
        ("os:getcwdb", ("a",), {}, "ended with status 1"),
    ],
)
def test_crash_hang_and_error_are_one_reason(function, arguments, limits, reason):
    with pytest.raises(ValueError, match=reason):
        list(run_in_child(function, *arguments, **limits))


def test_memory_is_limited():
    with pytest.raises(ValueError, match="too much memory"):
        list(
            run_in_child("emotion_perception.core.documents:csv_rows", "/dev/zero", memory=1 << 29)
        )

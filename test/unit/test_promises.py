"""Each promise on the pages of guarantees, faults and threats has the test that it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "at_least"), [("threat-model", 20), ("faults", 100), ("guarantees", 18)]
)
def test_each_named_test_exists(name, at_least):
    page = (ROOT / "docs" / "explanation" / f"{name}.md").read_text()
    named = re.findall(r"`(test/[\w/]+\.py)(?:::(\w+))?`", page)
    rows = [line for line in page.splitlines() if line.startswith("|") and "test/" in line]
    assert len(named) >= len(rows) >= at_least
    for path, function in named:
        assert (ROOT / path).is_file(), path
        assert not function or f"def {function}(" in (ROOT / path).read_text(), function

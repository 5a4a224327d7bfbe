"""Each defence on the page of the threat model has the test that it names."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_named_test_exists():
    page = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
    named = re.findall(r"`(test/[\w/]+\.py)(?:::(\w+))?`", page)
    rows = [line for line in page.splitlines() if line.startswith("|") and "test/" in line]
    assert len(named) > len(rows) > 20
    for path, name in named:
        assert not name or f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
        assert (ROOT / path).is_file(), path

"""Each promise of the documentation has the test or the file that it names."""

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


def test_each_claim_of_the_comparison_names_an_existing_test_or_file():
    page = (ROOT / "docs" / "explanation" / "comparison.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .+? \| (.+?) \|.*\| (.+) \|$", page, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 46))
    for number, claim, evidence in rows:
        assert claim in ("yes", "partly", "no", "Apache-2.0"), number
        named = re.findall(r"`(LICENSE|[\w.-]+/[\w./-]+)(?:::(\w+))?`", evidence)
        assert named or claim == "no", number
        for path, function in named:
            assert (ROOT / path).is_file(), path
            assert not function or f"def {function}(" in (ROOT / path).read_text(), function

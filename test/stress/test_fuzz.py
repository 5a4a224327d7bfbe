"""The short form of `make fuzz`."""

import pytest
from stress import fuzz


@pytest.mark.parametrize("name", fuzz.READERS)
def test_reader_of_damaged_files_reads_them_or_refuses_them_in_one_line(name):
    counts, findings = fuzz.fuzz(name, lambda number: number >= 40, batch_size=40)
    assert not findings
    assert sum(counts.values()) == 40


def test_finding_of_each_kind_is_found(monkeypatch):
    def misbehave(path):
        (number,) = path.read_bytes()[:1] or b"\0"
        if number % 4 == 0:
            raise KeyError("a")
        if number % 4 == 1:
            raise ValueError("two\nlines")
        if number % 4 == 2:
            fuzz.os.abort()

    faulty = (lambda folder: b"\x03", lambda path: misbehave(path) if path.stem == "damaged" else 0)
    monkeypatch.setitem(fuzz.READERS, "faulty", faulty)
    _, findings = fuzz.fuzz("faulty", lambda number: number >= 200, batch_size=100)
    assert set(findings) == {"!KeyError: 'a'", "!a text of several lines", "!ended with -6"}

"""Check files that are generated from the code, or write them anew."""

import os


def check_generated(path, text):
    """Check that a file is the text, or that its only Markdown table is.

    With UPDATE_GENERATED=1 in the environment the file is written instead.
    """
    written = path.read_text()
    expected = text
    if path.suffix == ".md":
        lines = written.splitlines()
        rows = [i for i, line in enumerate(lines) if line.startswith("|")]
        assert rows == list(range(rows[0], rows[-1] + 1)), f"{path} has more than one table"
        expected = "\n".join([*lines[: rows[0]], text, *lines[rows[-1] + 1 :]]) + "\n"
    if os.environ.get("UPDATE_GENERATED") == "1":
        path.write_text(expected)
    else:
        assert written == expected, f"{path} is outdated: repeat this with UPDATE_GENERATED=1"

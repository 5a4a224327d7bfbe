"""Who may read what a command wrote."""


def readable_by_others(*paths):
    """Return the files and folders, with all they contain, that others than the owner can read."""
    every = [inner for path in paths for inner in (path, *path.rglob("*"))]
    assert len(every) > 0
    return sorted(str(path) for path in every if path.stat().st_mode & 0o077)

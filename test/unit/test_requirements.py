from pathlib import Path

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def packages(name):
    """The packages of a requirements file, those of the files it includes too."""
    found = set()
    for line in (REQUIREMENTS / name).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            found |= packages(line.removeprefix("-r ").strip())
        elif line:
            found.add(line)
    return found


def test_permissive_install_lacks_exactly_the_packages_with_a_copyleft():
    assert packages("robot.txt") - packages("permissive.txt") == {"ultralytics", "num2words"}
    assert packages("permissive.txt") < packages("robot.txt")

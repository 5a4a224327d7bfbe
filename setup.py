"""Build the ament_python package. Settings of the tools are in pyproject.toml."""

from glob import glob
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

NAME = "emotion_perception"
SHARE = f"share/{NAME}"
# Where `ros2 run` and launch look for executables.
LIBEXEC = f"$base/lib/{NAME}"
HERE = Path(__file__).parent
MANIFEST = ElementTree.parse(HERE / "package.xml").getroot()


def requirements(name):
    """Return the requirements that requirements/NAME.txt lists itself."""
    lines = (HERE / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


setup(
    name=NAME,
    version=MANIFEST.findtext("version"),
    description=MANIFEST.findtext("description"),
    license=MANIFEST.findtext("license"),
    author="emotion_perception maintainers",
    author_email=MANIFEST.find("maintainer").get("email"),
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: [
            "py.typed",
            "data/msg/*.msg",
            "data/clip/*.txt",
            "data/narracap/*.txt",
            "data/small_world/*",
            "data/small_world/vlm/*",
            "evaluation/*.csv",
            "evaluation/pages/templates/*",
            "replay/report/templates/*",
            "live/page/*",
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"config/{NAME}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", glob("launch/*.launch.py")),
        (f"{SHARE}/config", glob("config/*.*")),
        (f"{SHARE}/config/sros2", glob("config/sros2/*.xml")),
    ],
    entry_points={
        "console_scripts": [
            f"emotion_node = {NAME}.ros:start_node",
            f"emotion-perception = {NAME}.cli.main:main",
        ]
    },
    # ROS and the versions of a distribution come first, so nothing is required here: the extras
    # repeat requirements/ for those who install with pip alone.
    extras_require={
        "torch": requirements("torch"),
        "robot": requirements("robot"),
        "copyleft": requirements("copyleft"),
        "face": requirements("face"),
        "research": requirements("research"),
        "dev": requirements("test") + requirements("development"),
    },
    options={"develop": {"script_dir": LIBEXEC}, "install": {"install_scripts": LIBEXEC}},
    zip_safe=True,
)

"""An ament_python package. Settings of tools are in pyproject.toml."""

from glob import glob

from setuptools import find_packages, setup

NAME = "emotion_perception"
SHARE = f"share/{NAME}"
# Where `ros2 run` and launch look for executables.
LIBEXEC = f"$base/lib/{NAME}"

setup(
    name=NAME,
    version="0.1.0",
    description="How the people in front of a robot seem to feel, from the whole scene.",
    license="Apache-2.0",
    author="emotion_perception maintainers",
    author_email="maintainers@emotion-perception.example",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: [
            "py.typed",
            "data/msg/*.msg",
            "data/narracap/*.txt",
            "data/small_world/*",
            "data/small_world/vlm/*",
            "evaluation/*.csv",
            "replay/report/assets/*",
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"config/{NAME}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", glob("launch/*.launch.py")),
        (f"{SHARE}/config", glob("config/*.*")),
    ],
    entry_points={
        "console_scripts": [
            f"emotion_node = {NAME}.ros.node:main",
            f"emotion-perception = {NAME}.cli.main:main",
        ]
    },
    options={"develop": {"script_dir": LIBEXEC}, "install": {"install_scripts": LIBEXEC}},
    zip_safe=True,
)

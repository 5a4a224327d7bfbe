"""Paths of installed packages in parameter files."""

import re
from pathlib import Path

import pytest

from emotion_perception.core.package_paths import resolve
from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.settings import Settings

CONFIG = Path(__file__).parents[3] / "config"
INDEX = "share/ament_index/resource_index/packages"


@pytest.fixture
def prefixes(tmp_path, monkeypatch):
    """Two install folders, of which the second holds the package `robot` with one file."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first / INDEX, second / INDEX, second / "share/robot"):
        folder.mkdir(parents=True)
    (second / INDEX / "robot").touch()
    (second / "share/robot/model.pt").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{first}:{second}")
    return second


def test_path_in_an_installed_package_is_found_by_its_index(prefixes):
    assert resolve("package://robot/model.pt") == str(prefixes / "share/robot/model.pt")


def test_text_without_the_scheme_is_left_alone():
    assert resolve("robot/model.pt") == "robot/model.pt"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("package://robto/model.pt", "the package 'robto' is not installed in AMENT_PREFIX_PATH"),
        ("package://robot/model2.pt", "there is no 'model2.pt' in"),
        ("package://robot", "it is not of the form package://PACKAGE/PATH"),
        ("package:///model.pt", "it is not of the form package://PACKAGE/PATH"),
        ("package://emotion_perception/nothing", "there is no 'nothing' in"),
    ],
)
def test_missing_package_or_file_is_refused_with_the_name_of_the_setting(prefixes, path, reason):
    message = f"detector.model: cannot find {path!r}: {reason}"
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.from_dict({"detector.model": path})


def test_small_world_file_works_in_any_folder_without_an_installation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    settings = Settings.from_dict(read_parameter_file(CONFIG / "small_world.yaml"))
    assert Path(settings.detector.model).is_file()
    assert (Path(settings.recognizer.model) / "model.safetensors").is_file()

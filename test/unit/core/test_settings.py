"""Every setting has one home, and refuses what it does not mean."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from emotion_perception import toy_world
from emotion_perception.core.settings import (
    SETTINGS,
    Settings,
    current_names,
    parameter_file,
    parameter_table,
    read_parameter_file,
)
from emotion_perception.recognizers.registry import systems_table

CONFIG = Path(__file__).parents[3] / "config"


def test_settings_survive_the_way_through_their_flat_form():
    given = Settings.from_dict({"max_rate": 5.0, "detector.name": "face"})
    assert Settings.from_dict(given.to_dict()) == given
    assert given.detector.name == "face"


def test_a_whole_number_is_taken_for_a_float_but_not_a_truth_value_for_a_number():
    assert Settings.from_dict({"max_rate": 5}).max_rate == 5.0
    with pytest.raises(ValueError, match="max_rate = True is of type bool, expected float"):
        Settings.from_dict({"max_rate": True})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("max_rate", float("nan"), "max_rate = nan is not a finite number"),
        ("max_rate", -1.0, "max_rate = -1.0 is not allowed: 0 to 1000 Hz"),
        ("detector.name", "hog", "detector.name = 'hog' is not allowed: one of yolo, face"),
        ("scheduler.max_people", 0, "scheduler.max_people = 0 is not allowed: 1 to 64"),
        ("recognizer.model", 7, "recognizer.model = 7 is of type int, expected str"),
        ("max_rat", 5.0, "there is no setting 'max_rat'; did you mean 'max_rate'?"),
    ],
)
def test_a_bad_value_is_refused_by_name_with_what_is_allowed(name, value, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Settings.from_dict({name: value})


def test_every_knob_has_a_description_and_a_default_that_it_allows():
    for setting in SETTINGS.values():
        assert len(setting.description) > 10, setting.name
        assert setting.validate(setting.default) == setting.default


def test_the_small_world_is_asked_as_its_models_were_trained():
    found = read_parameter_file(CONFIG / "small_world.yaml")
    for name, value in toy_world.SETTINGS.items():
        if name.endswith(".model"):
            assert (CONFIG.parent / found[name]).resolve() == Path(value).resolve()
        else:
            assert found[name] == value


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda p: p.name)
def test_a_shipped_parameter_file_names_only_what_exists(path):
    Settings.from_dict(read_parameter_file(path))


def test_the_default_parameter_file_says_what_the_code_says():
    written = read_parameter_file(CONFIG / "emotion_perception.yaml")
    assert written == Settings().to_dict()


def test_a_file_that_is_no_parameter_file_is_named(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("max_rate: 5\n")
    with pytest.raises(ValueError, match="wrong.yaml: it has no section for the node"):
        read_parameter_file(path)
    path.write_text("/**:\n  ros__parameters: 5\n")
    with pytest.raises(ValueError, match="has no `ros__parameters` with names and values"):
        read_parameter_file(path)
    path.write_text("a: [1\n")
    with pytest.raises(ValueError, match="wrong.yaml: it is not YAML"):
        read_parameter_file(path)


def test_only_what_is_for_the_node_and_not_for_ros_itself_is_read(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(
        "camera: {ros__parameters: {rate: 5}}\n"
        "/**: {ros__parameters: {use_sim_time: true, max_rate: 5.0}}\n"
        "/front/emotion_node: {ros__parameters: {detector: {name: face}}}\n"
    )
    assert read_parameter_file(path) == {"max_rate": 5.0, "detector.name": "face"}


def test_the_documentation_lists_every_parameter_as_it_is():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "parameters.md").read_text()
    assert parameter_table() in page, "paste what `emotion-perception doctor --parameters` prints"


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("leaf", "short", "'recognizer.answer_format', and 'short' is now 'continuation'"),
        ("leaf", "full", "'recognizer.answer_format', and 'full' is now 'turn'"),
        ("weights", "full", "'recognizer.quantization', and 'full' is now 'none'"),
        ("weights", "4bit", "'recognizer.quantization'"),
        ("calibrate", True, "'recognizer.subtract_prior'"),
        ("ask_for", 6, "'recognizer.label_count'"),
    ],
)
def test_former_name_is_refused_with_the_present_one(name, value, instead):
    complaint = f"there is no setting 'recognizer.{name}': it is now {instead}"
    with pytest.raises(ValueError, match=f"{re.escape(complaint)}$"):
        Settings.from_dict({f"recognizer.{name}": value})


def test_stored_settings_are_read_under_their_present_names():
    stored = {"leaf": "short", "weights": "full", "calibrate": True, "scene_size": 96}
    assert current_names(stored) == {
        "answer_format": "continuation",
        "quantization": "none",
        "subtract_prior": True,
        "scene_size": 96,
    }


def test_systems_page_is_generated_from_the_registry():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "systems.md").read_text()
    assert systems_table() in page


def test_shipped_parameter_file_is_generated_from_the_settings():
    assert (CONFIG / "emotion_perception.yaml").read_text() == parameter_file()


@pytest.mark.parametrize(
    "module",
    [
        "emotion_perception.recognizers.chance",
        "emotion_perception.recognizers.registry",
        "emotion_perception.client",
    ],
)
def test_planners_and_chance_load_no_model_library(module):
    if module.endswith("client"):
        pytest.importorskip("rclpy")
        pytest.importorskip("emotion_perception_msgs")
    forbidden = {"torch", "transformers", "supervision", "trackers", "scipy", "polars"}
    code = f"import sys, {module}; sys.exit(' '.join({forbidden} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

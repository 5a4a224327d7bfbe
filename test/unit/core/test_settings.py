"""Names, defaults and validation of the settings, and the files generated from them."""

import re
from pathlib import Path

import pytest
from support.generated import check_generated

from emotion_perception import toy_world
from emotion_perception.core.package_paths import resolve
from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.recognizer_settings import RECOGNIZER_SETTINGS, recognizer_settings
from emotion_perception.core.settings import (
    SETTINGS,
    Settings,
    current_names,
    parameter_file,
    parameter_table,
)

CONFIG = Path(__file__).parents[3] / "config"
DOCS = CONFIG.parent / "docs" / "reference"


def test_to_dict_and_from_dict_are_inverse():
    settings = Settings.from_dict({"max_rate": 5.0, "detector.name": "face"})
    assert Settings.from_dict(settings.to_dict()) == settings
    assert settings.detector.name == "face"


def test_float_setting_accepts_an_integer_but_no_boolean():
    assert Settings.from_dict({"max_rate": 5}).max_rate == 5.0
    with pytest.raises(ValueError, match="max_rate = True is of type bool, expected float"):
        Settings.from_dict({"max_rate": True})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_rate", float("nan"), "max_rate = nan is not a finite number"),
        ("max_rate", -1.0, "max_rate = -1.0 is not allowed: 0 to 1000 Hz"),
        ("detector.name", "hog", "detector.name = 'hog' is not allowed: one of yolo, detr, face"),
        ("scheduler.max_people", 0, "scheduler.max_people = 0 is not allowed: 1 to 64"),
        ("recognizer.model", 7, "recognizer.model = 7 is of type int, expected str"),
        ("max_rat", 5.0, "there is no setting 'max_rat'; did you mean 'max_rate'?"),
    ],
)
def test_invalid_value_raises_an_error_with_the_name_and_the_allowed_values(name, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.from_dict({name: value})


def test_every_setting_has_a_description_and_a_valid_default():
    for setting in SETTINGS.values():
        assert len(setting.description) > 10, setting.name
        assert setting.validate(setting.default) == setting.default


def test_small_world_file_has_the_settings_of_the_training():
    values = read_parameter_file(CONFIG / "small_world.yaml")
    for name, value in toy_world.SETTINGS.items():
        if name.endswith(".model"):
            assert Path(resolve(values[name])).resolve() == Path(value).resolve()
        else:
            assert values[name] == value


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_parameter_file_is_valid(path):
    Settings.from_dict(read_parameter_file(path))


def test_default_parameter_file_is_up_to_date():
    check_generated(CONFIG / "emotion_perception.yaml", parameter_file())
    written = read_parameter_file(CONFIG / "emotion_perception.yaml")
    assert written == Settings().to_dict()


def test_parameters_page_is_up_to_date():
    check_generated(DOCS / "parameters.md", parameter_table())


@pytest.mark.parametrize("name", RECOGNIZER_SETTINGS)
def test_recognizer_settings_are_those_of_the_chosen_class(name):
    settings = Settings.from_dict({"recognizer.name": name}).recognizer
    assert type(settings) is RECOGNIZER_SETTINGS[name]
    assert settings == recognizer_settings(name)
    assert settings.name == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"recognizer.name": "clip", "recognizer.words": "lists"},
            "cannot use recognizer.words = 'lists' with recognizer.name = clip: only narracap "
            "reads it; remove it or change recognizer.name",
        ),
        (
            {"recognizer.rationale": True, "recognizer.name": "remote"},
            "cannot use recognizer.rationale = True with recognizer.name = remote: only vlm reads",
        ),
        (
            {"recognizer.answer_format": "continuation", "recognizer.name": "remote"},
            "only vlm, narracap, caption, llm read it",
        ),
        (
            {"recognizer.remote.url": "http://host/v1"},
            "cannot use recognizer.remote.url = 'http://host/v1' with recognizer.name = vlm: only "
            "remote reads it",
        ),
        (
            {"detector.name": "face", "detector.image_size": 320},
            "cannot use detector.image_size = 320 with detector.name = face: only yolo, detr "
            "read it",
        ),
    ],
)
def test_setting_that_is_not_read_raises_an_error_with_those_that_read_it(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.from_dict(values)


def test_setting_that_is_not_read_is_accepted_at_its_default():
    values = {"detector.name": "face", "recognizer.name": "face"}
    defaults = {name: setting.default for name, setting in SETTINGS.items()}
    assert Settings.from_dict({**defaults, **values}) == Settings.from_dict(values)


def test_recognizer_settings_reject_what_the_recognizer_does_not_read():
    assert recognizer_settings("face", words="") == recognizer_settings("face")
    with pytest.raises(ValueError, match="cannot use recognizer.words = 'x' .*: only narracap"):
        recognizer_settings("face", words="x")
    with pytest.raises(ValueError, match=r"there is no setting 'recognizer.wrods'"):
        recognizer_settings("narracap", wrods="x")
    with pytest.raises(ValueError, match="there is no recognizer 'nothing'; choose one of vlm"):
        recognizer_settings("nothing")


def test_changed_settings_are_those_that_differ_from_the_defaults():
    assert recognizer_settings().changed() == {}
    assert recognizer_settings("llm", captions="c.csv", scoring="yes_no").changed() == {
        "name": "llm",
        "captions": "c.csv",
    }


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
def test_former_name_raises_an_error_with_the_present_name(name, value, instead):
    message = f"there is no setting 'recognizer.{name}': it is now {instead}"
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        Settings.from_dict({f"recognizer.{name}": value})


def test_stored_settings_are_read_under_their_present_names():
    stored = {"leaf": "short", "weights": "full", "calibrate": True, "scene_size": 96}
    assert current_names(stored) == {
        "answer_format": "continuation",
        "quantization": "none",
        "subtract_prior": True,
        "scene_size": 96,
    }

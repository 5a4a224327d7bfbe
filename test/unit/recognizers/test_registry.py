"""The table of recognizers."""

import ast
from pathlib import Path

import pytest
from support.generated import check_generated

from emotion_perception.core.recognizer_settings import RECOGNIZER_SETTINGS
from emotion_perception.evaluation.systems import SYSTEMS
from emotion_perception.recognizers.registry import RECOGNIZERS, calibration_file, systems_table

ROOT = Path(__file__).parents[3]


def test_table_has_the_recognizers_that_have_settings():
    assert list(RECOGNIZERS) == list(RECOGNIZER_SETTINGS)


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_factory_and_describer_are_classes_of_the_package(name):
    for reference in filter(None, (RECOGNIZERS[name].factory, RECOGNIZERS[name].describer)):
        module, cls = reference.split(":")
        path = ROOT / "emotion_perception" / "recognizers" / f"{module.replace('.', '/')}.py"
        tree = ast.parse(path.read_text())
        assert cls in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_traits_follow_from_the_settings():
    def those(trait):
        return [name for name, entry in RECOGNIZERS.items() if getattr(entry, trait)]

    assert those("writes_labels") == ["vlm", "narracap", "caption", "llm", "remote"]
    assert those("writes_captions") == ["narracap", "caption"]
    assert those("counts_labels") == ["majority", "rand6-weighted"]


def test_each_row_of_the_paper_has_valid_settings():
    for name, system in SYSTEMS.items():
        recognizer = RECOGNIZERS[system.settings["name"]]
        assert all(map(recognizer.reads, {*system.settings, *system.needs} - {"name"})), name


def test_calibration_is_beside_the_adapter_or_the_model(tmp_path):
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    model.mkdir()
    adapter.mkdir()

    def folder(name, **values):
        file = calibration_file(RECOGNIZER_SETTINGS[name](name=name, **values))
        return file and file.parent

    assert folder("vlm", model=str(model)) == model
    assert folder("vlm", model=str(model), adapter=str(adapter)) == adapter
    assert folder("narracap", model="clip", text_model=str(model)) == model
    assert folder("two-stream", model=str(model)) == model
    assert folder("two-stream", model="a-hub-name/of-a-model") is None
    assert folder("remote", model="a-model") is None
    assert folder("vlm", model=str(model), calibration="none") is None
    assert folder("remote", calibration=str(adapter / "c.yaml")) == adapter
    assert folder("face") is None
    assert folder("majority") is None


def test_systems_page_is_up_to_date():
    check_generated(ROOT / "docs" / "reference" / "systems.md", systems_table())

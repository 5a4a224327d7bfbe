"""A linear head on the states of a model with random weights, trained on the toy world."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import save_file

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.vlm import prompts
from emotion_perception.recognizers.vlm.head import Head
from emotion_perception.testing.checkpoints.vlm import save_tiny

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    toy_world.write_emotic(folder, {"train": (1, 40), "val": (2, 20)})
    return folder


@pytest.fixture(scope="module", params=["smolvlm", "qwen3_vl"])
def model(request, root, tmp_path_factory):
    folder = save_tiny(request.param, tmp_path_factory.mktemp("models") / "model")
    with pytest.raises(ModelError, match="has no head; train one with `emotion-perception head`"):
        make_recognizer(settings(folder))
    sizes = ["-p", "scene_size:=64", "-p", "crop_size:=64", "-p", "device:=cpu"]
    assert main(["head", "--root", str(root), "--model", str(folder), *sizes]) == 0
    return folder


def settings(folder, **changes):
    small = {"device": "cpu", "scene_size": 64, "crop_size": 64, "scoring": "head"}
    return recognizer_settings(model=str(folder), **{**small, **changes})


def test_person_scores_do_not_depend_on_how_many_are_assessed(model, root):
    recognizer = make_recognizer(settings(model))
    scene = emotic.load(root, "val").images[0].scene()
    people = [scene.people[0]] * 2
    both = recognizer.assess(scene, people)
    (alone,) = recognizer.assess(scene, people[:1])
    np.testing.assert_allclose(both[1].scores, alone.scores, atol=1e-5)
    assert alone.scores.shape == (26,)
    assert -1 <= alone.vad.valence <= 1


def test_served_scores_are_those_of_the_trained_head(model, root):
    recognizer, head = make_recognizer(settings(model)), Head.load(model)
    scene = emotic.load(root, "val").images[1].scene()
    boxes = [p.box for p in scene.people]
    images = prompts.make_prompt_images(scene.frame.image, boxes, settings(model))
    with torch.inference_mode():
        expected = head(recognizer.vlm.states([images], [head.layer])[:, 0])[0].sigmoid()
    served = [assessment.scores for assessment in recognizer.assess(scene, scene.people)]
    np.testing.assert_allclose(served, expected.numpy(), atol=1e-6)


def test_full_disk_keeps_the_previous_head(tmp_path, monkeypatch):
    old, new, write = Head(4, layer=1), Head(4, layer=2), Path.write_bytes
    old.save(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}

    def full(path, content):
        write(path, content[:10])
        if path.name.startswith("head.json"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"cannot write .*head.json: No space left on device"):
        new.save(tmp_path)
    kept = Head.load(tmp_path)
    assert kept.layer == 1
    torch.testing.assert_close(kept.label.weight, old.label.weight)
    assert {file.name for file in tmp_path.iterdir()} == names


def test_head_does_not_affect_other_scorings(model, root):
    recognizer = make_recognizer(settings(model, scoring="yes_no"))
    scene = emotic.load(root, "val").images[0].scene()
    assert recognizer.assess(scene, scene.people)[0].vad is not None


def test_model_that_cannot_be_packed_is_refused(root, tmp_path, capsys):
    folder = save_tiny("qwen3_5", tmp_path / "qwen3_5")
    assert main(["head", "--root", str(root), "--model", str(folder)]) == 2
    assert "cannot be packed" in capsys.readouterr().err


def test_head_refuses_the_same_split_for_fit_and_selection(root, model, capsys):
    options = ["head", "--root", str(root), "--model", str(model), "--split", "val"]
    assert main(options) == 2
    assert "--split and --val-split are the same" in capsys.readouterr().err


def test_files_of_two_heads_are_one_error(tmp_path):
    """As after a kill between the two files."""
    Head(4, layer=1).save(tmp_path)
    former = (tmp_path / "head.json").read_bytes()
    Head(4, layer=2).save(tmp_path)
    assert Head.load(tmp_path).layer == 2
    (tmp_path / "head.json").write_bytes(former)
    with pytest.raises(ModelError, match="head.json and head.safetensors are of two heads"):
        Head.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 10**9}, "do not match"),
        ({"width": 10**400}, "too large"),
        ({"width": "4"}, "do not match"),
        ({"labels": ["fear"] * 26}, "a label occurs twice"),
        ({"labels": 5}, "labels = 5 is not a list of texts"),
        ({"layer": -7}, "layer = -7"),
        ({"layer": True}, "layer = True"),
        ([], "not a JSON object"),
    ],
)
def test_head_without_sense_is_one_error(tmp_path, change, reason):
    head = Head(4, layer=1)
    head.save(tmp_path)
    save_file(head.state_dict(), tmp_path / "head.safetensors")  # an older one names no head.json
    file = tmp_path / "head.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | change if isinstance(change, dict) else change))
    with pytest.raises(ModelError, match=rf"cannot use the head in .*{reason}"):
        Head.load(tmp_path)

"""What one person, one number type or one full memory must not cost the others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.trainings import llm_settings, vlm_settings

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.vlm.model import PeopleLimit
from emotion_perception.testing.checkpoints.text import save_tiny_text
from emotion_perception.testing.checkpoints.vlm import save_tiny
from emotion_perception.testing.fakes import noise_image

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def qwen(build_once):
    return build_once("qwen3_vl", lambda folder: save_tiny("qwen3_vl", folder))


def scene(people):
    tracks = tuple(Track(f"p{i}", Box(10 * i, 5, 10 * i + 40, 90), 0.9) for i in range(people))
    return Scene(Frame(noise_image(200, 120), 5, ""), tracks)


def test_overflow_of_one_person_gives_a_reason_and_keeps_the_others(qwen, monkeypatch):
    recognizer = make_recognizer(vlm_settings(qwen))
    three = scene(3)
    expected = recognizer.assess(three, three.people)
    logits = recognizer.vlm.answer_logits

    def overflow(prompt_images):
        values = logits(prompt_images)
        values[1, 4] = np.inf
        return values

    monkeypatch.setattr(recognizer.vlm, "answer_logits", overflow)
    assessments = recognizer.assess(three, three.people)
    assert assessments[1].scores is None
    assert assessments[1].reason == (
        "the answers are not finite in float32: set recognizer.dtype to bfloat16 or float32"
    )
    for i in (0, 2):
        assert np.array_equal(assessments[i].scores, expected[i].scores)


def test_model_that_always_overflows_is_refused_at_the_start(qwen):
    recognizer = make_recognizer(vlm_settings(qwen))
    with torch.no_grad():
        recognizer.vlm.model.get_output_embeddings().weight.fill_(torch.inf)
    with pytest.raises(ModelError, match="the answers are not finite in float32: set"):
        recognizer.warm_up()


def edit(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_tokenizer_without_pad_and_end_token_pads_with_any_token(tmp_path):
    folder = save_tiny_text("qwen2", tmp_path / "model")
    captions = tmp_path / "captions.csv"
    captions.write_text("key,caption\np0,A man waves.\np1,A woman who sits on a bench sleeps.\n")
    two = scene(2)
    expected = make_recognizer(llm_settings(folder, captions)).assess(two, two.people)
    edit(folder, "tokenizer_config.json", pad_token=None, eos_token=None)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    recognizer = make_recognizer(llm_settings(folder, captions))
    assert recognizer.tokenizer.eos_token is None
    assessments = recognizer.assess(two, two.people)
    for before, after in zip(expected, assessments, strict=True):
        assert after.scores == pytest.approx(before.scores, abs=1e-6)


@pytest.mark.parametrize("family", ["qwen3_vl", "lfm2_vl"])
def test_prompt_longer_than_the_model_was_made_for_is_an_error(tmp_path, family):
    folder = Path(shutil.copytree(save_tiny(family, tmp_path / "source"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 20
    (folder / "config.json").write_text(json.dumps(config))
    one = scene(1)
    with pytest.raises(RecognizerError, match=r"a prompt has \d+ tokens .* made for 20; lower"):
        make_recognizer(vlm_settings(folder)).assess(one, one.people)


def test_number_of_people_per_pass_recovers_after_a_full_memory():
    limit = PeopleLimit()
    assert limit.count(8) == 8
    limit.failed(8)
    passes = 0
    while limit.count(8) == 4:
        limit.succeeded(4)
        passes += 1
    assert (limit.count(8), passes) == (8, 32)
    limit.failed(8)
    while limit.count(8) == 4:
        limit.succeeded(4)
        passes += 1
    assert passes == 32 + 64, "each failure doubles the waiting time"
    limit.failed(1)
    assert limit.count(8) == 1

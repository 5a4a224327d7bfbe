"""A model that is not packed gives the stock answers from forks of one cache."""

import functools
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support import drawn_people

from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.recognizers.vlm import families, forking
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.testing.checkpoints.vlm import save_tiny

pytestmark = pytest.mark.models

RECURRENT = ("qwen3_5", "minicpmv4_6")
FAMILIES = (*RECURRENT, "lfm2_vl")
VIEWS = ("both", "mark", "crop")
EXACT = 1e-5

images = functools.partial(drawn_people.images, height=77, width=131)


@pytest.fixture(scope="module")
def load(build_once):
    """A function that loads a tiny model of a family; each checkpoint is built once."""

    def load(family, **changes):
        folder = build_once(family, lambda folder: save_tiny(family, folder))
        small = {"device": "cpu", "scene_size": 96, "crop_size": 64, **changes}
        return VlmModel(recognizer_settings(model=str(folder), **small))

    return load


def logprobs(vlm, logits):
    """Return the normalised answer log-probabilities of all people, (people, answers)."""
    return np.array(
        [
            np.concatenate([x - np.logaddexp.reduce(x) for x in vlm.answers.answer_logprobs(rows)])
            for rows in logits
        ]
    )


def difference(vlm, prompt_images, monkeypatch):
    """Return the largest difference to an answer log-probability of one prompt at a time."""
    forked = logprobs(vlm, vlm.answer_logits(prompt_images))
    monkeypatch.setattr(forking, "QUESTIONS_PER_BATCH", 1)
    people = range(len(prompt_images.person_images))
    stock = logprobs(vlm, [vlm.batched_logits(prompt_images, i) for i in people])
    assert np.ptp(stock) > 0.1  # otherwise anything would be equal
    return np.abs(forked - stock).max()


@pytest.mark.parametrize(
    ("family", "view"),
    [
        *((family, view) for family in FAMILIES for view in VIEWS),
        ("ovis2", "both"),
        ("llava_onevision", "mark"),  # not packed in this view
    ],
)
def test_forked_answers_equal_those_of_one_prompt_at_a_time(load, family, view, monkeypatch):
    vlm = load(family, person_view=view)
    assert vlm.plan is None
    assert vlm.forked
    assert difference(vlm, images(vlm, 2), monkeypatch) < EXACT


def test_each_image_is_encoded_once(load):
    vlm = load("qwen3_5")
    encoded = []
    vlm.model.model.visual.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    vlm.answer_logits(images(vlm, 3))
    assert encoded == [1] * 4  # the scene image and three crops


def test_text_before_a_persons_own_image_is_read_once_per_round(load):
    vlm = load("qwen3_5")
    lengths = []
    layer = vlm.model.model.language_model.layers[0]
    layer.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[:2]))
    vlm.answer_logits(images(vlm, 2))
    scene, first, *rest = lengths
    assert scene[1] > first[1]
    assert rest.count(first) == 1
    endings = [shape for shape in rest if shape != first]
    assert sum(rows for rows, _ in endings) == 2 * 29
    assert max(rows for rows, _ in endings) <= forking.QUESTIONS_PER_BATCH


@pytest.mark.parametrize("family", FAMILIES)
def test_trial_detects_states_that_are_shared_between_forks(load, family, monkeypatch, caplog):
    fork_layer = forking._fork_layer

    def share(layer, rows):
        forked = fork_layer(layer, rows)
        if rows == 1:
            for name in ("conv_states", "recurrent_states"):
                if hasattr(layer, name):
                    setattr(forked, name, getattr(layer, name))
        return forked

    monkeypatch.setattr(forking, "_fork_layer", share)
    # One ending at a time, as a fork of a single row.
    monkeypatch.setattr(forking, "QUESTIONS_PER_BATCH", 1)
    vlm = load(family)
    assert vlm.forked is None
    assert "reads each prompt from its start: the answers from its cache differ" in caplog.text


def test_trial_detects_shifted_positions(load, monkeypatch, caplog):
    positions = forking.ForkedPrompts._positions

    def shifted(self, prefix, length, inputs):
        (places,) = positions(self, prefix, length, inputs).values()
        return {"position_ids": places + (prefix.cache is not None)}

    monkeypatch.setattr(forking.ForkedPrompts, "_positions", shifted)
    assert load("qwen3_5").forked is None
    assert "differ" in caplog.text


def test_prompt_that_is_read_in_both_directions_is_read_from_its_start(load, caplog):
    with caplog.at_level(logging.WARNING):
        vlm = load("paligemma")
    assert vlm.forked is None
    assert "reads each prompt from its start: the states of a prompt depend on the words after" in (
        caplog.text
    )
    prompt_images = images(vlm, 1)
    np.testing.assert_array_equal(
        vlm.answer_logits(prompt_images)[0], vlm.batched_logits(prompt_images, 0)
    )


def test_cache_of_an_unknown_kind_is_not_forked(load, monkeypatch, caplog):
    monkeypatch.setattr(forking, "_LAYERS", ("DynamicLayer",))
    assert load("qwen3_5").forked is None
    assert "it keeps a cache of type LinearAttentionLayer" in caplog.text


def test_bfloat16_differs_by_rounding_only(load, monkeypatch):
    vlm = load("lfm2_vl", dtype="bfloat16")
    assert vlm.forked
    assert difference(vlm, images(vlm, 1), monkeypatch) < 0.3


def test_family_that_can_be_packed_is_not_forked(load):
    assert "smolvlm" in families.FAMILIES
    assert load("smolvlm").forked is None

"""All pairs of family, model size, view, people, image size and option give the stock answers."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.covering import covering_design
from support.drawn_people import images

from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.recognizers.vlm import families, forking
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.testing.checkpoints import vlm as checkpoints

pytestmark = pytest.mark.models

EXACT = 1e-5
NOT_PACKED = ("qwen3_5", "minicpmv4_6", "lfm2_vl", "ovis2")
QUESTIONS = (0, 13, 28)

NETWORKS = {
    "as it is": {},
    "one head of keys": {"num_key_value_heads": 1},
    "a head of keys each": {"num_key_value_heads": 4},
    "tied embeddings": {"tie_word_embeddings": True},
    "other patches": {"patch_size": 8},
    "windows": {"sliding_window": 24},
}
"""Changes to the sizes of a family; those that it does not have are left out."""

OTHER_PATCHES = {
    "patch_size": (
        *("smolvlm", "llava", "vipllava", "llava_next", "deepseek_vl", "video_llama_3", "glm4v"),
        *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"),
    ),
    "sliding_window": ("gemma3", "gemma4", "cohere2_vision"),
}
"""The families to which a change of `NETWORKS` applies, where these are not all."""

OPTIONS = {
    "as it is": {},
    "whole sequence": {"by_branch": False},
    "no prefix": {"keep_prefix": False},
    "neither": {"by_branch": False, "keep_prefix": False},
    "forked": {},
}

FACTORS = {
    "family": (*families.FAMILIES, *NOT_PACKED),
    "network": tuple(NETWORKS),
    "view": ("both", "mark", "crop"),
    "people": (1, 2, 5, 9),
    "size": ((77, 131), (160, 90), (48, 200)),
    "prompt": ({}, {"answer_format": "continuation"}, {"definitions": "none"}),
    "option": tuple(OPTIONS),
}


def test_design_contains_each_pair_of_levels():
    factors = {"a": (1, 2, 3), "b": "xyz", "c": (True, False)}
    design = covering_design(factors)
    for one, other in combinations(factors, 2):
        tried = {(row[one], row[other]) for row in design}
        assert tried == set(product(factors[one], factors[other]))
    assert len(design) < 3 * 3 * 2


def small_model(family, network, folder, **changes):
    recipe = checkpoints.RECIPES[family]
    for key, value in NETWORKS[network].items():
        if family in OTHER_PATCHES.get(key, (family,)):
            part = "vision" if key == "patch_size" else "text"
            recipe = replace(recipe, **{part: {**getattr(recipe, part), key: value}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(checkpoints.RECIPES, family, recipe)
        checkpoints.save_tiny(family, folder)
    settings = {"device": "cpu", "scene_size": 96, "crop_size": 64, **changes}
    return VlmModel(recognizer_settings(model=str(folder), **settings))


def normalized(vlm, rows):
    """Return logits (questions, answer tokens) as log-probabilities among the answer tokens."""
    return rows - np.logaddexp.reduce(rows, axis=-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", covering_design(FACTORS), ids=lambda case: case["family"])
def test_answers_equal_those_of_one_prompt_at_a_time(case, tmp_path, monkeypatch):
    monkeypatch.setattr(forking, "QUESTIONS_PER_BATCH", 1)
    if case["option"] == "forked":
        monkeypatch.setattr(families, "FAMILIES", {})
    vlm = small_model(
        *(case["family"], case["network"], tmp_path / "model"),
        **{"person_view": case["view"], **case["prompt"]},
    )
    assert vlm.plan or vlm.forked
    for name, value in OPTIONS[case["option"]].items():
        setattr(vlm, name, value)
    prompt_images = images(vlm, case["people"], *case["size"])
    answers = vlm.answer_logits(prompt_images)
    texts = vlm.texts
    vlm.texts = [texts[i] for i in QUESTIONS]
    for person in {0, case["people"] - 1}:
        stock = normalized(vlm, vlm.batched_logits(prompt_images, person))
        assert np.ptp(stock) > 0.1  # otherwise anything would be equal
        found = normalized(vlm, answers[person, list(QUESTIONS)])
        assert np.abs(found - stock).max() < EXACT

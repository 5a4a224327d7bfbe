"""Packed answers equal those of the stock forward pass, for each family that can be packed."""

import logging
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image

from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.vlm import attention, families, forking, packing, prompts
from emotion_perception.recognizers.vlm import model as vlm_model
from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer
from emotion_perception.testing.checkpoints import vlm as checkpoints
from emotion_perception.testing.checkpoints.vlm import save_tiny

pytestmark = pytest.mark.models

PEOPLE = (
    Box(10, 10, 200, 400),
    Box(300, 100, 303, 103),
    Box(-50, -50, 90, 120),
    Box(300, 200, 500, 220),
    Box(400, 200, 480, 320),
)
FAMILIES = ("smolvlm", "qwen2_5_vl", "qwen3_vl")
OTHERS = (
    *("idefics3", "internvl", "llava_onevision", "qwen2_vl", "llava", "vipllava", "llava_next"),
    *("video_llama_3", "glm4v", "deepseek_vl", "gemma3", "gemma4", "granite_docling", "janus"),
    "cohere2_vision",
)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A function that makes a recognizer on a tiny model; each checkpoint is built once."""
    root = tmp_path_factory.mktemp("models")

    def load(family, **changes):
        if not (root / family).exists():
            save_tiny(family, root / family)
        small = {"device": "cpu", "scene_size": 160, "crop_size": 96, **changes}
        return VlmRecognizer(recognizer_settings(model=str(root / family), **small))

    return load


def random_images(recognizer, people, height=120, width=160):
    image = np.random.default_rng(people).integers(0, 256, (height, width, 3), dtype=np.uint8)
    scale = width / 640
    boxes = [Box(*(edge * scale for edge in box)) for box in PEOPLE[:people]]
    return prompts.make_prompt_images(image, boxes, recognizer.vlm.settings)


def difference(recognizer, prompt_images):
    """Return the largest difference between packed and single logits."""
    packed = recognizer.vlm.packed_logits(prompt_images)
    people = range(len(prompt_images.person_images))
    single = np.stack([recognizer.vlm.batched_logits(prompt_images, i) for i in people])
    assert packed.shape == single.shape
    assert np.ptp(single) > 0.1  # otherwise anything would be equal
    return np.abs(packed - single).max()


def test_each_family_that_can_be_packed_is_tested():
    assert set(FAMILIES + OTHERS) == set(families.FAMILIES)


@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_packed_answers_equal_those_of_one_prompt_at_a_time(load, family, monkeypatch):
    monkeypatch.setattr(forking, "QUESTIONS_PER_BATCH", 1)
    recognizer = load(family)
    cases = ((2, 200, 120), (1, 120, 160), (5, 90, 160))
    for people, height, width in cases[: 3 if family in FAMILIES else 1]:
        assert difference(recognizer, random_images(recognizer, people, height, width)) < 1e-4


def test_workload_counts_the_tree_and_its_images(load):
    image = np.zeros((120, 160, 3), np.uint8)
    people = [Track(f"p{i}", Box(i * 40, 10, i * 40 + 30, 110), 1.0) for i in range(3)]
    recognizer = load("smolvlm", scene_size=128, crop_size=64)
    workload_of_1, workload_of_3 = (
        recognizer.workload(Scene(Frame(image, 0, ""), ()), people[:n]) for n in (1, 3)
    )
    plan, questions = recognizer.vlm.plan, 29
    leaves = sum(len(leaf.ids) for leaf in plan.leaves)
    trunk = len(plan.trunk) - 1 + 16  # 128 px, patches of 16, four to a token
    person = len(plan.person) - 1 + 4
    assert workload_of_3.patches == (64, 16, 16, 16)
    assert workload_of_3.image_tokens == (16, 4, 4, 4)
    cached = int(np.argmax(plan.trunk == plan.image_token))
    assert workload_of_1.cached_tokens == cached == plan.constant_tokens > 100
    assert workload_of_1.tokens == trunk - cached + person + leaves
    assert workload_of_3.tokens == trunk - cached + 3 * (person + leaves)
    assert (workload_of_1.answers, workload_of_3.answers) == (questions, 3 * questions)
    assert workload_of_1.head_rows == len(recognizer.vlm.answers.ids) < 60
    trunk_pairs = (trunk**2 - cached**2) / 2
    further = (workload_of_3.attended_pairs - trunk_pairs) / 3
    assert workload_of_1.attended_pairs == pytest.approx(trunk_pairs + further)
    assert further > person * (trunk + person / 2) + leaves * (trunk + person)


@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_workload_is_consistent_for_each_family(load, family):
    image = np.zeros((120, 160, 3), np.uint8)
    recognizer = load(family)
    work = recognizer.workload(
        Scene(Frame(image, 0, ""), ()), [Track("p", Box(10, 0, 90, 80), 1.0)]
    )
    for patches, tokens in zip(work.patches, work.image_tokens, strict=True):
        if family == "llava_next":  # tiles, whose borders are cut off
            assert tokens < patches + 16
        else:  # four patches or one to a token; LLaVA-OneVision has an end token besides
            assert patches in (4 * tokens, tokens, tokens - 1)
    assert work.tokens > sum(work.image_tokens)


@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_attention_over_the_whole_sequence_equals_attention_by_branch(load, family):
    recognizer = load(family)
    prompt_images = random_images(recognizer, 3)
    by_branch = recognizer.vlm.packed_logits(prompt_images)
    recognizer.vlm.by_branch = False
    whole = recognizer.vlm.packed_logits(prompt_images)
    assert np.abs(by_branch - whole).max() < 1e-4
    assert recognizer.vlm.model.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.parametrize("view", ["mark", "crop"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packing_is_exact_for_each_view(load, family, view):
    recognizer = load(family, person_view=view)
    assert difference(recognizer, random_images(recognizer, 2)) < 1e-4


@pytest.mark.parametrize("definitions", ["question", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packing_is_exact_wherever_the_definitions_are(load, family, definitions):
    recognizer = load(family, definitions=definitions)
    assert difference(recognizer, random_images(recognizer, 2)) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_continuation_format_packs_exactly_with_fewer_tokens(load, family):
    turn, continuation = load(family), load(family, answer_format="continuation")
    assert difference(continuation, random_images(continuation, 2)) < 1e-4
    leaves = [sum(len(leaf.ids) for leaf in r.vlm.plan.leaves) for r in (turn, continuation)]
    assert leaves[1] < leaves[0] / 2


@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_comparison_detects_a_mask_that_joins_branches(load, family, monkeypatch):
    recognizer = load(family)
    monkeypatch.setattr(
        packing, "block_mask", lambda sees, segment_of, place: place[:, None] >= place[None, :]
    )
    assert difference(recognizer, random_images(recognizer, 2)) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_comparison_detects_a_mask_that_hides_the_trunk(load, family, monkeypatch):
    recognizer = load(family)
    block_mask = packing.block_mask

    def hide_trunk(sees, segment_of, place):
        mask = block_mask(sees, segment_of, place)
        mask[segment_of > 0] &= segment_of != 0
        return mask

    monkeypatch.setattr(packing, "block_mask", hide_trunk)
    assert difference(recognizer, random_images(recognizer, 2)) > 1e-3


@pytest.mark.parametrize("family", ["gemma3", "gemma4"])
@pytest.mark.parametrize("part", ["window", "image_tokens_attend_to_each_other"])
def test_comparison_detects_a_mask_without_windows_or_whole_images(load, family, part, monkeypatch):
    recognizer = load(family)
    layer_kinds = attention.layer_kinds

    def without(model):
        return {n: replace(kind, **{part: None}) for n, kind in layer_kinds(model).items()}

    monkeypatch.setattr(attention, "layer_kinds", without)
    assert difference(recognizer, random_images(recognizer, 2)) > 1e-3


@pytest.mark.parametrize("window", [2, 3])
def test_window_limits_what_the_tokens_of_an_image_attend_to(tmp_path, window, monkeypatch):
    recipe = checkpoints.RECIPES["gemma3"]
    text = {**recipe.text, "sliding_window": window}  # an image has four tokens
    monkeypatch.setitem(checkpoints.RECIPES, "gemma3", replace(recipe, text=text))
    folder = checkpoints.save_tiny("gemma3", tmp_path / "model")
    recognizer = VlmRecognizer(recognizer_settings(model=str(folder), device="cpu"))
    assert difference(recognizer, random_images(recognizer, 2)) < 1e-5


def test_comparison_detects_logits_without_their_cap(load, monkeypatch):
    recognizer = load("gemma4")
    monkeypatch.setattr(attention, "logit_adjustment", lambda model: lambda logits: logits)
    assert difference(recognizer, random_images(recognizer, 2)) > 1e-3


@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_comparison_detects_consecutive_positions(load, family, monkeypatch):
    recognizer = load(family)
    monkeypatch.setattr(
        packing.Tree,
        "positions",
        property(lambda tree: np.arange(len(tree))[None]),
    )
    assert difference(recognizer, random_images(recognizer, 2)) > 1e-4


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_comparison_detects_linear_positions_of_image_tokens(load, family, monkeypatch):
    recognizer = load(family)
    monkeypatch.setitem(families.FAMILIES, family, packing.linear_positions)
    assert difference(recognizer, random_images(recognizer, 2)) > 1e-3


def test_family_that_cannot_be_packed_is_asked_in_batches_with_one_warning(
    load, monkeypatch, caplog
):
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    people = tuple(Track(f"p{i}", box, 1.0) for i, box in enumerate(PEOPLE[:1]))
    scene = Scene(Frame(image, 0, ""), people)
    packed = load("smolvlm").assess(scene, people)
    monkeypatch.delitem(families.FAMILIES, "smolvlm")
    with caplog.at_level(logging.WARNING):
        recognizer = load("smolvlm")
        batched = [recognizer.assess(scene, people) for _ in range(2)][1]
    assert [r.message for r in caplog.records if "at a time" in r.message] == [
        "vlm:smolvlm is asked one person at a time: "
        "the family smolvlm is not known to give the same answers packed"
    ]
    np.testing.assert_allclose(packed[0].scores, batched[0].scores, atol=1e-5)


def test_view_whose_single_image_may_be_tiled_is_not_packed(load):
    assert load("llava_onevision").vlm.plan is not None
    assert load("llava_onevision", person_view="mark").vlm.plan is None


@pytest.mark.parametrize("family", FAMILIES)
def test_people_who_do_not_fit_into_memory_are_asked_in_halves(load, family, monkeypatch):
    recognizer = load(family)
    prompt_images = random_images(recognizer, 5)
    together = recognizer.vlm.answer_logits(prompt_images)
    packed_logits, counts = recognizer.vlm.packed_logits, []

    def at_most_two(prompt_images, trunk):
        counts.append(len(prompt_images.person_images))
        if counts[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return packed_logits(prompt_images, trunk)

    monkeypatch.setattr(recognizer.vlm, "packed_logits", at_most_two)
    np.testing.assert_allclose(recognizer.vlm.answer_logits(prompt_images), together, atol=1e-4)
    assert counts == [5, 2, 2, 1]
    recognizer.vlm.answer_logits(prompt_images)
    assert counts[4:] == [2, 2, 1]


@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_bfloat16_differs_by_rounding_only(load, family):
    assert difference(load(family, dtype="bfloat16"), random_images(load(family), 2)) < 0.2


def test_images_in_several_runs_of_tokens_are_asked_in_batches(load, monkeypatch, caplog):
    monkeypatch.setattr(vlm_model.packing, "collapse", lambda ids, token: list(ids))
    recognizer = load("smolvlm")
    assert recognizer.vlm.plan is None
    assert "images come before the questions" in caplog.text


def test_packing_is_exact_for_letters(load):
    recognizer = load("qwen3_vl", scoring="letters")
    assert difference(recognizer, random_images(recognizer, 2)) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_label_phrases_score_as_in_a_pass_of_their_own(load, family):
    recognizer = load(family, scoring="labels", crop_size=160)  # as large as the scene
    prompt_images = random_images(recognizer, 2)
    logprobs = recognizer.vlm.answers.answer_logprobs(
        recognizer.vlm.answer_logits(prompt_images)[1]
    )[0]
    model, answers = recognizer.vlm.model, recognizer.vlm.answers
    inputs = recognizer.vlm.encode(
        recognizer.vlm.texts[:1],
        [Image.fromarray(image) for image in prompt_images.of_person(1)],
        return_tensors="pt",
    )
    phrases = [[answers.ids[c] for _, (c,) in terms] for terms in answers.terms[0]]
    assert {len(phrase) for phrase in phrases} > {1}
    for phrase, logprob in zip(phrases, logprobs, strict=True):
        ids = torch.cat([inputs["input_ids"], torch.tensor([phrase])], 1)
        extra = {k: inputs[k] for k in ("pixel_values", "image_grid_thw") if k in inputs}
        if "image_grid_thw" in extra:
            extra["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False, **extra).logits[0].double()
        steps = logits.log_softmax(-1)[-len(phrase) - 1 : -1]
        expected = steps[range(len(phrase)), phrase].mean().item()
        assert logprob == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_padding_to_a_bucket_changes_no_answer(load, family, monkeypatch):
    # The padding and the routing of `Compiled` without the compiler, which is slow.
    monkeypatch.setattr(torch, "compile", lambda forward, **options: forward)
    eager, padded = load(family), load(family, compile=True)
    for people, height, width in ((1, 120, 160), (3, 60, 160)):
        prompt_images = random_images(eager, people, height, width)
        expected = eager.vlm.packed_logits(prompt_images)
        answers = padded.vlm.packed_logits(prompt_images)
        assert np.abs(answers - expected).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_pass_gives_the_same_answers_and_compiles_once_per_bucket(load, family):
    torch._dynamo.reset()
    eager, compiled = load(family), load(family, compile=True, compile_people=4)
    compiled.warm_up()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for people, height, width in ((1, 120, 160), (3, 60, 160), (4, 160, 90), (2, 90, 160)):
            prompt_images = random_images(eager, people, height, width)
            expected = eager.vlm.packed_logits(prompt_images)
            answers = compiled.vlm.packed_logits(prompt_images)
            assert np.abs(answers - expected).max() < 1e-4
        with pytest.raises(torch._dynamo.exc.RecompileError):
            compiled.vlm.packed_logits(random_images(eager, 5))

"""The tree of prompts by itself, and packed answers against those of one prompt at a time."""

import logging

import numpy as np
import pytest

from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box
from emotion_perception.recognizers.vlm import packing
from emotion_perception.recognizers.vlm.packing import (
    Grid,
    Tree,
    block_mask,
    linear_positions,
    merge_prompts,
    mrope_positions,
)

PICTURE = 99


def ids(*tokens):
    return np.array(tokens)


def mask_of(tree):
    return block_mask(tree.sees, tree.segment_of, np.arange(len(tree)))


def test_branches_see_their_ancestors_and_nobody_else():
    tree = Tree(PICTURE, linear_positions)
    scene = tree.add(ids(1, 2))
    ann = tree.add(ids(3), scene)
    tree.add(ids(4), ann)
    tree.add(ids(5), ann)
    bob = tree.add(ids(6), scene)
    tree.add(ids(7), bob)
    assert tree.ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert mask_of(tree).astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]
    assert tree.positions.tolist() == [[0, 1, 2, 3, 3, 2, 3]]


def test_a_picture_spreads_over_rows_and_columns_and_counting_goes_on_after_its_larger_side():
    in_picture = np.array([False, *[True] * 6, False, False])
    positions, after = mrope_positions(in_picture, [Grid(2, 3)], 10)
    assert positions.tolist() == [
        [10, 11, 11, 11, 11, 11, 11, 14, 15],
        [10, 11, 11, 11, 12, 12, 12, 14, 15],
        [10, 11, 12, 13, 11, 12, 13, 14, 15],
    ]
    assert after == 16


def test_without_pictures_all_axes_count_alike():
    positions, after = mrope_positions(np.zeros(3, bool), [], 5)
    assert positions.tolist() == [[5, 6, 7]] * 3
    assert after == 8


def test_pictures_and_grids_must_fit():
    with pytest.raises(ValueError, match="5 image tokens: they do not fill"):
        mrope_positions(np.ones(5, bool), [Grid(2, 3)], 0)


def test_an_empty_segment_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        Tree(PICTURE, linear_positions).add(ids())


def test_common_beginnings_are_held_once():
    prompts = [[1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 6], [7], [1, 2]]
    branches, ends = merge_prompts(prompts)
    assert [b.ids for b in branches] == [(1, 2), (3,), (4,), (5,), (6,), (7,)]
    for prompt, end in zip(prompts, ends, strict=True):
        path, at = [], end
        while at is not None:
            path[:0] = branches[at].ids
            at = branches[at].parent
        assert path == prompt


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="no tokens"):
        merge_prompts([[1], []])


def test_random_trees_hold_exactly_their_prompts():
    random = np.random.default_rng(0)
    for _ in range(50):
        prompts = [random.integers(0, 3, random.integers(1, 9)).tolist() for _ in range(12)]
        branches, ends = merge_prompts(prompts)
        tree = Tree(PICTURE, linear_positions)
        for branch in branches:
            tree.add(np.array(branch.ids), branch.parent)
        mask = mask_of(tree)
        for prompt, end in zip(prompts, ends, strict=True):
            (visible,) = np.nonzero(mask[tree.segments[end].end - 1])
            assert tree.ids[visible].tolist() == prompt
            assert tree.positions[0, visible].tolist() == list(range(len(prompt)))


def test_attended_pairs_of_a_small_tree():
    tree = Tree(PICTURE, linear_positions)
    scene = tree.add(ids(*range(10)))
    ann = tree.add(ids(*range(4)), scene)
    tree.add(ids(1, 2), ann)
    tree.add(ids(*range(3)), scene)
    assert tree.attended_pairs == 10 * 5 + 4 * (10 + 2) + 2 * (14 + 1) + 3 * (10 + 1.5)


def test_branches_are_the_sequence_and_see_the_trunk_and_themselves():
    tree = Tree(PICTURE, linear_positions)
    trunk = tree.add(ids(1, 2, 3))
    ann = tree.add(ids(4), trunk)
    happy = tree.add(ids(5, 6), ann)
    tree.add(ids(7), happy)
    tree.add(ids(8), trunk)
    tree.add(ids(9, 9))
    assert [(places.tolist(), own) for places, own in tree.branches] == [
        ([0, 1, 2], 3),
        ([0, 1, 2, 3, 4, 5, 6], 4),
        ([0, 1, 2, 7], 1),
        ([8, 9], 2),
    ]
    mask = mask_of(tree)
    for places, own in tree.branches:
        mask[np.ix_(places[-own:], places)] = False
    assert not mask.any()


def test_buckets_are_for_people_rounded_up_and_lengths_that_divide():
    buckets = packing.Buckets(trunk=100, person=50, multiple=64)
    assert [buckets.length(n, 100 + n * 40) for n in (1, 2, 3, 4, 5)] == [192, 256, 320, 320, 512]
    assert buckets.length(1, 201) == 320  # more than was thought possible


def test_a_plan_holds_for_every_person_and_question_exactly_their_prompt():
    questions = [[1, PICTURE, PICTURE, 2, PICTURE, 3, 4], [1, PICTURE, 2, PICTURE, 3, 5, 6]]
    plan = packing.Plan.from_prompts(questions, PICTURE, 2)
    grids = [Grid(1, 3), Grid(1, 2), Grid(2, 2)]
    tree, ends = plan.build_tree(grids, [(0, 1), (0, 2)], linear_positions)
    mask = mask_of(tree)
    for person, own in enumerate((2, 4)):
        for question, tail in enumerate(([4], [5, 6])):
            (visible,) = np.nonzero(mask[ends[person, question]])
            expected = [1, *[PICTURE] * 3, 2, *[PICTURE] * own, 3, *tail]
            assert tree.ids[visible].tolist() == expected
            assert tree.positions[0, visible].tolist() == list(range(len(expected)))
    assert len(tree) == 5 + 2 * (1 + 3) + 2 + 4


def test_a_picture_after_the_questions_part_is_refused():
    with pytest.raises(ValueError, match="1 of 2 images come before the questions"):
        packing.Plan.from_prompts([[PICTURE, 1, PICTURE], [PICTURE, 2, PICTURE]], PICTURE, 2)


# From here on with models.

PEOPLE = (
    Box(10, 10, 200, 400),
    Box(300, 100, 303, 103),
    Box(-50, -50, 90, 120),
    Box(300, 200, 500, 220),
    Box(400, 200, 480, 320),
)
FAMILIES = ("smolvlm", "qwen2_5_vl", "qwen3_vl")
OTHERS = ("idefics3", "internvl", "llava_onevision", "qwen2_vl")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A recognizer on a tiny model, by family; each checkpoint is made once."""
    pytest.importorskip("transformers")
    from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer
    from emotion_perception.testing.checkpoints.vlm import save_tiny

    root = tmp_path_factory.mktemp("models")

    def load(family, **changes):
        if not (root / family).exists():
            save_tiny(family, root / family)
        small = {"device": "cpu", "scene_size": 160, "crop_size": 96, **changes}
        return VlmRecognizer(recognizer_settings(model=str(root / family), **small))

    return load


def shown(recognizer, people, height=120, width=160):
    from emotion_perception.recognizers.vlm import prompts

    image = np.random.default_rng(people).integers(0, 256, (height, width, 3), dtype=np.uint8)
    scale = width / 640
    boxes = [Box(*(edge * scale for edge in box)) for box in PEOPLE[:people]]
    return prompts.make_prompt_images(image, boxes, recognizer.vlm.settings)


def difference(recognizer, shown):
    packed = recognizer.vlm.packed_logits(shown)
    single = np.stack(
        [recognizer.vlm.batched_logits(shown, i) for i in range(len(shown.person_images))]
    )
    assert packed.shape == single.shape
    assert np.ptp(single) > 0.1  # otherwise anything would be equal
    return np.abs(packed - single).max()


@pytest.mark.models
def test_every_family_that_packs_is_tested():
    from emotion_perception.recognizers.vlm import model as vlm

    assert set(FAMILIES + OTHERS) == set(vlm.FAMILIES)


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_packed_answers_are_those_of_one_prompt_at_a_time(load, family, monkeypatch):
    from emotion_perception.recognizers.vlm import model as vlm

    monkeypatch.setattr(vlm, "QUESTIONS_PER_BATCH", 1)
    recognizer = load(family)
    for people, height, width in ((1, 120, 160), (2, 200, 120), (5, 90, 160)):
        assert difference(recognizer, shown(recognizer, people, height, width)) < 1e-4


@pytest.mark.models
def test_the_workload_is_that_of_the_tree_and_the_pictures(load):
    from emotion_perception.core.values import Frame, Scene, Track

    image = np.zeros((120, 160, 3), np.uint8)
    people = [Track(f"p{i}", Box(i * 40, 10, i * 40 + 30, 110), 1.0) for i in range(3)]
    recognizer = load("smolvlm", scene_size=128, crop_size=64)
    one, three = (recognizer.workload(Scene(Frame(image, 0, ""), ()), people[:n]) for n in (1, 3))
    plan, questions = recognizer.vlm.plan, 29
    leaves = sum(len(leaf.ids) for leaf in plan.leaves)
    trunk = len(plan.trunk) - 1 + 16  # 128 px, patches of 16, four to a token
    person = len(plan.person) - 1 + 4
    assert three.patches == (64, 16, 16, 16)
    assert three.image_tokens == (16, 4, 4, 4)
    assert one.tokens == trunk + person + leaves
    assert three.tokens == trunk + 3 * (person + leaves)
    assert (one.answers, three.answers) == (questions, 3 * questions)
    assert one.head_rows == len(recognizer.vlm.answers.ids) < 60
    further = (three.attended_pairs - trunk**2 / 2) / 3
    assert one.attended_pairs == pytest.approx(trunk**2 / 2 + further)
    assert further > person * (trunk + person / 2) + leaves * (trunk + person)


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_every_family_knows_its_workload(load, family):
    from emotion_perception.core.values import Frame, Scene, Track

    image = np.zeros((120, 160, 3), np.uint8)
    recognizer = load(family)
    work = recognizer.workload(
        Scene(Frame(image, 0, ""), ()), [Track("p", Box(10, 0, 90, 80), 1.0)]
    )
    for patches, tokens in zip(work.patches, work.image_tokens, strict=True):
        assert patches in (4 * tokens, tokens - 1)  # LLaVA-OneVision: an end instead of merging
    assert work.tokens > sum(work.image_tokens)


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_attention_over_the_whole_sequence_gives_the_same_as_by_branch(load, family):
    recognizer = load(family)
    pictures = shown(recognizer, 3)
    by_branch = recognizer.vlm.packed_logits(pictures)
    recognizer.vlm.by_branch = False
    whole = recognizer.vlm.packed_logits(pictures)
    assert np.abs(by_branch - whole).max() < 1e-4
    assert recognizer.vlm.model.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.models
@pytest.mark.parametrize("view", ["mark", "crop"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packing_holds_for_every_view(load, family, view):
    recognizer = load(family, person_view=view)
    assert difference(recognizer, shown(recognizer, 2)) < 1e-4


@pytest.mark.models
@pytest.mark.parametrize("definitions", ["question", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packing_holds_wherever_the_definitions_stand(load, family, definitions):
    recognizer = load(family, definitions=definitions)
    assert difference(recognizer, shown(recognizer, 2)) < 1e-4


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES)
def test_short_leaves_are_packed_with_the_same_answers_and_cost_fewer_tokens(load, family):
    full, short = load(family), load(family, answer_format="continuation")
    assert difference(short, shown(short, 2)) < 1e-4
    leaves = [sum(len(leaf.ids) for leaf in r.vlm.plan.leaves) for r in (full, short)]
    assert leaves[1] < leaves[0] / 2


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_a_mask_that_lets_branches_look_at_each_other_is_noticed(load, family, monkeypatch):
    recognizer = load(family)
    monkeypatch.setattr(
        packing, "block_mask", lambda sees, segment_of, place: place[:, None] >= place[None, :]
    )
    assert difference(recognizer, shown(recognizer, 2)) > 1e-3


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_that_hides_the_trunk_is_noticed(load, family, monkeypatch):
    recognizer = load(family)
    right = packing.block_mask

    def blind(sees, segment_of, place):
        mask = right(sees, segment_of, place)
        mask[segment_of > 0] &= segment_of != 0
        return mask

    monkeypatch.setattr(packing, "block_mask", blind)
    assert difference(recognizer, shown(recognizer, 2)) > 1e-3


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_positions_that_just_run_on_are_noticed(load, family, monkeypatch):
    recognizer = load(family)
    monkeypatch.setattr(
        packing.Tree,
        "positions",
        property(lambda tree: np.arange(len(tree))[None]),
    )
    assert difference(recognizer, shown(recognizer, 2)) > 1e-3


@pytest.mark.models
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_counting_pictures_by_their_tokens_is_noticed(load, family, monkeypatch):
    from emotion_perception.recognizers.vlm import model as vlm

    recognizer = load(family)
    monkeypatch.setitem(vlm.FAMILIES, family, packing.linear_positions)
    assert difference(recognizer, shown(recognizer, 2)) > 1e-3


@pytest.mark.models
def test_a_family_that_is_not_known_to_pack_is_asked_in_batches_and_the_log_says_so_once(
    load, monkeypatch, caplog
):
    from emotion_perception.core.values import Frame, Scene, Track
    from emotion_perception.recognizers.vlm import model as vlm

    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    people = tuple(Track(f"p{i}", box, 1.0) for i, box in enumerate(PEOPLE[:1]))
    scene = Scene(Frame(image, 0, ""), people)
    packed = load("smolvlm").assess(scene, people)
    monkeypatch.delitem(vlm.FAMILIES, "smolvlm")
    with caplog.at_level(logging.WARNING):
        recognizer = load("smolvlm")
        batched = [recognizer.assess(scene, people) for _ in range(2)][1]
    assert [r.message for r in caplog.records if "one question at a time" in r.message] == [
        "vlm:smolvlm is asked one question at a time: "
        "the family smolvlm is not known to give the same answers packed"
    ]
    np.testing.assert_allclose(packed[0].scores, batched[0].scores, atol=1e-5)


@pytest.mark.models
def test_a_picture_that_may_be_tiled_when_alone_is_not_packed(load):
    assert load("llava_onevision").vlm.plan is not None
    assert load("llava_onevision", person_view="mark").vlm.plan is None


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES)
def test_people_who_do_not_fit_at_once_are_asked_in_halves(load, family, monkeypatch):
    import torch

    recognizer = load(family)
    pictures = shown(recognizer, 5)
    together = recognizer.vlm.answer_logits(pictures)
    whole, asked = recognizer.vlm.packed_logits, []

    def small(shown):
        asked.append(len(shown.person_images))
        if len(shown.person_images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(shown)

    monkeypatch.setattr(recognizer.vlm, "packed_logits", small)
    np.testing.assert_allclose(recognizer.vlm.answer_logits(pictures), together, atol=1e-4)
    assert asked == [5, 2, 2, 1]
    recognizer.vlm.answer_logits(pictures)
    assert asked[4:] == [2, 2, 1]


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_sixteen_bits_differ_by_rounding_only(load, family):
    assert difference(load(family, dtype="bfloat16"), shown(load(family), 2)) < 0.2


@pytest.mark.models
def test_pictures_in_several_runs_of_tokens_are_asked_in_batches(load, monkeypatch, caplog):
    from emotion_perception.recognizers.vlm import model as vlm

    monkeypatch.setattr(vlm.packing, "collapse", lambda ids, token: list(ids))
    recognizer = load("smolvlm")
    assert recognizer.vlm.plan is None
    assert "images come before the questions" in caplog.text


@pytest.mark.models
def test_letters_are_packed_too(load):
    recognizer = load("qwen3_vl", scoring="letters")
    assert difference(recognizer, shown(recognizer, 2)) < 1e-4


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_scored_as_if_each_were_read_by_itself(load, family):
    import torch

    recognizer = load(family, scoring="labels", crop_size=160)  # as large as the scene
    pictures = shown(recognizer, 2)
    logprobs = recognizer.vlm.answers.answer_logprobs(recognizer.vlm.answer_logits(pictures)[1])[0]
    model, answers = recognizer.vlm.model, recognizer.vlm.answers
    inputs = recognizer.vlm.encode(
        recognizer.vlm.texts[:1],
        [_image(image) for image in pictures.of_person(1)],
        return_tensors="pt",
    )
    words = [[answers.ids[c] for _, (c,) in terms] for terms in answers._terms[0]]
    assert {len(word) for word in words} > {1}
    for word, logprob in zip(words, logprobs, strict=True):
        ids = torch.cat([inputs["input_ids"], torch.tensor([word])], 1)
        extra = {k: inputs[k] for k in ("pixel_values", "image_grid_thw") if k in inputs}
        if "image_grid_thw" in extra:
            extra["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False, **extra).logits[0].double()
        steps = logits.log_softmax(-1)[-len(word) - 1 : -1]
        expected = steps[range(len(word)), word].mean().item()
        assert logprob == pytest.approx(expected, abs=1e-4)


def _image(picture):
    from PIL import Image

    return Image.fromarray(picture)


@pytest.mark.models
@pytest.mark.parametrize("family", FAMILIES + OTHERS)
def test_padding_to_a_bucket_changes_no_answer(load, family, monkeypatch):
    import torch

    # The padding and the detour of `Compiled`, without the wait for the compiler.
    monkeypatch.setattr(torch, "compile", lambda forward, **how: forward)
    eager, padded = load(family), load(family, compile=True)
    for people, height, width in ((1, 120, 160), (3, 60, 160)):
        pictures = shown(eager, people, height, width)
        expected = eager.vlm.packed_logits(pictures)
        answers = padded.vlm.packed_logits(pictures)
        assert np.abs(answers - expected).max() < 1e-4


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_pass_gives_the_same_answers_and_is_compiled_once_a_bucket(load, family):
    import torch

    torch._dynamo.reset()
    eager, compiled = load(family), load(family, compile=True, compile_people=4)
    compiled.warm_up()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for people, height, width in ((1, 120, 160), (3, 60, 160), (4, 160, 90), (2, 90, 160)):
            pictures = shown(eager, people, height, width)
            expected = eager.vlm.packed_logits(pictures)
            answers = compiled.vlm.packed_logits(pictures)
            assert np.abs(answers - expected).max() < 1e-4
        with pytest.raises(torch._dynamo.exc.RecompileError):
            compiled.vlm.packed_logits(shown(eager, 5))

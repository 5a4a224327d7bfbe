"""The tree of packed prompts: tokens, positions, masks and places of answers, without a model."""

import numpy as np
import pytest

from emotion_perception.recognizers.vlm import packing
from emotion_perception.recognizers.vlm.packing import (
    Grid,
    Tree,
    block_mask,
    linear_positions,
    merge_prompts,
    mrope_positions,
)

IMAGE = 99


def ids(*tokens):
    return np.array(tokens)


def mask_of(tree):
    return block_mask(tree.sees, tree.segment_of, np.arange(len(tree)))


def test_branches_attend_to_their_ancestors_only():
    tree = Tree(IMAGE, linear_positions)
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


def test_image_spans_rows_and_columns_and_positions_continue_after_its_larger_side():
    is_image = np.array([False, *[True] * 6, False, False])
    positions, after = mrope_positions(is_image, [Grid(2, 3)], 10)
    assert positions.tolist() == [
        [10, 11, 11, 11, 11, 11, 11, 14, 15],
        [10, 11, 11, 11, 12, 12, 12, 14, 15],
        [10, 11, 12, 13, 11, 12, 13, 14, 15],
    ]
    assert after == 16


def test_text_has_the_same_positions_on_all_axes():
    positions, after = mrope_positions(np.zeros(3, bool), [], 5)
    assert positions.tolist() == [[5, 6, 7]] * 3
    assert after == 8


def test_image_tokens_that_do_not_fill_their_grids_are_an_error():
    with pytest.raises(ValueError, match="5 image tokens: they do not fill"):
        mrope_positions(np.ones(5, bool), [Grid(2, 3)], 0)


def test_empty_segment_is_an_error():
    with pytest.raises(ValueError, match="at least one token"):
        Tree(IMAGE, linear_positions).add(ids())


def test_common_prefixes_are_stored_once():
    prompts = [[1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 6], [7], [1, 2]]
    branches, ends = merge_prompts(prompts)
    assert [b.ids for b in branches] == [(1, 2), (3,), (4,), (5,), (6,), (7,)]
    for prompt, end in zip(prompts, ends, strict=True):
        path, branch = [], end
        while branch is not None:
            path[:0] = branches[branch].ids
            branch = branches[branch].parent
        assert path == prompt


def test_empty_prompt_is_an_error():
    with pytest.raises(ValueError, match="no tokens"):
        merge_prompts([[1], []])


def test_random_trees_contain_exactly_their_prompts():
    random = np.random.default_rng(0)
    for _ in range(50):
        prompts = [random.integers(0, 3, random.integers(1, 9)).tolist() for _ in range(12)]
        branches, ends = merge_prompts(prompts)
        tree = Tree(IMAGE, linear_positions)
        for branch in branches:
            tree.add(np.array(branch.ids), branch.parent)
        mask = mask_of(tree)
        for prompt, end in zip(prompts, ends, strict=True):
            (visible,) = np.nonzero(mask[tree.segments[end].end - 1])
            assert tree.ids[visible].tolist() == prompt
            assert tree.positions[0, visible].tolist() == list(range(len(prompt)))


def test_attended_pairs_of_a_small_tree_are_counted():
    tree = Tree(IMAGE, linear_positions)
    scene = tree.add(ids(*range(10)))
    ann = tree.add(ids(*range(4)), scene)
    tree.add(ids(1, 2), ann)
    tree.add(ids(*range(3)), scene)
    assert tree.attended_pairs == 10 * 5 + 4 * (10 + 2) + 2 * (14 + 1) + 3 * (10 + 1.5)


def test_branches_cover_the_sequence_and_attend_to_the_trunk_and_themselves():
    tree = Tree(IMAGE, linear_positions)
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


def test_bucket_lengths_round_people_up_and_are_multiples():
    buckets = packing.Buckets(trunk=100, person=50, multiple=64)
    assert [buckets.length(n, 100 + n * 40) for n in (1, 2, 3, 4, 5)] == [192, 256, 320, 320, 512]
    assert buckets.length(1, 201) == 320  # more than one person at their largest


def test_plan_contains_exactly_the_prompt_of_each_person_and_question():
    questions = [[1, IMAGE, IMAGE, 2, IMAGE, 3, 4], [1, IMAGE, 2, IMAGE, 3, 5, 6]]
    plan = packing.Plan.from_prompts(questions, IMAGE, 2)
    grids = [Grid(1, 3), Grid(1, 2), Grid(2, 2)]
    tree, ends = plan.build_tree(grids, [(0, 1), (0, 2)], linear_positions)
    mask = mask_of(tree)
    for person, own in enumerate((2, 4)):
        for question, tail in enumerate(([4], [5, 6])):
            (visible,) = np.nonzero(mask[ends[person, question]])
            expected = [1, *[IMAGE] * 3, 2, *[IMAGE] * own, 3, *tail]
            assert tree.ids[visible].tolist() == expected
            assert tree.positions[0, visible].tolist() == list(range(len(expected)))
    assert len(tree) == 5 + 2 * (1 + 3) + 2 + 4


def test_image_after_the_prompts_differ_is_an_error():
    with pytest.raises(ValueError, match="1 of 2 images come before the questions"):
        packing.Plan.from_prompts([[IMAGE, 1, IMAGE], [IMAGE, 2, IMAGE]], IMAGE, 2)


def test_depth_counts_the_tokens_before_in_a_prompt_of_its_own():
    tree = Tree(IMAGE, linear_positions)
    scene = tree.add(ids(1, 2))
    ann = tree.add(ids(3), scene)
    tree.add(ids(4, 5), ann)
    bob = tree.add(ids(6), scene)
    tree.add(ids(7), bob)
    assert tree.depth.tolist() == [0, 1, 2, 3, 4, 2, 3]


def test_images_are_told_apart_by_the_words_and_segments_between_them():
    tree = Tree(IMAGE, linear_positions)
    scene = tree.add(ids(1, IMAGE, IMAGE, 2, IMAGE))
    tree.add(ids(IMAGE, 3), scene)
    tree.add(ids(IMAGE), scene)
    assert tree.image_of.tolist() == [-1, 0, 0, -1, 1, 2, -1, 3]

"""The options of a training, the paper's presets, and the learning-rate schedule."""

import pytest

from emotion_perception.training.recipe import PRESETS, Recipe


def test_presets_have_the_values_of_the_paper():
    paper = Recipe.from_options({}, "paper")
    assert (paper.rank, paper.alpha, paper.lr, paper.projector_lr) == (128, 256, 2e-4, 2e-5)
    assert (paper.objective, paper.schedule, paper.epochs) == ("answer", "cosine", 1.0)
    assert (paper.train_projector, paper.target, paper.split) == (True, "all-linear", "train")
    assert (paper.val_split, paper.keep_shared) == ("none", True), "the last state is kept"
    assert (paper.example, paper.batch * paper.accumulate) == ("person", 64)
    assert Recipe.from_options({}).keep_shared is False
    assert Recipe.from_options({}, "paper-val").split == "val"
    hundred = Recipe.from_options({"lr": 1e-5}, "paper-100")
    assert (hundred.people, hundred.split, hundred.val_split) == (100, "val", "none")
    assert (hundred.lr, hundred.rank) == (1e-5, 128)
    assert set(PRESETS) == {"paper", "paper-val", "paper-100"}


@pytest.mark.parametrize(
    ("options", "preset", "message"),
    [
        ({}, "ours", "cannot use preset 'ours'"),
        ({"rang": 1}, "", "cannot use recipe option 'rang'"),
        ({"lr": "fast"}, "", "lr = 'fast' is of type str"),
        ({"rank": 0}, "", "rank = 0 is not allowed"),
        ({"split": "val"}, "", "would select the best state on the training data"),
        ({"split": "test"}, "", "one of train, val"),
        ({"epochs": 0.0}, "", "cannot train for 0 epochs"),
        ({"patience": 1, "val_split": "none"}, "", "--patience: it needs a --val-split"),
        ({"balance": True}, "paper", "--balance: it weights labels"),
    ],
)
def test_contradictory_recipe_is_refused(options, preset, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_options(options, preset)


def test_learning_rate_warms_up_and_decays():
    linear = Recipe.from_options({"schedule": "linear", "warmup": 0.2})
    factors = [linear.learning_rate_factor(i, 10) for i in range(4)]
    assert factors == [0.5, 1.0, 1.0, pytest.approx(7 / 8)]
    cosine = Recipe.from_options({"warmup": 0.0})
    assert [cosine.learning_rate_factor(i, 4) for i in (0, 2)] == [1.0, pytest.approx(0.5)]
    assert Recipe.from_options({"warmup": 1.0}).learning_rate_factor(9, 10) == 1.0

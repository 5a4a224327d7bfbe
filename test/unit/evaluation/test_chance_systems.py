"""The chance systems of the paper: their metrics, and that they need no model."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("scipy.io")

from polars.testing import assert_frame_equal
from support.evaluation import (
    FILES,
    ROOT,
    check_runs,
    evaluate,
    evaluate_error,
    evaluate_installed,
    read_table,
)

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.evaluation import metrics
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run
from emotion_perception.recognizers.chance import ChanceRecognizer

pytestmark = pytest.mark.command

PREVALENCE = (
    13.27, 2.45, 4.74, 46.86, 3.05, 47.33, 4.61, 15.80, 12.45, 14.31, 1.89, 77.28, 13.33, 47.80,
    6.02, 3.27, 48.05, 2.03, 14.70, 29.17, 5.32, 2.88, 3.50, 6.34, 8.33, 6.48,
)  # fmt: skip
"""Per cent of EMOTIC's test people with each label: the column "Rand" of Etesam et al. 2023."""
P = np.array(PREVALENCE) / 100
PEOPLE = 7203
TRUTH = np.random.default_rng(0).random((PEOPLE, 26)) < P
TRACKS = tuple(Track(f"mscoco/{i}_0.jpg", Box(0, 0, 1, 1), 1.0) for i in range(PEOPLE))

# Predictions do not depend on the person. The expected hits, false alarms and misses of a label and
# with them precision, recall, F1 and Hamming loss, therefore follow from the frequency of the label
# (p) and of its predictions (g): precision p, recall g, F1 2 p g / (p + g), Hamming p + g - 2 p g.
# Which labels occur together matters only for subset accuracy and for the width of intervals, which
# are not tested below. Neither are the published values of Rand6-weighted: they depend on the g of
# its draws, which is not published.


def predict_by_chance(name, tmp_path):
    """Return the labels of all people, (N, 26), and how often each label is predicted, (26,)."""
    file = tmp_path / "frequencies.json"
    file.write_text(json.dumps(dict(zip(EMOTIC_LABELS, P.tolist(), strict=True))))
    values = {} if name == "rand6" else {"model": str(file)}
    recognizer = ChanceRecognizer(recognizer_settings(name, **values))
    scene = Scene(Frame(np.zeros((1, 1, 3), np.uint8), 0, ""), TRACKS)
    scores = np.array([a.scores for a in recognizer.assess(scene, TRACKS)])
    predicted = scores > recognizer.thresholds
    assert (predicted.sum(axis=1) == 6).all()
    return predicted, predicted.mean(axis=0)


def expected_metrics(g):
    """Return expected precision, recall, F1 and Hamming loss, see above."""
    f1 = 2 * P * g / (P + g)
    return [np.where(g > 0, P, 0).mean(), g.mean(), f1.mean(), (P + g - 2 * P * g).mean()]


def without_subset(values):
    return [values.precision, values.recall, values.f1, values.hamming]


def test_majority_has_the_published_metrics(tmp_path):
    predicted, g = predict_by_chance("majority", tmp_path)
    six = ["anticipation", "confidence", "engagement", "excitement", "happiness", "pleasure"]
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(g)] == six
    values = metrics.decision_metrics(TRUTH, predicted)
    assert values.recall == pytest.approx(6 / 26, abs=1e-12)
    assert expected_metrics(g)[0] == pytest.approx(0.1141, abs=1e-4)
    # Six shares of 7,203 people, with a standard deviation of at most 0.006, in a mean over 26.
    assert without_subset(values) == pytest.approx(expected_metrics(g), abs=2e-3)
    assert without_subset(values) == pytest.approx([0.1141, 0.2308, 0.1501, 0.1724], abs=2e-3)


def test_rand6_has_the_published_metrics(tmp_path):
    predicted, g = predict_by_chance("rand6", tmp_path)
    # A label is predicted for 6 of 26 people: each share has a standard deviation of 0.005.
    assert np.abs(g - 6 / 26).max() < 4.5 * 0.005
    values = metrics.decision_metrics(TRUTH, predicted)
    interval = metrics.bootstrap_decisions(TRUTH, predicted, 1000)["recall"]
    assert interval.low < 6 / 26 < interval.high
    assert without_subset(values) == pytest.approx(expected_metrics(np.full(26, 6 / 26)), abs=0.01)
    assert without_subset(values) == pytest.approx([0.1690, 0.2312, 0.1490, 0.3229], abs=0.01)
    assert values.hamming == pytest.approx(0.3229, abs=3e-3)
    assert P.mean() == pytest.approx(0.1697, abs=5e-5)


def test_metrics_of_rand6_weighted_follow_from_the_frequency_of_its_predictions(tmp_path):
    predicted, g = predict_by_chance("rand6-weighted", tmp_path)
    assert np.corrcoef(g, P)[0, 1] > 0.97
    assert g.argmax() == P.argmax()
    assert g.sum() == pytest.approx(6)
    values = metrics.decision_metrics(TRUTH, predicted)
    assert without_subset(values) == pytest.approx(expected_metrics(g), abs=0.015)
    assert values.hamming == pytest.approx(expected_metrics(g)[3], abs=3e-3)
    unweighted = metrics.decision_metrics(TRUTH, predict_by_chance("rand6", tmp_path)[0])
    assert values.hamming < unweighted.hamming - 0.05
    assert values.f1 > unweighted.f1 + 0.02


def test_rand6_is_repeatable_per_person_and_differs_between_people(tmp_path):
    first, _ = predict_by_chance("rand6", tmp_path)
    np.testing.assert_array_equal(first, predict_by_chance("rand6", tmp_path)[0])
    assert len(np.unique(first, axis=0)) > PEOPLE * 0.9


@pytest.mark.parametrize("name", ["majority", "rand6", "rand6-weighted"])
def test_chance_system_covers_all_people_and_is_repeatable(toy_emotic, data, tmp_path, name):
    for folder in ("first", "second"):
        assert evaluate("system", name, "--root", toy_emotic, "--out", tmp_path / folder) == 0
    check_runs(tmp_path / "first", tmp_path / "second", data.people, has_scores=False)
    assert "decisions_as_in_paper" not in (tmp_path / "first" / "metrics.json").read_text()


@pytest.mark.parametrize(("first", "second"), [("majority", "rand6"), ("rand6", "rand6-weighted")])
def test_chance_systems_differ(toy_emotic, tmp_path, first, second):
    scores = []
    for name in (first, second):
        assert evaluate("system", name, "--root", toy_emotic, "--out", tmp_path / name) == 0
        scores.append(np.array(read_table(tmp_path / name)["scores"].to_list()))
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


@pytest.mark.serial
def test_installed_command_has_the_same_results(toy_emotic, tmp_path):
    arguments = ["system", "majority", "--root", toy_emotic, "--out"]
    assert "people were assessed" in evaluate_installed(tmp_path, *arguments, "run")
    assert {f.name for f in (tmp_path / "run").iterdir()} == {*FILES, "answers.jsonl"}
    assert evaluate(*arguments, tmp_path / "again") == 0
    assert_frame_equal(read_table(tmp_path / "run"), read_table(tmp_path / "again"))


def test_chance_system_counts_labels_in_the_fit_split(toy_emotic, tmp_path, capsys):
    for split in ("train", "val"):
        arguments = ("system", "majority", "--root", toy_emotic, "--fit-split", split)
        assert evaluate(*arguments, "--out", tmp_path / split) == 0
        counted = json.loads((tmp_path / split / "run.json").read_text())["frequencies"]
        shares = emotic.load(toy_emotic, split).truth.mean(axis=0)
        assert counted == {"split": split, "shares": dict(zip(EMOTIC_LABELS, shares, strict=True))}
        (labels,) = np.unique(Run.read(tmp_path / split).predicted, axis=0)
        assert shares[labels].min() >= shares[~labels].max()
    message = evaluate_error(capsys, *arguments[:-1], "train", "--out", tmp_path / "val")
    assert "another run (frequencies" in message


@pytest.mark.serial
def test_chance_system_runs_without_torch_and_transformers(toy_emotic, tmp_path):
    code = """
import importlib.abc, importlib.metadata, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(name)

def version(name, version=importlib.metadata.version):
    if name in ("torch", "transformers"):
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

sys.meta_path.insert(0, NotInstalled())
importlib.metadata.version = version
from emotion_perception.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["evaluate", "system", "rand6", "--root", toy_emotic, "--out", tmp_path / "run"]
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(manifest["versions"]) == {"numpy"}

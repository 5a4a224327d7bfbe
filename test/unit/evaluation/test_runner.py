"""Runs: interruption, resume, people without an answer, and damaged files."""

import json

import numpy as np
import pytest

pytest.importorskip("scipy.io")

import polars as pl
from polars.testing import assert_frame_equal
from support.evaluation import (
    MAKE_RECOGNIZER,
    KeyedRecognizer,
    evaluate,
    evaluate_error,
    is_complete,
    read_metrics,
    read_table,
)
from support.file_modes import readable_by_others

from emotion_perception.core.errors import IncompleteRunError, RecognizerError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import Assessment
from emotion_perception.evaluation import comparison, runner
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run
from emotion_perception.testing.fakes import FakeRecognizer

pytestmark = pytest.mark.command

MANIFEST = {"system": "function"}


def evaluate_with(recognizer, data, folder, **options):
    return runner.evaluate_recognizer(data, recognizer, folder, MANIFEST, **options)


def test_run_with_descriptions_of_people_is_private(data, tmp_path):
    evaluate_with(KeyedRecognizer(), data, tmp_path / "run")
    assert readable_by_others(tmp_path / "run") == []


def test_resumed_run_equals_an_uninterrupted_one(data, tmp_path):
    evaluate_with(KeyedRecognizer(), data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate_with(KeyedRecognizer({3: KeyboardInterrupt()}), data, tmp_path / "run")
    assert not is_complete(tmp_path / "run")
    with pytest.raises(ValueError, match="is incomplete; start the same command again"):
        Run.read(tmp_path / "run")
    with (tmp_path / "run" / "answers.jsonl").open("a") as file:
        file.write('{"half": {"sco')
    second = KeyedRecognizer()
    evaluate_with(second, data, tmp_path / "run")
    assert second.keys == [person.key for image in data.images[2:] for person in image.people]
    assert_frame_equal(read_table(tmp_path / "run"), read_table(tmp_path / "whole"))
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "whole")
    answers = [f / "answers.jsonl" for f in (tmp_path / "run", tmp_path / "whole")]
    assert answers[0].read_text() == answers[1].read_text()


def test_resumed_run_asks_only_about_people_without_an_answer(data, tmp_path):
    failing = KeyedRecognizer({2: RecognizerError("busy")})
    with pytest.raises(IncompleteRunError, match=r"people have no answer yet .*: busy"):
        evaluate_with(failing, data, tmp_path)
    assert failing.calls == len(data.images), "one failure does not end the run"
    second = KeyedRecognizer()
    run = evaluate_with(second, data, tmp_path)
    assert second.keys == [person.key for person in data.images[1].people]
    assert run.assessed.all()


def test_consecutive_failures_end_the_run(toy_emotic, tmp_path):
    data = emotic.load(toy_emotic, "train")
    dead = KeyedRecognizer({number: RecognizerError("dead") for number in range(99)})
    with pytest.raises(IncompleteRunError):
        evaluate_with(dead, data, tmp_path)
    assert dead.calls == runner.MAX_CONSECUTIVE_FAILURES


def test_incomplete_run_exits_with_1_and_leaves_no_metrics(
    toy_emotic, data, tmp_path, monkeypatch, capsys
):
    failures = {}
    monkeypatch.setattr(MAKE_RECOGNIZER, lambda settings: KeyedRecognizer(failures))
    arguments = ("system", "rand6", "--root", toy_emotic, "--out", tmp_path)
    assert evaluate(*arguments) == 0
    assert is_complete(tmp_path)
    (tmp_path / "answers.jsonl").unlink()
    failures[3] = RecognizerError("busy")
    assert evaluate(*arguments) == 1
    assert "start the same command again" in " ".join(capsys.readouterr().err.split())
    assert not is_complete(tmp_path), "metrics of an older run must not stay"
    failures.clear()
    assert evaluate(*arguments) == 0
    assert read_metrics(tmp_path)["judged"] == len(data.people)


def test_give_up_counts_people_without_an_answer_as_not_assessed(
    toy_emotic, tmp_path, monkeypatch, capsys
):
    class Filtering(KeyedRecognizer):
        """Refuse every other image, more than `MAX_CONSECUTIVE_FAILURES` in all."""

        def assess(self, scene, people):
            if scene.frame.camera in refused:
                raise RecognizerError("content_filter")
            return super().assess(scene, people)

    data = emotic.load(toy_emotic, "train")
    refused = [image.path.stem for image in data.images[::2]]
    assert len(refused) > runner.MAX_CONSECUTIVE_FAILURES
    monkeypatch.setattr(MAKE_RECOGNIZER, lambda settings: Filtering())
    arguments = ("system", "rand6", "--root", toy_emotic, "--split", "train", "--out", tmp_path)
    for _ in range(2):
        assert evaluate(*arguments) == 1
    assert "or add --give-up" in " ".join(capsys.readouterr().err.split())
    assert evaluate(*arguments, "--give-up") == 0
    count = sum(len(image.people) for image in data.images[::2])
    output = " ".join(capsys.readouterr().err.split())
    assert f"{count} people count as not assessed: no answer: " in output
    run = Run.read(tmp_path)
    assert set(run.table["reason"]) == {"", "no answer: content_filter"}
    assert (~run.assessed).sum() == count
    refused.clear()
    assert evaluate(*arguments) == 0
    assert Run.read(tmp_path).assessed.all(), "the next start asks about them again"


def test_interrupted_command_exits_with_130(toy_emotic, tmp_path, monkeypatch):
    monkeypatch.setattr(MAKE_RECOGNIZER, lambda settings: KeyedRecognizer({2: KeyboardInterrupt()}))
    assert evaluate("system", "rand6", "--root", toy_emotic, "--out", tmp_path) == 130
    assert not is_complete(tmp_path)


def test_folder_with_another_run_stays_unchanged(toy_emotic, tmp_path, capsys):
    assert evaluate("system", "rand6", "--root", toy_emotic, "--out", tmp_path) == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    here = ("--root", toy_emotic, "--out", tmp_path)
    message = evaluate_error(capsys, "system", "majority", *here)
    assert "another run (system: 'rand6', now 'majority')" in message
    rand6 = ("system", "rand6", *here)
    assert "split: " in evaluate_error(capsys, *rand6, "--split", "val")
    assert "limit: None, now 2" in evaluate_error(capsys, *rand6, "--limit", 2)
    assert "input: " in evaluate_error(capsys, *rand6, "--input", "text")
    predictions, truth = tmp_path.parent / "texts.jsonl", tmp_path.parent / "truth.csv"
    predictions.write_text(json.dumps({"image": "a", "text": "Fear"}))
    truth.write_text("a,['fear']\n")
    message = evaluate_error(
        capsys, "predictions", predictions, "--labels", truth, "--out", tmp_path
    )
    assert "another run" in message
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_number_format_is_in_the_manifest_and_another_one_is_refused(
    toy_emotic, tmp_path, monkeypatch, capsys
):
    used = []
    monkeypatch.setattr(MAKE_RECOGNIZER, lambda s: used.append(s.dtype) or KeyedRecognizer())
    here = ("system", "vlm", "--root", toy_emotic, "--out", tmp_path, "-p", "device:=cpu")
    assert evaluate(*here) == 0
    assert used == ["float32"]
    message = evaluate_error(capsys, *here, "-p", "dtype:=bfloat16")
    assert "another run (settings.dtype: 'float32', now 'bfloat16')" in message


@pytest.mark.parametrize("name", ["run.json", "people.parquet"])
def test_damaged_run_is_an_error(data, tmp_path, name):
    evaluate_with(KeyedRecognizer(), data, tmp_path)
    (tmp_path / name).write_bytes(b'{"x": \n}\n')
    with pytest.raises(ValueError, match="is damaged"):
        Run.read(tmp_path)


def test_damaged_line_of_answers_is_an_error_that_names_the_line(data, tmp_path):
    evaluate_with(KeyedRecognizer(), data, tmp_path)
    file = tmp_path / "answers.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = lines[1][:50]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="answers.jsonl, line 2 is damaged .*; remove the line"):
        evaluate_with(KeyedRecognizer(), data, tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": [2.0] * 26}, "is not an object with the answer"),
        ({"scores": [0.5] * 25}, "is not an object with the answer"),
        ({"vad": [float("nan")] * 3}, "is not an object with the answer"),
        ({"words": 42}, "is not an object with the answer"),
        ({"more": 1}, "is not an object with the answer"),
        ({"scores": [10**400] + [0.5] * 25}, "too large"),
    ],
)
def test_answers_without_sense_are_refused(data, tmp_path, change, reason):
    evaluate_with(KeyedRecognizer(), data, tmp_path)
    file = tmp_path / "answers.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1] = {key: {**row, **change} for key, row in lines[1].items()}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=rf"answers.jsonl, line 2 .*{reason}.*remove the line"):
        evaluate_with(KeyedRecognizer(), data, tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"thresholds": [0.5] * 25}, "thresholds"),
        ({"thresholds": [-1.0] * 26}, "thresholds"),
        ({"thresholds": "high"}, "thresholds"),
        ({"known": ["fear", "fear"]}, "known is not a list of different labels"),
        ({"known": [5]}, "known"),
        ({"split": 5}, "split = 5 is of another type"),
        ({"asked": []}, "asked"),
        ({"data": None}, "data"),
    ],
)
def test_manifest_without_sense_is_damaged(data, tmp_path, change, reason):
    evaluate_with(KeyedRecognizer(), data, tmp_path)
    manifest = json.loads((tmp_path / "run.json").read_text()) | change
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"the run is damaged \(.*{reason}"):
        Run.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.drop("scores"), "column scores is missing"),
        (lambda t: t.with_columns(key=pl.lit(5)), "column key is missing or of another type"),
        (lambda t: t.with_columns(scores=pl.lit([2.0] * 26)), "outside 0 to 1"),
        (lambda t: t.with_columns(scores=pl.lit([0.5] * 3)), "does not hold 26 values"),
        (lambda t: t.with_columns(vad=pl.lit([float("nan")] * 3)), "outside"),
        (lambda t: t.head(0), "it has no people"),
    ],
)
def test_table_without_sense_is_damaged(data, tmp_path, change, reason):
    evaluate_with(KeyedRecognizer(), data, tmp_path)
    change(read_table(tmp_path)).write_parquet(tmp_path / "people.parquet")
    with pytest.raises(ValueError, match=rf"the run is damaged \(.*{reason}"):
        Run.read(tmp_path)


def test_folder_without_a_manifest_is_refused(data, tmp_path):
    evaluate_with(KeyedRecognizer(), data, tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="holds other files and no run; choose another"):
        evaluate_with(KeyedRecognizer(), data, tmp_path)


def test_person_without_scores_counts_as_without_labels(data, tmp_path):
    class Abstaining(KeyedRecognizer):
        def assess(self, scene, people):
            first, *others = super().assess(scene, people)
            return [Assessment(first.person_id, 0, None, reason="too dark"), *others]

    run = evaluate_with(Abstaining(), data, tmp_path)
    assert run.assessed.sum() == len(run) - len(data.images)
    assert not run.predicted[~run.assessed].any()
    assert set(run.table["reason"]) == {"", "too dark"}
    assert read_metrics(tmp_path)["judged"] == run.assessed.sum()


def test_labels_that_a_system_lacks_are_never_predicted(data, tmp_path):
    sure = FakeRecognizer(lambda person: (1.0, 0.4, 0.9), ("neutral", "anger", "fear"))
    run = evaluate_with(sure, data, tmp_path)
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(run.predicted.any(axis=0))] == ["fear"]
    np.testing.assert_allclose(run.scores[:, [1, 15]], [[0.4, 0.9]] * len(run))
    assert run.manifest["known"] == ["anger", "fear"]


def test_metrics_can_be_computed_again_from_the_run_folder(data, tmp_path):
    evaluate_with(KeyedRecognizer(), data, tmp_path)
    again = json.loads(json.dumps(Run.read(tmp_path).compute_metrics()))
    assert again == read_metrics(tmp_path)


def test_background_effect_compares_two_runs_on_the_same_people(toy_emotic, data, tmp_path):
    class Brightness(KeyedRecognizer):
        def assess(self, scene, people):
            row = np.linspace(scene.frame.image.mean() / 255, 0.5, 26)
            return [Assessment(person.person_id, 0, row) for person in people]

    plain = evaluate_with(Brightness(), data, tmp_path / "plain")
    swap = evaluate_with(Brightness(), data, tmp_path / "swap", ablation="swap")
    same = comparison.background_effect(plain, plain)
    assert same == {"people": len(plain), "leading_changed": 0.0, "score_change": 0.0}
    assert comparison.background_effect(plain, swap)["score_change"] > 0.005
    other = evaluate_with(Brightness(), emotic.load(toy_emotic, "val"), tmp_path / "val")
    with pytest.raises(ValueError, match="about different people"):
        comparison.background_effect(plain, other)

"""What scores mean: bad ones are mended, and a calibration fits what it was made from."""

import errno
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.errors import ModelError
from emotion_perception.core.interfaces import Explainer
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.logits import probability
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Scene, Track
from emotion_perception.evaluation import metrics
from emotion_perception.evaluation.calibration_fit import fit
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run, people_table
from emotion_perception.recognizers.calibrated import (
    FILE_NAME,
    Calibrated,
    Calibration,
    prompting_settings,
)
from emotion_perception.testing.fakes import FakeRecognizer, frame_at

pytestmark = pytest.mark.command

ASKED = prompting_settings(recognizer_settings())
ANN = Track("p00001", Box(10, 10, 90, 118), 0.9)
SCENE = Scene(frame_at(1), (ANN,))


def noisy(truth, seed):
    """Return scores that rank well and are far too certain, each label in its own way."""
    random = np.random.default_rng(seed)
    signal = 1.5 * truth + random.normal(size=truth.shape)
    return probability(3 * signal + np.linspace(-2, 4, truth.shape[1]))


def write_run(folder, data, scores, **about):
    """A run over drawn people, as `evaluate` would have left it."""
    about = {
        "recognizer": "function",
        "asked": ASKED,
        "calibration": "",
        "input": "scene+person",
        "settings": {"name": "face"},
        "labels": list(EMOTIC_LABELS),
        "known": list(EMOTIC_LABELS),
        "thresholds": [0.5] * 26,
        "split": data.split,
        "data": data.fingerprint(),
        **about,
    }
    keys = zip(data.people, scores, strict=True)
    rows = [
        {"key": p.key, "truth": p.labels.tolist(), "scores": list(map(float, s)), "words": ""}
        for p, s in keys
    ]
    Run(about, people_table(rows)).write(folder)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The ground truth of two parts of the toy world."""
    root = tmp_path_factory.mktemp("world")
    toy_world.write_emotic(root, {"val": (1, 130), "test": (2, 130)}, size=(64, 64))
    return {split: emotic.load(root, split) for split in ("val", "test")}


@pytest.fixture(scope="module")
def runs(parts, tmp_path_factory):
    """Two runs of one badly calibrated recognizer."""
    root = tmp_path_factory.mktemp("runs")
    return {
        split: write_run(root / split, data, noisy(data.truth, seed))
        for seed, (split, data) in enumerate(parts.items())
    }


def calibrate(*arguments):
    return main(["calibrate", *map(str, arguments)])


def error(capsys, *arguments):
    """What the command says when it refuses."""
    assert calibrate(*arguments) == 2
    words = capsys.readouterr().err
    assert "Traceback" not in words
    return words


def fitted(truth, scores, labels=EMOTIC_LABELS, **how):
    values = {"system": "function", "prompting": ASKED, "data": "0123456789abcdef"}
    return fit(truth, scores, labels, **{**values, **how})


def test_calibration_halves_the_error_on_other_people(runs, tmp_path, capsys):
    file = tmp_path / "deep" / "calibration.yaml"
    assert calibrate(runs["val"], "--check", runs["test"], "--out", file) == 0
    assert "calibration error on test" in capsys.readouterr().out
    test = Run.read(runs["test"])
    before = metrics.calibration_error(test.truth, test.scores)
    after = metrics.calibration_error(test.truth, Calibration.read(file).apply(test.scores))
    assert before > 0.2
    assert after < before / 2


def test_full_disk_keeps_the_former_calibration(runs, tmp_path, monkeypatch, capsys):
    file, write = tmp_path / FILE_NAME, Path.write_bytes
    assert calibrate(runs["val"], "--out", file) == 0
    before = file.read_bytes()

    def full(path, content):
        write(path, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    words = error(capsys, runs["val"], "--beta", 2, "--out", file)
    assert f"cannot write {file}: No space left on device; the former file remains" in words
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_unwritable_path_raises_an_error_with_the_path(runs, tmp_path, capsys):
    (tmp_path / "file").touch()
    words = error(capsys, runs["val"], "--out", tmp_path / "file" / "deep" / "x.yaml")
    assert f"cannot create the folder {tmp_path / 'file' / 'deep'}: Not a directory" in words


def test_each_label_is_given_as_often_as_it_is_true(runs, tmp_path, capsys):
    assert calibrate(runs["val"], "--out", tmp_path) == 0
    words = " ".join(capsys.readouterr().out.split())
    error = "calibration error on val, the data of the fit: "
    pooled = "calibration error pooled over labels on val, the data of the fit: "
    assert 0 <= words.index(error) < words.index(pooled)
    run, calibration = Run.read(runs["val"]), Calibration.read(tmp_path / FILE_NAME)
    chosen = calibration.apply(run.scores) > calibration.thresholds
    np.testing.assert_array_equal(chosen.sum(axis=0), run.truth.sum(axis=0))


def test_f_beta_trades_precision_for_recall(runs, tmp_path):
    figures = {}
    for beta in (0.5, 2):
        assert calibrate(runs["val"], "--beta", beta, "--out", tmp_path / f"{beta}.yaml") == 0
        calibration = Calibration.read(tmp_path / f"{beta}.yaml")
        run = Run.read(runs["val"])
        figures[beta] = metrics.decision_metrics(
            run.truth, calibration.apply(run.scores) > calibration.thresholds
        )
    assert figures[2].recall > figures[0.5].recall + 0.1
    assert figures[2].precision < figures[0.5].precision - 0.1


def test_beta_must_be_above_zero(runs, tmp_path, capsys):
    assert "choose a number above 0" in error(
        capsys, runs["val"], "--beta", 0, "--out", tmp_path / "x.yaml"
    )
    assert not list(tmp_path.iterdir())


def test_file_keeps_the_fitted_calibration(runs, parts, tmp_path):
    run = Run.read(runs["val"])
    calibration = fitted(run.truth, run.scores, data=run.manifest["data"])
    calibration.write(tmp_path / "x.yaml")
    again = Calibration.read(tmp_path / "x.yaml")
    assert (again.labels, again.system, again.data) == (
        calibration.labels,
        calibration.system,
        calibration.data,
    )
    assert again.prompting == ASKED
    assert again.name == f"platt:{parts['val'].fingerprint()[:8]}"
    for name in ("slope", "offset", "thresholds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(calibration, name))


@pytest.mark.parametrize(("slope", "offset"), [(0.5, -1), (0.1, -2), (2, 3)])
def test_fit_recovers_the_line_of_the_data(slope, offset):
    random = np.random.default_rng(0)
    logits = random.uniform(-10, 10, (40_000, 1))
    truth = random.random(logits.shape) < probability(slope * logits + offset)
    calibration = fitted(truth, probability(logits), ("fear",))
    assert calibration.slope[0] == pytest.approx(slope, rel=0.05)
    assert calibration.offset[0] == pytest.approx(offset, rel=0.05)


@pytest.mark.parametrize(
    "scores",
    [[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], [1e-9, 1e-8, 1 - 1e-9, 1.0], [0.9, 0.9, 0.1, 0.1]],
)
@pytest.mark.parametrize("beta", [None, 1.0])
def test_degenerate_scores_give_a_finite_calibration(scores, beta):
    truth = np.array([[False], [False], [True], [True]])
    calibration = fitted(truth, np.array(scores)[:, None], ("fear",), beta=beta)
    assert math.isfinite(calibration.slope[0])
    assert math.isfinite(calibration.offset[0])
    assert calibration.slope[0] >= 0
    assert 0 < calibration.thresholds[0] < 1
    applied = calibration.apply(np.array([[0.0], [0.3], [1.0]]))
    assert np.all((applied >= 0) & (applied <= 1))
    assert np.all(np.diff(applied[:, 0]) >= 0), "no label is turned round"


@pytest.mark.parametrize(("positives", "is_given"), [(10, False), (90, True)])
@pytest.mark.parametrize("tells", ["nothing", "the opposite"])
def test_label_with_uninformative_scores_is_given_to_all_or_none(positives, is_given, tells):
    truth = np.arange(100)[:, None] < positives
    scores = np.where(truth, 0.2, 0.8) if tells == "the opposite" else np.full((100, 1), 0.7)
    calibration = fitted(truth, scores, ("fear",))
    chosen = calibration.apply(scores) > calibration.thresholds
    assert (chosen == is_given).all()
    assert calibration.apply(scores)[0, 0] == pytest.approx(positives / 100, abs=0.02)


@pytest.mark.parametrize(("column", "word"), [(True, "each person has"), (False, "no person has")])
def test_label_of_all_or_no_people_raises_an_error(column, word):
    truth = np.array([[column, True], [column, False]])
    with pytest.raises(ValueError, match=f"{word} it in this data; calibrate on a larger split"):
        fitted(truth, np.full((2, 2), 0.4), ("fear", "anger"))


def test_calibrated_recognizer_returns_calibrated_scores():
    truth = np.random.default_rng(0).random((200, 2)) < 0.3
    calibration = fitted(truth, noisy(truth, 1), ("happiness", "sadness"))
    plain = FakeRecognizer(lambda person: (0.9, 0.2))
    recognizer = Calibrated(plain, calibration)
    recognizer.warm_up()
    (answer,) = recognizer.assess(SCENE, (ANN,))
    np.testing.assert_allclose(answer.scores, calibration.apply(np.array([0.9, 0.2])), rtol=1e-6)
    assert (answer.person_id, answer.stamp_ns) == ("p00001", SCENE.frame.stamp_ns)
    np.testing.assert_array_equal(recognizer.thresholds, calibration.thresholds)
    assert recognizer.name == "function"
    assert recognizer.labels == plain.labels
    assert recognizer.calibration == "platt:01234567"
    assert not isinstance(recognizer, Explainer)
    recognizer.close()
    assert plain.closed


def test_calibrated_recognizer_names_both_calibrations_and_can_explain():
    class Explains(FakeRecognizer):
        calibration = "grey:12345678"

        def explain(self, scene, person):
            return "the posture"

    truth = np.array([[True, False], [False, True]])
    recognizer = Calibrated(Explains(), fitted(truth, truth * 0.4 + 0.3, ("happiness", "sadness")))
    assert recognizer.calibration == "grey:12345678+platt:01234567"
    assert isinstance(recognizer, Explainer)
    assert recognizer.explain(SCENE, ANN) == "the posture"


def test_abstention_is_not_calibrated():
    class Abstains(FakeRecognizer):
        def assess(self, scene, people):
            from emotion_perception.core.values import Assessment

            return [Assessment(p.person_id, 7, None, reason="too dark") for p in people]

    truth = np.array([[True, False], [False, True]])
    recognizer = Calibrated(Abstains(), fitted(truth, truth * 0.4 + 0.3, ("happiness", "sadness")))
    (answer,) = recognizer.assess(SCENE, (ANN,))
    assert (answer.scores, answer.reason) == (None, "too dark")


def test_calibration_of_another_system_or_other_labels_raises_an_error():
    truth = np.array([[True, False], [False, True]])
    labels = ("happiness", "sadness")
    with pytest.raises(ValueError, match="is for another, this is function: calibrate again, or"):
        Calibrated(FakeRecognizer(), fitted(truth, truth * 0.5, labels, system="another"))
    for others in (("happiness", "fear"), ("sadness", "happiness")):
        with pytest.raises(ValueError, match="for other labels than it has: calibrate again, or"):
            Calibrated(FakeRecognizer(), fitted(truth, truth * 0.5, others))


GOOD = {
    "system": "vlm:tiny",
    "asked": ASKED,
    "data": "0123456789abcdef",
    "labels": {x: {"slope": 1.0, "offset": 0.0, "threshold": 0.3} for x in EMOTIC_LABELS},
}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "as a calibration"),
        ("system: [", "as a calibration"),
        (yaml.safe_dump(GOOD)[:200], "as a calibration"),
        (yaml.safe_dump({**GOOD, "labels": ["fear"]}), "as a calibration"),
        (yaml.safe_dump({k: v for k, v in GOOD.items() if k != "asked"}), "as a calibration"),
        (yaml.safe_dump(GOOD).replace("slope: 1.0", "slope: .nan", 1), "not finite"),
        (yaml.safe_dump(GOOD).replace("threshold: 0.3", "threshold: 1.5", 1), "outside"),
        (yaml.safe_dump(GOOD).replace("threshold: 0.3", "threshold: x", 1), "not a number"),
        (yaml.safe_dump(GOOD).replace("slope: 1.0", "slope: -1.0", 1), "slope = -1.0 .*outside"),
        (yaml.safe_dump(GOOD).replace("slope: 1.0", "slope: 1.0e+300", 1), "outside"),
        (yaml.safe_dump(GOOD).replace("  anger:", "  affection:", 1), "'affection' occurs twice"),
        (yaml.safe_dump({**GOOD, "labels": {}}), "labels is not a mapping"),
        (yaml.safe_dump({**GOOD, "labels": {"fear": {}}}), "slope = None of 'fear' is not a"),
        (yaml.safe_dump({**GOOD, "asked": {"scoring": ["yes_no"]}}), "asked"),
        (yaml.safe_dump({**GOOD, "data": 5}), "not both texts"),
        ("a: &a [*a]", "an alias is not allowed"),
        ("5", "not a mapping"),
        (b"\xff\xfe\x00", "as a calibration"),
    ],
)
def test_damaged_file_raises_an_error(tmp_path, content, complaint):
    file = tmp_path / FILE_NAME
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=complaint):
        Calibration.read(file)


def test_calibration_with_former_names_of_settings_is_read_under_the_present_ones(tmp_path):
    former = {"leaf": "short", "calibrate": False, "scene_size": 448}
    (tmp_path / FILE_NAME).write_text(yaml.safe_dump({**GOOD, "asked": former}))
    present = {"answer_format": "continuation", "subtract_prior": False, "scene_size": 448}
    assert Calibration.read(tmp_path / FILE_NAME).prompting == present


def test_unsuitable_run_raises_an_error_with_the_remedy(runs, parts, tmp_path, capsys):
    data, out = parts["val"], ("--out", tmp_path / "x.yaml")
    scores = noisy(data.truth, 0)

    def refused(scores, **about):
        folder = write_run(tmp_path / f"run_{len(list(tmp_path.iterdir()))}", data, scores, **about)
        return error(capsys, folder, *out)

    assert "hard labels only" in refused((scores > 0.5).astype(float))
    calibrated = refused(scores, calibration="grey:12345678+platt:12345678")
    assert "calibrated already" in calibrated
    assert "-p calibration:=none" in calibrated
    assert "a run with --input person" in refused(scores, input="person")
    words = refused(scores, labels=["fear", "disgust", "neutral"], known=["fear"])
    assert "no ground truth for its labels disgust, neutral" in words
    assert "is not a run" in error(capsys, tmp_path / "nowhere", *out)
    assert "same data" in error(capsys, runs["val"], "--check", runs["val"], *out)
    other = write_run(tmp_path / "o", parts["test"], noisy(parts["test"].truth, 0), recognizer="o")
    assert "a run of another system" in error(capsys, runs["val"], "--check", other, *out)
    asked = {**ASKED, "scoring": "letters"}
    other = write_run(tmp_path / "p", parts["test"], noisy(parts["test"].truth, 0), asked=asked)
    assert "other prompts" in error(capsys, runs["val"], "--check", other, *out)
    assert not (tmp_path / "x.yaml").exists()


def test_run_without_a_model_folder_needs_out(runs, parts, tmp_path, capsys):
    assert "has no model folder; pass --out FILE" in error(capsys, runs["val"])
    folder = write_run(tmp_path / "run", parts["val"], noisy(parts["val"].truth, 0))
    run = Run.read(folder)
    about = {k: v for k, v in run.manifest.items() if k != "settings"}
    Run(about, run.table).write(tmp_path / "predictions")
    assert "predictions have none" in error(capsys, tmp_path / "predictions")


@pytest.mark.models
def test_calibration_beside_a_model_is_applied_if_it_fits_and_refused_otherwise(parts, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from emotion_perception.recognizers.registry import make_recognizer
    from emotion_perception.testing.checkpoints.vlm import save_tiny

    folder = save_tiny("smolvlm", tmp_path / "tiny")
    sizes = {"scene_size": 128, "crop_size": 64}
    settings = recognizer_settings(model=str(folder), device="cpu", **sizes)
    data = parts["val"]
    run = write_run(
        tmp_path / "run",
        data,
        noisy(data.truth, 0),
        recognizer="vlm:tiny",
        asked=prompting_settings(settings),
        settings={"model": str(folder), **sizes},
    )
    assert make_recognizer(settings).calibration == ""
    assert calibrate(run) == 0
    name = f"platt:{data.fingerprint()[:8]}"
    recognizer = make_recognizer(settings)
    assert recognizer.calibration == name
    elsewhere = {"model": str(folder), "device": "cpu", "calibration": "none"}
    plain = make_recognizer(recognizer_settings(**elsewhere, **sizes))
    assert plain.calibration == ""
    (raw,), (assessed,) = (r.assess(SCENE, (ANN,)) for r in (plain, recognizer))
    wanted = Calibration.read(folder / FILE_NAME).apply(raw.scores)
    np.testing.assert_allclose(assessed.scores, wanted, rtol=1e-5)

    remedy = "calibrate again, or set recognizer.calibration to none"
    changed = {
        "scene_size": 256,
        "crop_size": 64,
        "answer_format": "continuation",
        "subtract_prior": True,
    }
    complaint = (
        "with answer_format = continuation, subtract_prior = True, scene_size = 256: it was fitted "
        "with other settings; use those (-p recognizer.answer_format:=turn "
        f"-p recognizer.subtract_prior:=false -p recognizer.scene_size:=128), {remedy}"
    )
    with pytest.raises(ModelError, match=re.escape(complaint)):
        make_recognizer(recognizer_settings(model=str(folder), device="cpu", **changed))
    other = save_tiny("smolvlm", tmp_path / "other")
    values = {"device": "cpu", "calibration": str(folder / FILE_NAME), **sizes}
    with pytest.raises(ModelError, match=f"is for vlm:tiny, this is vlm:other: {remedy}"):
        make_recognizer(recognizer_settings(model=str(other), **values))
    (folder / FILE_NAME).write_text((folder / FILE_NAME).read_text()[:300])
    with pytest.raises(ModelError, match=r"as a calibration: .*`emotion-perception calibrate`"):
        make_recognizer(settings)
    values["calibration"] = str(tmp_path / "nowhere.yaml")
    with pytest.raises(ModelError, match="as a calibration"):
        make_recognizer(recognizer_settings(model=str(folder), **values))

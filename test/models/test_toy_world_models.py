"""The included small models of the toy world: they still perform as when they were trained."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


from emotion_perception import toy_world
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Detections, Frame
from emotion_perception.evaluation import calibration_fit, metrics, runner
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.tracking_metrics import tracking_metrics
from emotion_perception.perception.detection import make_detector
from emotion_perception.perception.tracking import Tracker
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.toy_world import precision, report
from emotion_perception.toy_world.training import vlm
from emotion_perception.training.losses import log_odds, packed_loss

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def recognizer():
    return make_recognizer(
        vlm.recognizer_settings(toy_world.MODEL_FOLDER / "vlm", calibration="none")
    )


@pytest.fixture(scope="module")
def runs(recognizer, tmp_path_factory):
    """A run per ablation on 200 scenes outside the training data, and on unseen combinations."""
    folder = tmp_path_factory.mktemp("world")
    parts = dict.fromkeys(("scene+person", "person", "scene", "text"), (31, "seen"))
    parts |= {"unseen": (report.SEEDS["unseen"], "unseen")}
    parts |= {"unseen_val": (report.SEEDS["unseen_val"], "unseen")}
    for seed, part in set(parts.values()):
        toy_world.write_emotic(folder / f"{seed}", {"test": (seed, 200)}, part=part)
    data = {seed: emotic.load(folder / f"{seed}", "test") for seed, _ in parts.values()}
    return {
        name: runner.evaluate_recognizer(
            data[seed], recognizer, folder / name, {}, name if part == "seen" else "scene+person"
        )
        for name, (seed, part) in parts.items()
    }


@pytest.fixture(scope="module")
def mean_ap(runs):
    """The mAP of each run with its confidence interval."""
    return {name: run.compute_metrics(rounds=100)["map"] for name, run in runs.items()}


def test_appearance_keeps_identities_where_places_alone_confuse_them():
    pytest.importorskip("ultralytics")
    settings = Settings.from_dict(toy_world.SETTINGS)
    detector = make_detector(settings.detector)
    places_only = replace(settings.tracker, remember=0.0)
    f1, switches = {}, {}
    for seed in range(10):
        scene = list(toy_world.draw_clip(seed, 12.0))
        truth = {x.stamp_ns: {str(p.number): p.box for p in x.people} for x in scene}
        boxes = {
            "true": [
                Detections.from_lists([p.box for p in x.people], [0.9] * len(x.people))
                for x in scene
            ],
            "detected": [detector.detect(Frame(x.image, x.stamp_ns, "")) for x in scene],
        }
        for source, detections in boxes.items():
            for cue, limits in (("appearance", settings.tracker), ("places", places_only)):
                tracker = Tracker(limits, settings.detector.confidence)
                tracks = {}
                for image, found in zip(scene, detections, strict=True):
                    people = tracker.update(found, image.stamp_ns + 1, image.image)
                    tracks[image.stamp_ns] = {p.person_id: p.box for p in people}
                measured = tracking_metrics(truth, tracks)
                f1.setdefault((source, cue), []).append(measured.identity_f1)
                switches[source, cue] = switches.get((source, cue), 0) + measured.identity_switches
    for source in ("true", "detected"):
        assert np.mean(f1[source, "appearance"]) >= 0.92, f1
        assert switches[source, "appearance"] <= switches[source, "places"] / 2, switches
    assert np.mean(f1["detected", "appearance"]) >= 0.95 * np.mean(f1["true", "appearance"]), f1


def test_scene_with_person_beats_each_alone_and_each_beats_text_only(mean_ap):
    both, person, scene, text = (
        mean_ap[part] for part in ("scene+person", "person", "scene", "text")
    )
    assert both["low"] > person["high"]
    assert both["low"] > scene["high"]
    assert min(person["low"], scene["low"]) > text["high"]
    assert both["value"] >= 0.9
    assert text["value"] < 0.16


def test_unseen_combinations_are_recognized_in_part(mean_ap):
    assert mean_ap["unseen"]["value"] >= 0.6
    assert mean_ap["unseen"]["low"] > mean_ap["text"]["high"]


def test_calibration_at_least_halves_the_pooled_error_on_unseen_combinations(runs):
    fitted_on, test = runs["unseen_val"], runs["unseen"]
    source = {"system": "vlm:small_world/vlm", "prompting": {}, "data": fitted_on.manifest["data"]}
    fitted = calibration_fit.fit(fitted_on.truth, fitted_on.scores, EMOTIC_LABELS, **source)
    calibrated = fitted.apply(test.scores)
    before, after = (
        metrics.pooled_calibration_error(test.truth, s) for s in (test.scores, calibrated)
    )
    assert before > 0.01, "there is something to calibrate"
    assert after <= before / 2
    before, after = (metrics.calibration_error(test.truth, s) for s in (test.scores, calibrated))
    assert after < before, "the mean of the labels falls less: 0.024 to 0.020"


def test_top_label_is_correct_in_wide_images_of_every_clip(recognizer):
    accuracy = {}
    for seed in range(20):
        correct = []  # without a calibration all thresholds are equal: the top score wins
        for scene, people in ((p.scene(), p.people) for p in toy_world.draw_clip(seed, 12.0, 1.5)):
            assessments = recognizer.assess(scene, scene.people)
            pairs = zip(assessments, people, strict=True)
            correct += [person.labels[x.scores.argmax()] for x, person in pairs]
        accuracy[seed] = np.mean(correct)
    assert min(accuracy.values()) >= 0.85, accuracy


def test_retrained_model_is_evaluated_again(tmp_path):
    toy_world.write_emotic(tmp_path / "data", {"test": (1, 3)}, size=(64, 64), people=(1, 1))
    data, scores = emotic.load(tmp_path / "data", "test"), []
    for seed in (0, 1):
        folder = vlm.save_untrained(tmp_path / "vlm", seed)
        for _ in range(2):  # the second time, the run is complete
            evaluator = report.ModelEvaluator(folder, tmp_path / "out", lambda line: None)
            scores.append(evaluator.evaluate("seen", data, "scene+person").run.scores)
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[1] != scores[2]).any()
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_included_files_are_small_and_hold_their_recipe():
    files = [path for path in toy_world.MODEL_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    assert (toy_world.MODEL_FOLDER / "vlm" / "recipe.json").is_file()


def test_training_computes_the_scores_that_are_served(recognizer):
    samples = [vlm.draw_sample(77, number, 0.0) for number in range(3)]
    for model_mode in (recognizer.vlm.model.train, recognizer.vlm.model.eval):
        model_mode()
        prompt_images = [
            vlm.prompts.make_prompt_images(
                s.scene.frame.image,
                [p.box for p in s.scene.people],
                vlm.recognizer_settings(toy_world.MODEL_FOLDER / "vlm"),
            )
            for s in samples
        ]
        odds = (
            log_odds(recognizer.vlm.answer_logprobs(prompt_images)[:26]).sigmoid().detach().numpy()
        )
        served = [x.scores for s in samples for x in recognizer.assess(s.scene, s.scene.people)]
        np.testing.assert_allclose(odds, served, atol=2e-5)


def test_one_training_step_changes_the_scores(tmp_path):
    settings = vlm.recognizer_settings(toy_world.MODEL_FOLDER / "vlm", calibration="none")
    recognizer = make_recognizer(settings)
    sample = vlm.draw_sample(78, 0, 0.0)
    before = recognizer.assess(sample.scene, sample.scene.people)[0].scores
    loss = packed_loss(recognizer.vlm, settings, [sample])
    loss.backward()
    with torch.no_grad():
        for weight in recognizer.vlm.model.parameters():
            if weight.grad is not None:
                weight -= 0.1 * weight.grad
    assert (recognizer.assess(sample.scene, sample.scene.people)[0].scores != before).any()


def test_training_works_and_a_failed_one_keeps_the_previous_model(tmp_path, monkeypatch):
    lines, folder = [], tmp_path / "vlm"
    vlm.train(folder, 5, vision_steps=50, steps=50, batch=4, report=lines.append)
    assert lines[0].startswith("vision 50/50")
    assert lines[1].startswith("whole 50/50")
    make_recognizer(vlm.recognizer_settings(folder))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert "recipe.json" in before
    monkeypatch.setattr(
        vlm, "packed_loss", lambda *arguments: torch.tensor(float("nan"), requires_grad=True)
    )
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0 of whole"):
        vlm.train(folder, 6, vision_steps=1, steps=1, batch=2, report=lines.append)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_impossible_training_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(vlm, "_trained", lambda *arguments: pytest.fail("training started"))
    with pytest.raises(ValueError, match="--steps 0: choose at least 1"):
        vlm.train(tmp_path / "vlm", 0, steps=0)
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="notes holds other files than a small model"):
        vlm.train(tmp_path / "notes", 0)
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(OSError, match=f"cannot write in the folder {tmp_path}: permission"):
        vlm.train(tmp_path / "vlm", 0)


@pytest.mark.parametrize("fails", ["detector", "--seed 1", "report"])
def test_make_small_models_stops_at_the_step_that_fails(tmp_path, fails):
    shipped = tmp_path / "shipped" / "vlm" / "recipe.json"
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    fake, log = tmp_path / "bin" / "emotion-perception", tmp_path / "log"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$*" >> {log}\ncase "$*" in *"{fails}"*) exit 1;; esac\n')
    fake.chmod(0o755)
    makefile = Path(__file__).parents[2] / "Makefile"
    options = [f"BIN={fake.parent}", "READY=ready", "--old-file=ready", "SMALL=shipped"]
    done = subprocess.run(
        ["make", "-f", makefile, "small-models", *options], cwd=tmp_path, capture_output=True
    )
    assert done.returncode != 0
    assert fails in log.read_text()
    assert ("report" in log.read_text()) == (fails == "report")
    assert shipped.exists()


def test_precision_report_compares_each_format_with_float32(tmp_path):
    pytest.importorskip("torchao")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- precision -->\nold\n<!-- /precision -->\nafter\n")
    options = report.ReportOptions([toy_world.MODEL_FOLDER / "vlm"], 3, tmp_path / "out", page)
    precision.write_precision(options, lambda line: None)
    rows = json.loads((tmp_path / "out" / "precision.json").read_text())
    assert [row["format"] for row in rows[::2]] == list(precision.FORMATS)
    for row in rows[:2]:
        assert (row["agreement"], row["rank_correlation"]) == (1, pytest.approx(1))
    for row in rows[2:]:
        assert 0.5 < row["rank_correlation"] < 1
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| bfloat16 |") == 2

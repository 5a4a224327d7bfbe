"""What ships: small models of the drawn world, and that they still see what they saw."""

import os
import subprocess
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
from emotion_perception.toy_world import report
from emotion_perception.toy_world.training import vlm
from emotion_perception.training.losses import LossWeights, log_odds, packed_loss

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def recognizer():
    return make_recognizer(
        vlm.recognizer_settings(toy_world.MODEL_FOLDER / "vlm", calibration="none")
    )


@pytest.fixture(scope="module")
def told(recognizer, tmp_path_factory):
    """Runs on 200 held-out scenes per input, and on other data sets."""
    folder = tmp_path_factory.mktemp("world")
    asked = dict.fromkeys(("scene+person", "person", "scene", "text"), (31, "seen"))
    asked |= {"unseen": (report.SEEDS["unseen"], "unseen")}
    asked |= {"unseen_val": (report.SEEDS["unseen_val"], "unseen")}
    for seed, part in set(asked.values()):
        toy_world.write_emotic(folder / f"{seed}", {"test": (seed, 200)}, part=part)
    data = {seed: emotic.load(folder / f"{seed}", "test") for seed, _ in asked.values()}
    return {
        name: runner.evaluate_recognizer(
            data[seed], recognizer, folder / name, {}, name if part == "seen" else "scene+person"
        )
        for name, (seed, part) in asked.items()
    }


@pytest.fixture(scope="module")
def found(told):
    """mAP with its interval."""
    return {name: run.compute_metrics(rounds=100)["map"] for name, run in told.items()}


def test_people_are_kept_apart_nearly_as_well_as_with_true_boxes():
    pytest.importorskip("ultralytics")
    settings = Settings.from_dict(toy_world.SETTINGS)
    detector = make_detector(settings.detector)
    f1 = {"found": [], "true": []}
    for seed in range(6):
        scene = list(toy_world.draw_clip(seed, 12.0))
        truth = {x.stamp_ns: {str(p.number): p.box for p in x.people} for x in scene}
        seen = {
            "true": [[p.box for p in x.people] for x in scene],
            "found": [detector.detect(Frame(x.image, x.stamp_ns, "")).corners for x in scene],
        }
        for name, boxes in seen.items():
            tracker = Tracker(settings.tracker, settings.detector.confidence)
            kept = {}
            for picture, corners in zip(scene, boxes, strict=True):
                some = Detections.from_lists(corners, [0.9] * len(corners))
                people = tracker.update(some, picture.stamp_ns + 1)
                kept[picture.stamp_ns] = {p.person_id: p.box for p in people}
            f1[name].append(tracking_metrics(truth, kept).identity_f1)
    assert np.mean(f1["found"]) >= 0.9 * np.mean(f1["true"]), f1


def test_scene_and_person_tell_more_than_either_and_either_more_than_words(found):
    both, person, scene, words = (
        found[part] for part in ("scene+person", "person", "scene", "text")
    )
    assert both["low"] > person["high"]
    assert both["low"] > scene["high"]
    assert min(person["low"], scene["low"]) > words["high"]
    assert both["value"] >= 0.9
    assert words["value"] < 0.16


def test_combinations_that_were_never_seen_are_understood_in_part(found):
    assert found["unseen"]["value"] >= 0.6
    assert found["unseen"]["low"] > found["text"]["high"]


def test_of_unseen_combinations_a_calibration_halves_the_error_at_least(told):
    fitted_on, test = told["unseen_val"], told["unseen"]
    about = {"system": "vlm:vlm", "prompting": {}, "data": fitted_on.manifest["data"]}
    fitted = calibration_fit.fit(fitted_on.truth, fitted_on.scores, EMOTIC_LABELS, **about)
    before = metrics.calibration_error(test.truth, test.scores)
    after = metrics.calibration_error(test.truth, fitted.apply(test.scores))
    assert before > 0.01, "there is something to calibrate"
    assert after <= before / 2


def test_in_pictures_of_a_cameras_shape_labels_are_true_in_every_scene(recognizer):
    true = {}
    for seed in range(20):
        first = []  # without a calibration all thresholds are alike: the likeliest label leads
        for scene, people in ((p.scene(), p.people) for p in toy_world.draw_clip(seed, 12.0, 1.5)):
            answers = recognizer.assess(scene, scene.people)
            pairs = zip(answers, people, strict=True)
            first += [person.labels[answer.scores.argmax()] for answer, person in pairs]
        true[seed] = np.mean(first)
    assert min(true.values()) >= 0.85, true


def test_a_model_that_was_trained_again_is_measured_anew(tmp_path):
    toy_world.write_emotic(tmp_path / "data", {"test": (1, 3)}, size=(64, 64), people=(1, 1))
    data, told = emotic.load(tmp_path / "data", "test"), []
    for seed in (0, 1):
        folder = vlm.save_untrained(tmp_path / "vlm", seed)
        for _ in range(2):  # the second time there is nothing left to ask
            evaluator = report.ModelEvaluator(folder, tmp_path / "out", lambda line: None)
            told.append(evaluator.evaluate("seen", data, "scene+person").run.scores)
    np.testing.assert_array_equal(told[0], told[1])
    assert (told[1] != told[2]).any()
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_the_files_are_small_and_say_how_they_were_made():
    files = [path for path in toy_world.MODEL_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    assert (toy_world.MODEL_FOLDER / "vlm" / "recipe.json").is_file()


def test_training_reads_the_logits_that_serving_reads(recognizer):
    samples = [vlm.draw_sample(77, number, 0.0) for number in range(3)]
    for model_mode in (recognizer.vlm.model.train, recognizer.vlm.model.eval):
        model_mode()
        shown = [
            vlm.prompts.make_prompt_images(
                s.scene.frame.image,
                [p.box for p in s.scene.people],
                vlm.recognizer_settings(toy_world.MODEL_FOLDER / "vlm"),
            )
            for s in samples
        ]
        odds = log_odds(recognizer.vlm.answer_logprobs(shown)[:26]).sigmoid().detach().numpy()
        served = [
            answer.scores for s in samples for answer in recognizer.assess(s.scene, s.scene.people)
        ]
        np.testing.assert_allclose(odds, served, atol=2e-5)


def test_one_step_of_training_changes_the_answers(tmp_path):
    settings = vlm.recognizer_settings(toy_world.MODEL_FOLDER / "vlm", calibration="none")
    recognizer = make_recognizer(settings)
    sample = vlm.draw_sample(78, 0, 0.0)
    before = recognizer.assess(sample.scene, sample.scene.people)[0].scores
    loss = packed_loss(recognizer.vlm, settings, [sample], LossWeights())
    loss.backward()
    with torch.no_grad():
        for weight in recognizer.vlm.model.parameters():
            if weight.grad is not None:
                weight -= 0.1 * weight.grad
    assert (recognizer.assess(sample.scene, sample.scene.people)[0].scores != before).any()


def test_a_recipe_learns_and_a_training_that_fails_leaves_the_model_that_was_there(
    tmp_path, monkeypatch
):
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


def test_a_training_is_refused_before_anything_is_learnt(tmp_path, monkeypatch):
    monkeypatch.setattr(vlm, "_trained", lambda *arguments: pytest.fail("it began"))
    with pytest.raises(ValueError, match="--steps 0: choose at least 1"):
        vlm.train(tmp_path / "vlm", 0, steps=0)
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="notes holds other files than a small model"):
        vlm.train(tmp_path / "notes", 0)
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(OSError, match=f"cannot write in the folder {tmp_path}: permission"):
        vlm.train(tmp_path / "vlm", 0)


@pytest.mark.parametrize("fails", ["detector", "--seed 1", "report"])
def test_making_the_small_models_ends_where_a_step_fails(tmp_path, fails):
    shipped = tmp_path / "shipped" / "vlm" / "recipe.json"
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    fake, log = tmp_path / "bin" / "emotion-perception", tmp_path / "log"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$*" >> {log}\ncase "$*" in *"{fails}"*) exit 1;; esac\n')
    fake.chmod(0o755)
    makefile = Path(__file__).parents[2] / "Makefile"
    given = [f"BIN={fake.parent}", "READY=ready", "--old-file=ready", "SMALL=shipped"]
    done = subprocess.run(
        ["make", "-f", makefile, "small-models", *given], cwd=tmp_path, capture_output=True
    )
    assert done.returncode != 0
    assert fails in log.read_text()
    assert ("report" in log.read_text()) == (fails == "report")
    assert shipped.exists()

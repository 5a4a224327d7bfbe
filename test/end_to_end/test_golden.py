"""Golden test: the results of the whole package on small fixed inputs.

Each test computes one section and compares it with the same section of `golden.json`. Strings,
counts and times must be equal; numbers may differ by a small tolerance. Sentences for people, such
as the reason of an abstention or the heading of a page, are not compared.

`UPDATE_GOLDEN=1 python -m pytest test/end_to_end/test_golden.py` writes the sections anew.
`GOLDEN_STRICT=1` compares all digits, which holds on the machine that wrote the file, with
`OMP_NUM_THREADS=1`: before and after a change of the code that is to change no result.
"""

import csv
import hashlib
import itertools
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy.io")
pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("ultralytics")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden.json")
UPDATE = os.environ.get("UPDATE_GOLDEN", "") not in ("", "0")
STRICT = os.environ.get("GOLDEN_STRICT", "") not in ("", "0")
DIGITS = 6
MODEL = {"rel": 1e-4, "abs": 1e-5}
"""Tolerance of numbers that a network computes."""
FIXED = {"rel": 2e-6, "abs": 1e-9}
"""Tolerance of numbers that no network computes: the last digit of the rounding."""
FITTED = {"rel": 0.03, "abs": 1e-5}
"""Tolerance of the figures of a head, whose sixty steps of L-BFGS amplify the last bit."""
LOOSE = {"rel": 0.05, "abs": 1e-9}
"""Tolerance of the deviation of the Hamming loss over the rounds of the bootstrap.

Many rounds have the same loss, and the last bit of a product of matrices decides whether those at
the ends of the interval count. That bit depends on the number of threads.
"""
LOOSELY = ("hamming/sd", "hamming_sd/")

# --- Adapters: the only code that knows modules, functions and options of the package ------------

SMALL_VLM = "emotion_perception/data/small_world/vlm"
REPLAY_SETTINGS = (
    *("--params-file", "config/small_world.yaml"),
    *("-p", "detector.device:=cpu", "-p", "recognizer.device:=cpu"),
)
CHANCE_SETTINGS = (
    *("-p", "detector.model:=emotion_perception/data/small_world/yolo.pt"),
    *("-p", "detector.image_size:=320", "-p", "detector.device:=cpu", "-p", "smoothing:=0.3"),
    *("-p", "scheduler.refresh:=0.5", "-p", "recognizer.name:=rand6"),
)
ASKED = (
    *("-p", "definitions:=none", "-p", "answer_format:=continuation"),
    *("-p", "scene_size:=96", "-p", "crop_size:=96", "-p", "device:=cpu"),
)
"""How the small vision-language model is asked, as options of `evaluate` and of the trainings."""
SMALL = ("--model", SMALL_VLM, *ASKED)
SYSTEM = ("system", "vlm-ours", *SMALL)
"""The small vision-language model as the robot asks it."""

EVALUATIONS = {
    "vlm": SYSTEM,
    "vlm-person": (*SYSTEM, "--input", "person"),
    "vlm-scene": (*SYSTEM, "--input", "scene"),
    "vlm-text": (*SYSTEM, "--input", "text"),
    "vlm-swap": (*SYSTEM, "--input", "swap"),
    "majority": ("system", "majority"),
    "rand6": ("system", "rand6"),
    "rand6-weighted": ("system", "rand6-weighted"),
}
"""Runs whose figures are kept in full, by the names of their folders."""
ASKED_OTHERWISE = {
    "letters": ("-p", "scoring:=letters"),
    "labels": ("-p", "scoring:=labels"),
    "generate": ("--decoding", "generate"),
    "mark": ("-p", "person_view:=mark"),
    "crop": ("-p", "person_view:=crop"),
    "full-leaf": ("-p", "answer_format:=turn"),
    "glossary": ("-p", "definitions:=glossary"),
    "question": ("-p", "definitions:=question", "-p", "answer_format:=turn"),
    "calibrate": ("-p", "subtract_prior:=true"),
}
"""Other prompts for the small model, on a few images; their scores are kept."""
TRAINING = (
    *("--steps", "3", "--every", "3", "--batch", "2", "--rank", "4", "--lr", "5e-3"),
    *("--warmup", "0", "--seed", "0"),
)


def run_cli(*arguments):
    """Run one command of the package in this process; returns its exit status."""
    from emotion_perception.cli.main import main

    return main([str(argument) for argument in arguments])


def write_bag(folder):
    """Write four seconds of a drawn scene as a bag; returns the number of images."""
    from emotion_perception import toy_world

    return toy_world.write_bag(folder, toy_world.draw_clip(8, 4.0, size=(320, 240), people=3))


def write_truth(path):
    """Write the ground truth of the scene of `write_bag` as CSV, as `replay --labels` reads it."""
    from emotion_perception import toy_world

    toy_world.write_clip(
        path.with_suffix(""), toy_world.draw_clip(8, 4.0, size=(320, 240), people=3)
    )


def write_data(folder):
    """Write a small data set in EMOTIC's format."""
    from emotion_perception import toy_world

    splits = {"train": (1, 16), "val": (2, 60), "test": (3, 24)}
    toy_world.write_emotic(folder, splits, size=((192, 192), (320, 240)), part="all")


def people_of(root, split):
    """Keys, labels and affect of the people of a data set, in their order."""
    from emotion_perception.core.labels import EMOTIC_LABELS
    from emotion_perception.evaluation.datasets import emotic

    return [
        (p.key, [n for n, yes in zip(EMOTIC_LABELS, p.labels, strict=True) if yes], list(p.vad))
        for p in emotic.load(root, split).people
    ]


def label_names():
    """The 26 labels of EMOTIC in the order of scores."""
    from emotion_perception.core.labels import EMOTIC_LABELS

    return list(EMOTIC_LABELS)


def outcome_counts(figures):
    """Return the number of images per outcome, in the order of `OUTCOMES`."""
    from emotion_perception.replay.simulator import OUTCOMES

    return [figures["fates"].get(outcome, 0) for outcome in OUTCOMES]


def build_people():
    """Estimates of every kind: each status, with and without affect, position and people."""
    from emotion_perception.core.values import Box, Estimate, PeopleEstimate, Status, Track, Vad

    labels = ("joy", "anger", "calm")
    assessed = Estimate(
        Track("p00001", Box(10.4, 20.6, 60.2, 199.9), 0.75, (0.5, -0.25, 2.0)),
        Status.ASSESSED,
        assessed_ns=12 * 10**9 + 5,
        label="joy",
        confidence=0.8125,
        active=("joy", "calm"),
        scores=np.array([0.8125, 0.0625, 0.5]),
        raw_scores=np.array([1.0, 0.0, 1 / 3]),
        vad=Vad(0.5, -0.25, 1.0),
        rationale="waves at a friend",
    )
    without_affect = Estimate(
        Track("p00002", Box(-20, 400, 700, 900), 1 / 3),
        Status.ASSESSED,
        assessed_ns=1,
        label="anger",
        confidence=2 / 3,
        active=("anger",),
        scores=np.array([0.1, 2 / 3, 1e-7], np.float32),
        raw_scores=np.array([0.1, 0.7, 0.0], np.float32),
    )
    pending = Estimate(Track("p00003", Box(0, 0, 5.5, 5.5), 0.5), Status.PENDING)
    abstained = Estimate(Track("p00004", Box(1, 2, 30, 40), 0.5), Status.ABSTAINED, "fixed text", 7)
    expired = Estimate(
        Track("p00005", Box(100, 100, 200, 300), 0.9, (math.nan, math.nan, 1.5)),
        Status.EXPIRED,
        assessed_ns=2 * 10**9,
    )
    undecided = Estimate(
        Track("p00006", Box(639, 479, 640, 480), 0.05, (-1.0, 2.0, math.inf)),
        Status.ABSTAINED,
        "fixed text",
        9,
        scores=np.array([0.1, 0.2, 0.3]),
        raw_scores=np.array([0.1, 0.2, 0.3]),
        vad=Vad(-1.0, 0.0, 1 / 3),
    )

    def at(stamp_ns, *people, calibration="emotic"):
        return PeopleEstimate(stamp_ns, "optical", 640, 480, "vlm:x", calibration, labels, people)

    return {
        "no_person": at(0, calibration=""),
        "assessed": at(13 * 10**9 + 1, assessed),
        "without_affect": at(1_700_000_000 * 10**9 + 999_999_999, without_affect),
        "waiting": at(5, pending, expired),
        "abstained": at(6, abstained, undecided),
        "all_statuses": at(10**9, assessed, without_affect, pending, abstained, expired, undecided),
    }


def to_json(people):
    """The JSON object of an estimate."""
    from emotion_perception.io.json_codec import people_to_json

    return people_to_json(people)


def from_json(record):
    """The estimate of a JSON object."""
    from emotion_perception.io.json_codec import people_from_json

    return people_from_json(record)


def from_message(message):
    """The estimate of a message."""
    from emotion_perception.io.message_codec import people_from_msg

    return people_from_msg(message)


def write_estimates(folder, estimates):
    """Write estimates as messages of a bag, one a second."""
    from emotion_perception.io.bags import EstimatesBag

    with EstimatesBag(folder) as bag:
        for second, people in enumerate(estimates):
            bag.add(people, second * 10**9)


def read_messages(folder):
    """The messages of a bag: topic, type, digest of the type, time, CDR bytes, message."""
    from rosbags.rosbag2 import Reader

    from emotion_perception.io.bags import typestore

    store = typestore()
    with Reader(folder) as reader:
        for connection, time_ns, raw in reader.messages():
            kind = connection.msgtype
            about = (connection.topic, kind, connection.digest)
            yield *about, time_ns, bytes(raw), store.deserialize_cdr(raw, kind)


def prompt_choices():
    """Every combination of the settings that decide what a model is asked, with its name."""
    choices = {
        "scoring": ("yes_no", "letters", "labels", "generate", "head"),
        "definitions": ("glossary", "question", "none"),
        "person_view": ("mark", "crop", "both"),
        "answer_format": ("turn", "continuation"),
    }
    for values in itertools.product(*choices.values()):
        recorded = {"turn": "full", "continuation": "short"}  # as golden.json calls the formats
        name = " ".join(recorded.get(value, value) for value in values)
        yield name, dict(zip(choices, values, strict=True))


def prompt_words(**changes):
    """All words that a model reads under these settings."""
    from emotion_perception.core.recognizer_settings import recognizer_settings
    from emotion_perception.recognizers.vlm import prompts

    settings = recognizer_settings(**changes)
    questions = [
        [q.text, q.answers, q.in_words, q.answer_prefix] for q in prompts.questions(settings)
    ]
    return {
        "glossary": prompts.glossary(settings),
        "questions": questions,
        "request": prompts.generation_prompt(settings),
        "chat": prompts.messages(settings, "QUESTION"),
        "text_chat": prompts.text_messages(settings, "DESCRIPTION", "QUESTION"),
        "why": prompts.RATIONALE_QUESTION,
    }


def prompt_images_of(person_view):
    """Return the images that a model gets of two people of a drawn scene."""
    from emotion_perception import toy_world
    from emotion_perception.core.recognizer_settings import recognizer_settings
    from emotion_perception.recognizers.vlm import prompts

    settings = recognizer_settings(person_view=person_view, scene_size=128, crop_size=64)
    scene = next(toy_world.draw_clip(8, 1.0, size=(320, 240), people=3)).scene()
    prompt_images = prompts.make_prompt_images(
        scene.frame.image, [p.box for p in scene.people], settings
    )
    return prompt_images.images, prompt_images.person_images


class Machine:
    """`Pipeline` on scripted boxes, with a recognizer that scores by a function."""

    def __init__(self, boxes, score, **settings):
        """
        Args:
            boxes: from a time in seconds to a list of (left, top, right, bottom).
            score: from a person's id and box to the scores of two labels.
        """
        from emotion_perception.core.settings import Settings
        from emotion_perception.core.values import Box
        from emotion_perception.perception.pipeline import Pipeline
        from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector

        self._recognizer = FakeRecognizer(
            lambda person: score(person.person_id, tuple(person.box)), thresholds=(0.5, 0.4)
        )
        detector = ScriptedDetector(lambda time: [Box(*corners) for corners in boxes(time)])
        values = {name.replace("__", "."): value for name, value in settings.items()}
        self._perception = Pipeline(detector, self._recognizer, Settings.from_dict(values))

    def accepts(self, seconds):
        return self._perception.accepts(round(seconds * 1e9))

    def frame(self, seconds):
        """Feed a frame; returns the estimates after it."""
        from emotion_perception.testing.fakes import frame_at

        return self._rows(self._perception.on_frame(frame_at(seconds)))

    def next_round(self):
        """Return the next round, or None."""
        return self._perception.next_round()

    def assess(self, request):
        """Assess the people of a round; returns the estimates after it."""
        assessments = self._recognizer.assess(request.scene, request.people)
        return self._rows(self._perception.on_assessments(assessments))

    def fail(self, request):
        """Fail a round."""
        self._perception.on_failure(request)

    def asked(self):
        """Return stamp and ids of each round that was assessed."""
        return [[stamp, *ids] for stamp, ids in self._recognizer.requests]

    def _rows(self, people):
        rows = [
            [
                e.track.person_id,
                e.status.name,
                e.label,
                _number(e.confidence),
                e.assessed_ns,
                bool(e.reason),
            ]
            for e in people.people
        ]
        return [people.stamp_ns, *rows]


# --- Comparison ----------------------------------------------------------------------------------


def _number(value):
    return None if not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def rounded(value):
    """JSON data with every float at `DIGITS` significant digits."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return _number(value) if isinstance(value, float) else value


def differences(now, then, tolerance, where=""):
    """Where two JSON values differ, in words."""
    number = (int, float)
    if isinstance(now, dict) and isinstance(then, dict):
        for key in sorted({*now, *then}):
            if key not in now or key not in then:
                yield f"{where}/{key}: {'missing' if key not in now else 'new'}"
            else:
                yield from differences(now[key], then[key], tolerance, f"{where}/{key}")
    elif isinstance(now, list) and isinstance(then, list):
        if len(now) != len(then):
            yield f"{where}: {len(now)} items, {len(then)} expected"
        for index, (new, old) in enumerate(zip(now, then, strict=False)):
            yield from differences(new, old, tolerance, f"{where}/{index}")
    elif type(now) is type(then) is int or not (
        isinstance(now, number) and isinstance(then, number)
    ):
        if now != then or type(now) is not type(then):
            yield f"{where}: {now!r}, {then!r} expected"
    elif now != pytest.approx(then, **_tolerance(where, tolerance)):
        yield f"{where}: {now!r}, {then!r} expected"


def _tolerance(where, usual):
    if STRICT:
        return FIXED
    return LOOSE if any(part in where for part in LOOSELY) else usual


def text_of(value, indent=0):
    """JSON text with sorted keys; what is short stands on one line, and so does each row.

    A row is a list that begins with a string or a number.
    """
    line = json.dumps(value, sort_keys=True, allow_nan=False)
    row = isinstance(value, list) and not (value and isinstance(value[0], dict | list))
    if row or not isinstance(value, dict | list) or len(line) + indent <= 96:
        return line
    margin = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {text_of(value[key], indent + 1)}" for key in sorted(value)]
        begin, end = "{", "}"
    else:
        items, begin, end = [text_of(item, indent + 1) for item in value], "[", "]"
    return f"{begin}\n{margin}" + f",\n{margin}".join(items) + f"\n{' ' * indent}{end}"


def check(section, value, tolerance=MODEL):
    """Compare a section with the golden file, or write it there."""
    value = json.loads(json.dumps(rounded(value), allow_nan=False))
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    if UPDATE:
        golden[section] = value
        GOLDEN.write_text(text_of(golden) + "\n")
        return
    assert section in golden, f"{GOLDEN.name} has no section {section}: run with UPDATE_GOLDEN=1"
    changes = list(differences(value, golden[section], tolerance))
    assert not changes, f"{len(changes)} differences in {section}:\n" + "\n".join(changes[:40])


def sha256(content):
    """The digest of bytes, or of the JSON text of anything else."""
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


# --- Fixed inputs --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    """The paths of the shipped settings hold in the root of the repository."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("golden") / "data"
    write_data(root)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """The folders of `EVALUATIONS` on the test part, and of the small model on the val part."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name, options in EVALUATIONS.items():
            assert run_cli("evaluate", *options, "--root", data, "--out", folder / name) == 0
        options = (*SYSTEM, "--root", data, "--split", "val", "--out", folder / "val")
        assert run_cli("evaluate", *options) == 0
    return folder


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags") / "scene"
    assert write_bag(folder) == 40
    return folder


# --- Replay --------------------------------------------------------------------------------------


def replayed(folder, full):
    """What a replay has left: the first messages in full, all of them in short, the figures."""
    lines = [json.loads(line) for line in (folder / "emotions.jsonl").read_text().splitlines()]
    topics, messages = {}, []
    for topic, kind, _, time_ns, _, message in read_messages(folder / "bag"):
        topics[f"{topic} {kind}"] = topics.get(f"{topic} {kind}", 0) + 1
        if hasattr(message, "people"):
            messages.append(_but_boxes({"time_ns": time_ns, **to_json(from_message(message))}))
    assert messages == [_but_boxes(line) for line in lines]
    figures = json.loads((folder / "figures.json").read_text())
    assert not any(figures.pop(name) for name in ("skipped", "failures", "ended"))
    figures.pop("timing")
    figures["fates"] = outcome_counts(figures)
    if labelled := figures["labelled"]:
        labelled["measures"] = _in_rows(labelled["measures"])
    people = [person for line in lines for person in line["people"]]
    first = next(i for i, line in enumerate(lines) if any(p["scores"] for p in line["people"]))
    return {
        "keys": sorted(lines[0]),
        "person_keys": sorted(people[0]),
        "models": sorted({line["model"] for line in lines}),
        "calibrations": sorted({line["calibration"] for line in lines}),
        "labels": lines[0]["labels"],
        "frame": [lines[0][name] for name in ("frame_id", "image_width", "image_height")],
        "full": [_without_reason(line) for line in lines[first : first + full]],
        "lines": [_short(line) for line in lines],
        "topics": topics,
        "table": _columns(folder / "emotions.parquet"),
        "figures": figures,
    }


def _without_reason(line):
    # The id of a run depends on every setting, also on those that a later version adds.
    kept = {key: value for key, value in line.items() if key not in ("labels", "run_id")}
    kept["people"] = [{**p, "reason": bool(p["reason"])} for p in line["people"]]
    return kept


def _short(line):
    people = [
        [
            *(p["person_id"], p["status"], bool(p["reason"]), p["assessed_ns"], p["label"]),
            *(p["confidence"], "|".join(p["active"]), p["detection_confidence"], *p["box"]),
            *(p["valence"], p["arousal"], p["dominance"]),
            *(sum(p["scores"]), sum(p["raw_scores"])),
        ]
        for p in line["people"]
    ]
    return [line["time_ns"], line["stamp_ns"], *people]


def _but_boxes(line):
    """What a line and a message have alike: boxes of messages are whole pixels."""
    people = [{k: v for k, v in p.items() if k != "box"} for p in line["people"]]
    return {**line, "people": people}


def _columns(path):
    """The names of the columns of a table, and the number of its rows."""
    import polars as pl

    table = pl.read_parquet(path)
    return [*table.columns, len(table)]


def test_replay_with_the_small_models(bag, tmp_path):
    options = (*REPLAY_SETTINGS, "--every", "2", "--out", tmp_path / "out")
    assert run_cli("replay", bag, *options) == 0
    check("replay_vlm", replayed(tmp_path / "out", 2))


def test_replay_with_a_latency_and_chance(bag, tmp_path):
    latency = tmp_path / "latency.json"
    latency.write_text('{"image_seconds": 0.13, "answer_seconds": {"1": 0.4, "3": 0.7}}')
    write_truth(tmp_path / "truth.csv")
    options = ("-p", "max_age:=1.0", "--latency", latency)
    truth = ("--labels", tmp_path / "truth.csv", "--start", "0.5", "--duration", "3")
    out = ("--images", "--out", tmp_path / "out")
    assert run_cli("replay", bag, *CHANCE_SETTINGS, *options, *truth, *out) == 0
    check("replay_rand6", replayed(tmp_path / "out", 0))


# --- Evaluate, compare, calibrate ----------------------------------------------------------------


def measured(folder):
    """The figures of a run, and what it is about."""
    figures = _in_rows(json.loads((folder / "metrics.json").read_text()))
    about = json.loads((folder / "run.json").read_text())
    kept = ("recognizer", "calibration", "split", "data", "dropped", "missing")
    return {
        "figures": figures,
        "about": {name: about[name] for name in kept if name in about},
        "thresholds": about.get("thresholds"),
    }


def _in_rows(figures):
    """Figures without sentences, and with rows in place of small objects."""
    result = {name: value for name, value in figures.items() if name != "map_reason"}
    for name in ("by_height", "by_people"):
        result[name] = [[g["people"], g["f1"], g["map"]] for g in figures[name]]
    columns = ("prevalence", "given", "precision", "recall", "f1", "average_precision")
    result["labels"] = {
        label: [row[name] for name in columns] for label, row in figures["labels"].items()
    }
    return result


def people_table(folder):
    """A row a person: key, leading label, sum of scores, affect, whether there are words."""
    import polars as pl

    labels, rows = label_names(), []
    for row in pl.read_parquet(folder / "people.parquet").iter_rows(named=True):
        scores = row["scores"] or [0.0] * len(labels)
        leading = labels[int(np.argmax(scores))]
        vad = row["vad"] or [None] * 3
        rows.append([row["key"], leading, max(scores), sum(scores), *vad, bool(row["words"])])
    return rows


def test_evaluation_of_the_small_model_is_unchanged(runs):
    for name in EVALUATIONS:
        if name.startswith("vlm"):
            result = {**measured(runs / name), "people": people_table(runs / name)}
            if name != "vlm":  # an ablated run differs by its scores
                result["figures"].pop("labels")
            check(f"evaluate_{name}", result)


def test_evaluation_of_chance_is_unchanged(runs):
    for name in ("majority", "rand6", "rand6-weighted"):
        people = people_table(runs / name)
        check(f"evaluate_{name}", {**measured(runs / name), "people": people}, FIXED)


def test_answers_to_other_prompts_are_unchanged(data, tmp_path):
    """The small model names no label where it writes: that run has words, and no figures."""
    results = {}
    for name, options in ASKED_OTHERWISE.items():
        out = tmp_path / name
        options = (*SYSTEM, *options, "--limit", "2", "--root", data, "--out", out)
        assert run_cli("evaluate", *options) == (2 if name == "generate" else 0)
        answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
        results[name] = [
            [key, *(person[kind] for kind in ("scores", "vad", "words"))]
            for line in answers
            for key, person in line.items()
        ]
    check("asked_otherwise", results)


def test_evaluation_of_predictions_is_unchanged(data, tmp_path):
    """Texts against the data set, and scores against a CSV of labels."""
    people, labels = people_of(data, "test"), label_names()
    texts, scores, truth = (tmp_path / name for name in ("texts.jsonl", "s.jsonl", "truth.csv"))
    random = np.random.default_rng(0)
    with texts.open("w") as out:
        for key, own, _ in people[:-2]:
            named = [*own[: random.integers(0, 3)], labels[random.integers(26)]]
            out.write(json.dumps({"image": key, "text": f"They feel {', '.join(named)}."}) + "\n")
    with scores.open("w") as out:
        for key, own, _ in people:
            values = random.uniform(0, 0.7, 26) + [0.3 * (label in own) for label in labels]
            row = dict(zip(labels, values.tolist(), strict=True))
            out.write(json.dumps({"image": key, "scores": row}) + "\n")
    with truth.open("w", newline="") as out:
        csv.writer(out).writerows([["key", "labels"], *([k, str(own)] for k, own, _ in people)])
    results = {}
    for name, file, more in (
        ("word", texts, ("--root", data, "--subset")),
        ("paper", texts, ("--root", data, "--subset", "--extraction", "paper")),
        ("scores", scores, ("--labels", truth)),
    ):
        out = tmp_path / name
        assert run_cli("evaluate", "predictions", file, *more, "--out", out) == 0
        results[name] = {**measured(out), "people": people_table(out)}
        results[name]["about"].pop("dropped", None)
    check("evaluate_predictions", results, FIXED)


def test_comparison_is_unchanged(runs, tmp_path):
    folders = [runs / name for name in (*EVALUATIONS, "val")]
    assert run_cli("compare", *folders, "--out", tmp_path) == 0
    with (tmp_path / "compare.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    # The headings of the blocks are for people.
    columns = {name: [_cell(row[i]) for row in rows] for i, name in enumerate(header) if i}
    check("compare", {"header": header, "columns": columns})


def _cell(text):
    """Return a cell as a number if it is one, and as None if it is empty."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def test_fitted_calibration_is_unchanged(runs, data, tmp_path):
    import yaml

    results = {}
    for name, options in {"break_even": (), "beta": ("--beta", "0.5")}.items():
        path = tmp_path / f"{name}.yaml"
        options = ("--check", runs / "vlm", "--out", path, *options)
        assert run_cli("calibrate", runs / "val", *options) == 0
        content = yaml.safe_load(path.read_text())
        content.pop("asked")  # names of settings
        columns = ("slope", "offset", "threshold")
        content["labels"] = {
            label: [row[column] for column in columns] for label, row in content["labels"].items()
        }
        results[name] = content
    options = ("-p", f"calibration:={tmp_path / 'break_even.yaml'}", "--limit", "4")
    out = tmp_path / "out"
    assert run_cli("evaluate", *SYSTEM, *options, "--root", data, "--out", out) == 0
    results["applied"] = {**measured(out), "people": people_table(out)}
    check("calibrate", results)


# --- Messages ------------------------------------------------------------------------------------


def test_messages_and_json_of_estimates_are_unchanged(tmp_path):
    people = build_people()
    write_estimates(tmp_path / "bag", people.values())
    estimates, types = {}, set()
    for name, row in zip(people, read_messages(tmp_path / "bag"), strict=True):
        *about, _, raw, message = row
        types.add(tuple(about))
        record = to_json(people[name])
        assert to_json(from_json(json.loads(json.dumps(record, allow_nan=False)))) == record
        back = to_json(from_message(message))
        boxes = [p.pop("box") for p in back["people"]]
        assert back == {
            **record,
            "people": [{k: v for k, v in p.items() if k != "box"} for p in record["people"]],
        }
        estimates[name] = {"json": record, "cdr": sha256(raw), "boxes_in_message": boxes}
    check("messages", {"type": sorted(types), "estimates": estimates}, FIXED)


# --- Training ------------------------------------------------------------------------------------


def test_trained_adapter_is_unchanged(data, tmp_path):
    from safetensors.numpy import load_file

    results = {}
    for name, options in {
        "plain": (),
        "recipe": (
            *("--balance", "--input-dropout", "0.5", "--accumulate", "2", "--train-vision"),
            *("--train-projector", "--val-people", "6"),
        ),
    }.items():
        out = tmp_path / name
        options = ("--system", "vlm-ours", *SMALL, *TRAINING, *options, "--root", data)
        assert run_cli("finetune", *options, "--out", out) == 0
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        weights = load_file(out / "adapter" / "adapter_model.safetensors")
        results[name] = {
            "log": log,
            "weights": len(weights),
            "size": sum(w.size for w in weights.values()),
            "mean_of_absolute": float(
                sum(np.abs(w).sum(dtype=np.float64) for w in weights.values())
                / sum(w.size for w in weights.values())
            ),
        }
    out = tmp_path / "served"
    options = ("--adapter", tmp_path / "plain" / "adapter", "--limit", "4", "--root", data)
    assert run_cli("evaluate", *SYSTEM, *options, "--out", out) == 0
    results["served"] = people_table(out)
    check("finetune", results)


def test_trained_head_is_unchanged(data, tmp_path):
    folder = tmp_path / "vlm"
    shutil.copytree(SMALL_VLM, folder)
    options = ("--root", data, "--model", folder, *ASKED)
    assert run_cli("head", *options) == 0
    about = json.loads((folder / "head.json").read_text())
    arguments = ("system", "vlm-ours", *options, "-p", "scoring:=head", "--split", "val")
    assert run_cli("evaluate", *arguments, "--out", tmp_path / "out") == 0
    figures = measured(tmp_path / "out")["figures"]
    figures_of_head = {
        "map": figures["map"],
        "vad_error": figures["vad_error"],
        "ece": figures["ece"],
        "ece_pooled": figures["ece_pooled"],
    }
    check("head", {**figures_of_head, "layer": about["layer"]}, FITTED)


# --- Prompts -------------------------------------------------------------------------------------


def test_prompts_are_unchanged():
    words = {name: prompt_words(**choice) for name, choice in prompt_choices()}
    hashes = {name: sha256(text)[:16] for name, text in words.items()}
    for count in (1, 6):
        text = prompt_words(scoring="generate", label_count=count)
        hashes[f"generate ask_for {count}"] = sha256(text)[:16]
    check("prompts", hashes)


def test_prompt_images_are_unchanged():
    views = {}
    for view in ("mark", "crop", "both"):
        images, person_images = prompt_images_of(view)
        means = [[*p.shape, *p.mean(axis=(0, 1)), p.std()] for p in images]
        views[view] = {"pictures": means, "seen": person_images}
    check("pictures", views)


# --- The pipeline --------------------------------------------------------------------------------

LEFT, RIGHT, TINY = (10, 20, 70, 180), (220, 20, 280, 190), (150, 10, 162, 30)


def _boxes(time):
    """Two people who pass each other, a person who is too small, and an empty second."""
    if 3.0 <= time < 5.0 or time > 100:
        return [] if time < 100 else [LEFT]
    shift = 40 * min(time, 2.0)
    people = [(LEFT[0] + shift, LEFT[1], LEFT[2] + shift, LEFT[3])]
    if time >= 0.5:
        people.append((RIGHT[0] - shift, RIGHT[1], RIGHT[2] - shift, RIGHT[3]))
    return [*people, TINY] if time < 1.5 else people


def _scores_by_place(person_id, box):
    """Return two scores that depend on the id and the box of a person."""
    number = int(person_id[1:])
    first = 0.5 + 0.45 * math.sin(box[0] / 25 + number)
    return first, 1 - 0.8 * first if number % 2 else 0.2


PIPELINES = {
    "smoothed": {"smoothing": 0.5, "scheduler__refresh": 0.3},
    "one_at_a_time": {"scheduler__max_people": 1, "scheduler__refresh": 0.0, "max_age": 0.4},
    "thinned": {"max_rate": 5.0, "tracker__confirm_frames": 3, "tracker__lost_after": 0.5},
}


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_estimates_are_unchanged(name):
    """Assessments come two frames late, every fourth round fails, and the clock jumps back."""
    machine, emissions = Machine(_boxes, _scores_by_place, **PIPELINES[name]), []
    waiting, number = None, 0
    times = [*(i / 10 for i in range(65)), *(101 + i / 10 for i in range(4)), 2.0, 2.1, 2.2, 2.3]
    for step, time in enumerate(times):
        if not machine.accepts(time):
            continue
        emissions.append(machine.frame(time))
        if waiting and step >= waiting[1] + 2:
            if number % 4 == 0:
                machine.fail(waiting[0])
            else:
                emissions.append(machine.assess(waiting[0]))
            waiting = None
        if waiting is None and (request := machine.next_round()):
            waiting, number = (request, step), number + 1
    check(f"pipeline_{name}", {"said": emissions, "asked": machine.asked()}, FIXED)

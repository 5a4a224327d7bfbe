"""Tables of what is true during a bag, filled in by people, and replays measured against them."""

import csv
import json

import numpy as np
import pytest

pytest.importorskip("polars")

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box
from emotion_perception.evaluation.run import Run
from emotion_perception.io.bags import RecordedImage
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.replay.ground_truth import COLUMNS, GroundTruth, GroundTruthScorer
from emotion_perception.replay.simulator import Simulator
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector, frame_at

HEAD = "person,start,end,left,top,right,bottom,labels,valence,arousal,dominance"
ALICE, BOB = Box(10, 20, 100, 220), Box(200, 20, 300, 220)


def table(tmp_path, *rows, head=HEAD):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_rows_say_who_was_where_and_what_they_felt(tmp_path):
    path = table(
        tmp_path,
        "alice,0,1.5,10,20,100,220,Happiness; peace,0.5,-0.25,0",
        "alice,1.6,,20,20,110,220,,,,",
        "bob,0,2,,,,,-,,,",
    )
    alice, later, bob = GroundTruth.read(path).rows
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(alice.labels)] == ["happiness", "peace"]
    assert alice.box == ALICE
    assert alice.vad == (0.5, -0.25, 0)
    assert (later.start, later.end, later.box.left) == (1.6, 1.6, 20)
    assert (later.labels == alice.labels).all()  # an empty cell repeats the row before
    assert later.vad == alice.vad
    assert (bob.box, bob.labels) == (None, None)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("alice,,2,,,,,peace,,,", "start is empty"),
        ("alice,soon,2,,,,,peace,,,", "start = 'soon' is no number"),
        ("alice,3,2,,,,,peace,,,", "end = 2.0 lies before start = 3.0"),
        (",1,2,,,,,peace,,,", "person is empty"),
        ("alice,1,2,10,,,,peace,,,", "give all of left, top, right, bottom or none"),
        ("alice,1,2,10,20,5,30,peace,,,", "the box .* is empty"),
        ("alice,1,2,,,,,happyness,,,", "'happyness' is not an EMOTIC label"),
        ("alice,1,2,,,,,peace,5,0,0", "each lies in -1 to 1"),
        ("alice,1,2", "more or fewer cells"),
        ("alice,0.5,2,,,,,peace,,,", "alice is there already until 1.0 s"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path, row, complaint):
    path = table(tmp_path, "alice,0,1,,,,,peace,,,", row)
    with pytest.raises(ValueError, match=rf"labels.csv, line 3: .*{complaint}"):
        GroundTruth.read(path)


def test_a_file_without_rows_or_columns_is_named(tmp_path):
    with pytest.raises(ValueError, match="labels.csv lacks the column 'labels'"):
        GroundTruth.read(table(tmp_path, head="person,start"))
    with pytest.raises(ValueError, match="labels.csv holds no rows"):
        GroundTruth.read(table(tmp_path))
    with pytest.raises(ValueError, match="nowhere.csv cannot be read"):
        GroundTruth.read(tmp_path / "nowhere.csv")


def judged(tmp_path, *rows, boxes=(ALICE, BOB), judge=lambda person: (0.9, 0.2), images=10):
    """The figures of a replay of two people, at 10 images a second."""
    recognizer = FakeRecognizer(judge)
    judge = GroundTruthScorer(
        GroundTruth.read(table(tmp_path, *rows)), 0, recognizer.labels, recognizer.thresholds
    )
    settings = Settings.from_dict({"scheduler.refresh": 0.0, "smoothing": 0.0})
    perception = Pipeline(ScriptedDetector(boxes), recognizer, settings)
    machine = Simulator(perception, recognizer, on_image=judge.on_image)
    recorded = [RecordedImage(i * 10**8, frame_at(5 + i / 10), None) for i in range(images)]
    for said in machine.run(recorded):
        judge.add(said)
    return judge.measured(tmp_path / "labelled")


def test_people_are_matched_by_where_they_are_and_answers_compared(tmp_path):
    found = judged(
        tmp_path,
        "alice,0,5,10,20,100,220,happiness,0,0,0",
        "bob,0,5,200,20,300,220,sadness,,,",
    )
    assert found["images"] == 10
    assert found["detection_recall"] == pytest.approx(9 / 10)  # no track in the first image
    assert found["identity_switches"] == 0
    assert found["answers"] == 18
    assert found["answers_with_a_true_leading_label"] == 9
    run = Run.read(tmp_path / "labelled")
    assert len(run) == 18
    assert found["measures"]["labels"]["happiness"]["precision"] == pytest.approx(0.5)
    assert found["measures"]["labels"]["sadness"]["recall"] == 0


def test_rows_about_one_image_hold_for_that_image_only(tmp_path):
    found = judged(tmp_path, "alice,0.51,,10,20,100,220,happiness,,,", boxes=(ALICE,))
    assert (found["images"], found["answers"]) == (1, 1)


def test_rows_without_a_box_are_about_the_ids_of_the_replay(tmp_path):
    found = judged(tmp_path, "p00001,0,5,,,,,happiness,,,")
    assert "detection_recall" not in found
    assert found["answers"] == found["answers_with_a_true_leading_label"] == 9


def test_somebody_who_is_elsewhere_is_not_who_is_meant(tmp_path):
    found = judged(tmp_path, "carol,0,5,110,20,190,220,happiness,,,")
    assert (found["detection_recall"], found["answers"]) == (0, 0)
    assert "measures" not in found


def test_rows_about_another_time_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no row of labels.csv is about an image that was"):
        judged(tmp_path, "alice,100,101,10,20,100,220,happiness,,,")


def test_the_truth_of_a_drawn_clip_is_such_a_table(tmp_path):
    scene = list(toy_world.draw_clip(8, 1.0))
    toy_world.write_clip(tmp_path / "clip", scene)
    rows = GroundTruth.read(tmp_path / "clip.csv").rows
    people = [(picture, person) for picture in scene for person in picture.people]
    assert len(rows) == len(people)
    for row, (picture, person) in zip(rows, people, strict=True):
        assert (row.labels == person.labels).all()
        assert row.box == pytest.approx(person.box, rel=1e-4)
        assert row.start == pytest.approx(picture.stamp_ns / 1e9)
        assert np.allclose(row.vad, (np.asarray(person.vad) - 5.5) / 4.5, atol=1e-3)


def test_rows_hold_for_their_first_and_last_image(tmp_path):
    from emotion_perception.cli.annotate import _cells, _Row

    row = _Row("p00001", 1 / 30, 11 / 30, [BOB], b"")
    (cells,) = _cells([row], tmp_path)
    assert float(cells["start"]) <= row.start
    assert float(cells["end"]) >= row.end


@pytest.mark.models
def test_a_table_is_made_filled_in_and_measured_on_the_small_world(tmp_path, capsys):
    for module in ("torch", "transformers", "ultralytics"):
        pytest.importorskip(module)
    scene = list(toy_world.draw_clip(8, 2.0))
    toy_world.write_bag(tmp_path / "bag", scene, start_ns=10**9)
    asked = {**toy_world.SETTINGS, "scheduler.refresh": 0.0, "smoothing": 0.0}
    parameters = [w for n, v in asked.items() for w in ("-p", f"{n}:={v}")]
    path = tmp_path / "bag.labels.csv"
    assert main(["annotate", str(tmp_path / "bag"), *parameters]) == 0
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {row["person"] for row in rows} >= {"p00001", "p00002"}
    for row in rows:
        assert (tmp_path / row["thumbnail"]).stat().st_size > 500
        true = next(p for p in closest(scene, row).people if is_at(p.box, row))
        row["labels"] = "; ".join(np.array(EMOTIC_LABELS)[true.labels])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    assert main(["annotate", str(tmp_path / "bag"), *parameters]) == 2
    assert "is there already, perhaps filled in" in capsys.readouterr().err
    out = tmp_path / "out"
    given = ["replay", str(tmp_path / "bag"), *parameters, "--out", str(out)]
    assert main([*given, "--labels", str(path)]) == 0
    found = json.loads((out / "figures.json").read_text())["labelled"]
    assert found["detection_recall"] > 0.95
    told = answers_by_id(out / "emotions.jsonl")
    felt = {row["person"]: row["labels"].split("; ") for row in rows}  # no person changes so soon
    right = sum(label in felt[name] for name, label in told)
    assert found["answers"] == len(told) > 30
    assert found["answers_with_a_true_leading_label"] == right > 0
    assert main(["compare", str(out / "labelled"), "--out", str(tmp_path / "compared")]) == 0


def answers_by_id(path):
    """Person and leading label of every answer, with `smoothing` and `refresh` of 0."""
    found = {}
    for line in path.open():
        for person in json.loads(line)["people"]:
            if person["scores"]:
                found[person["person_id"], person["assessed_ns"]] = person["label"]
    return [(name, label) for (name, _), label in found.items()]


def closest(scene, row):
    return min(scene, key=lambda x: abs(x.stamp_ns / 1e9 - float(row["start"])))


def is_at(box, row):
    middle = (float(row["left"]) + float(row["right"])) / 2
    return box.left < middle < box.right

"""Tables of ground truth of a bag, and replays that are compared with them."""

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
from emotion_perception.replay.annotation import Row, annotate
from emotion_perception.replay.ground_truth import COLUMNS, GroundTruth, GroundTruthScorer
from emotion_perception.replay.options import AnnotationOptions, BagOptions
from emotion_perception.replay.simulator import Simulator
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector, frame_at

HEAD = "person,start,end,left,top,right,bottom,labels,valence,arousal,dominance"
ALICE, BOB = Box(10, 20, 100, 220), Box(200, 20, 300, 220)


def table(tmp_path, *rows, head=HEAD):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_rows_hold_person_time_box_labels_and_vad(tmp_path):
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


def test_table_of_a_spreadsheet_is_read(tmp_path):
    """With semicolons, decimal commas, upper case, comma lists, and cells that were left out."""
    path = table(
        tmp_path,
        "alice;0;1,5;10;20;100;220;Happiness, peace;0,5;-0,25;0;",
        "alice;1,6;;20;20;110;220",
        ";;;;;;;;;;;",
        "bob;0;2;;;;;-",
        head=HEAD.replace(",", ";").title() + ";;",
    )
    alice, later, bob = GroundTruth.read(path).rows
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(alice.labels)] == ["happiness", "peace"]
    assert (alice.end, alice.box, alice.vad) == (1.5, ALICE, (0.5, -0.25, 0))
    assert (later.start, later.box.left, later.vad) == (1.6, 20, alice.vad)
    assert (later.labels == alice.labels).all()
    assert (bob.box, bob.labels) == (None, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("alice,,2,,,,,peace,,,", "start is empty"),
        ("alice,soon,2,,,,,peace,,,", "start = 'soon' is not a number"),
        ("alice,3,2,,,,,peace,,,", "end = 2.0 is before start = 3.0"),
        (",1,2,,,,,peace,,,", "person is empty"),
        ("alice,1,2,10,,,,peace,,,", "fill in all of left, top, right, bottom, or none"),
        ("alice,1,2,10,20,5,30,peace,,,", "the box .* is empty"),
        ("alice,1,2,,,,,happyness,,,", "'happyness' is not an EMOTIC label"),
        ("alice,1,2,,,,,peace,5,0,0", "expected values from -1 to 1"),
        ("alice,1,2,,,,,peace,fear,0,0,0", "it has 12 cells, not 11; put all labels into one"),
        ("alice,1,2,,,,,peace,fear,,,", "valence = 'fear' is not a number; put all labels into"),
        ("alice,1,2,1,5,,,peace,,,", "fill in all of left, top, right, bottom, or none"),
        ("alice,1e999,2,,,,,peace,,,", "start = '1e999' is not a number"),
        (f"alice,1,2,,,,,{'peace;' * 30000},,,", "field larger than field limit"),
        (
            "alice,0.5,2,,,,,peace,,,",
            "the row overlaps the previous row of alice, which ends at 1.0 s",
        ),
    ],
)
def test_invalid_row_is_an_error_with_its_line(tmp_path, row, message):
    path = table(tmp_path, "alice,0,1,,,,,peace,,,", row)
    with pytest.raises(ValueError, match=rf"labels.csv: line 3(:| is damaged:) .*{message}"):
        GroundTruth.read(path)


def test_file_without_rows_or_columns_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="labels.csv: it lacks the column 'labels'"):
        GroundTruth.read(table(tmp_path, head="person,start"))
    with pytest.raises(ValueError, match="labels.csv: it has no rows"):
        GroundTruth.read(table(tmp_path))
    with pytest.raises(ValueError, match="cannot read .*nowhere.csv: No such file or directory$"):
        GroundTruth.read(tmp_path / "nowhere.csv")


def compared(tmp_path, *rows, boxes=(ALICE, BOB), images=10):
    """The figures of a replay of two people, at 10 images a second."""
    recognizer = FakeRecognizer()
    scorer = GroundTruthScorer(
        GroundTruth.read(table(tmp_path, *rows)), 0, recognizer.labels, recognizer.thresholds
    )
    settings = Settings.from_dict({"scheduler.refresh": 0.0, "smoothing": 0.0})
    perception = Pipeline(ScriptedDetector(boxes), recognizer, settings)
    simulator = Simulator(perception, recognizer, on_image=scorer.on_image)
    recorded = [RecordedImage(i * 10**8, frame_at(5 + i / 10), None) for i in range(images)]
    for emission in simulator.run(recorded):
        scorer.add(emission)
    return scorer.figures(tmp_path / "labelled")


def test_tracks_are_matched_by_their_boxes_and_answers_compared(tmp_path):
    figures = compared(
        tmp_path,
        "alice,0,5,10,20,100,220,happiness,0,0,0",
        "bob,0,5,200,20,300,220,sadness,,,",
    )
    assert figures["images"] == 10
    assert figures["detection_recall"] == pytest.approx(9 / 10)  # no track in the first image
    assert figures["identity_switches"] == 0
    assert figures["answers"] == 18
    assert figures["answers_with_a_true_leading_label"] == 9
    run = Run.read(tmp_path / "labelled")
    assert len(run) == 18
    assert figures["measures"]["labels"]["happiness"]["precision"] == pytest.approx(0.5)
    assert figures["measures"]["labels"]["sadness"]["recall"] == 0


def test_row_without_end_is_about_one_image(tmp_path):
    figures = compared(tmp_path, "alice,0.51,,10,20,100,220,happiness,,,", boxes=(ALICE,))
    assert (figures["images"], figures["answers"]) == (1, 1)


def test_row_without_box_names_a_track_of_the_replay(tmp_path):
    figures = compared(tmp_path, "p00001,0,5,,,,,happiness,,,")
    assert "detection_recall" not in figures
    assert figures["answers"] == figures["answers_with_a_true_leading_label"] == 9


def test_track_in_another_place_is_not_matched(tmp_path):
    figures = compared(tmp_path, "carol,0,5,110,20,190,220,happiness,,,")
    assert (figures["detection_recall"], figures["answers"]) == (0, 0)
    assert "measures" not in figures


def test_rows_outside_the_time_of_the_replay_are_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"compare with labels.csv: no row of it is about an image"
    ):
        compared(tmp_path, "alice,100,101,10,20,100,220,happiness,,,")


def test_drawn_clip_has_a_table_of_ground_truth(tmp_path):
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


def test_annotated_row_contains_its_first_and_last_image():
    row = Row("p00001", 1 / 30, 11 / 30, [BOB], b"")
    cells = row.cells("thumbnail.jpg")
    assert float(cells["start"]) <= row.start
    assert float(cells["end"]) >= row.end


def test_detector_is_closed_after_an_error(tmp_path, monkeypatch):
    from emotion_perception.perception import detection

    class BrokenDetector(ScriptedDetector):
        closed = False

        def detect(self, frame):
            raise RuntimeError("out of memory")

        def close(self):
            BrokenDetector.closed = True

    monkeypatch.setattr(detection, "make_detector", lambda settings: BrokenDetector([ALICE]))
    toy_world.write_bag(tmp_path / "bag", toy_world.draw_clip(8, 0.5, size=(64, 64)))
    options = AnnotationOptions(bag=BagOptions(path=tmp_path / "bag"))
    with pytest.raises(RuntimeError):
        annotate(options)
    assert BrokenDetector.closed


def test_annotation_counts_the_images_of_the_selected_part(tmp_path, monkeypatch):
    from emotion_perception.perception import detection

    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([Box(5, 5, 40, 60)]))
    toy_world.write_bag(tmp_path / "bag", toy_world.draw_clip(8, 4.0, size=(64, 64)))
    progress = []
    bag = BagOptions(path=tmp_path / "bag", start=1.0, duration=2.0, every=2)
    options = AnnotationOptions(bag=bag, out=tmp_path / "monday")
    assert annotate(options, lambda line: None, lambda *counts: progress.append(counts))
    assert progress[-1][0] == pytest.approx(10, abs=1)
    assert progress[0][1] == pytest.approx(10, abs=1)
    assert (tmp_path / "monday.csv").is_file()
    assert list((tmp_path / "monday").glob("*.jpg"))
    with pytest.raises(ValueError, match=r"monday\.csv: it exists already, perhaps filled in"):
        annotate(options)


@pytest.mark.models
def test_annotated_table_is_filled_in_and_compared(tmp_path, capsys):
    for module in ("torch", "transformers", "ultralytics"):
        pytest.importorskip(module)
    scene = list(toy_world.draw_clip(8, 2.0))
    toy_world.write_bag(tmp_path / "bag", scene, start_ns=10**9)
    settings = {**toy_world.SETTINGS, "scheduler.refresh": 0.0, "smoothing": 0.0}
    parameters = [w for n, v in settings.items() for w in ("-p", f"{n}:={v}")]
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
    assert "it exists already, perhaps filled in" in capsys.readouterr().err
    out = tmp_path / "out"
    command = ["replay", str(tmp_path / "bag"), *parameters, "--out", str(out)]
    assert main([*command, "--labels", str(path)]) == 0
    figures = json.loads((out / "figures.json").read_text())["labelled"]
    assert figures["detection_recall"] > 0.95
    answers = answers_by_id(out / "emotions.jsonl")
    truth = {row["person"]: row["labels"].split("; ") for row in rows}  # no person changes so soon
    right = sum(label in truth[name] for name, label in answers)
    assert figures["answers"] == len(answers) > 30
    assert figures["answers_with_a_true_leading_label"] == right > 0
    assert main(["compare", str(out / "labelled"), "--out", str(tmp_path / "compared")]) == 0


def answers_by_id(path):
    """Return person and leading label of each answer, with `smoothing` and `refresh` of 0."""
    figures = {}
    for line in path.open():
        for person in json.loads(line)["people"]:
            if person["scores"]:
                figures[person["person_id"], person["assessed_ns"]] = person["label"]
    return [(name, label) for (name, _), label in figures.items()]


def closest(scene, row):
    return min(scene, key=lambda x: abs(x.stamp_ns / 1e9 - float(row["start"])))


def is_at(box, row):
    middle = (float(row["left"]) + float(row["right"])) / 2
    return box.left < middle < box.right

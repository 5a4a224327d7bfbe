"""A bag replayed: the same answers every time, as late as a simulated machine gives them."""

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode
from support.bag_files import write, write_ros1

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box, Frame, Status
from emotion_perception.io.bags import RecordedImage, image_message, typestore
from emotion_perception.io.image_decoding import IMAGE
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.replay.journal import Journal, JournaledDetector, JournaledRecognizer
from emotion_perception.replay.simulator import (
    LOOKED_AT,
    NOT_WANTED,
    OUTCOMES,
    TOO_SLOW,
    UNREADABLE,
    Latency,
    Simulator,
)
from emotion_perception.testing.fakes import SECOND_NS, FakeRecognizer, ScriptedDetector, frame_at

BOX = Box(50, 20, 150, 220)
FAR = Box(200, 20, 300, 220)
SCENE = list(toy_world.draw_clip(3, 2.0, size=(96, 96), people=2))


def beat(count, rate=10, start=1.0):
    """Images at a steady rate, received when they were taken."""
    frames = [frame_at(start + i / rate) for i in range(count)]
    return [RecordedImage(frame.stamp_ns, frame, None) for frame in frames]


def played(images, latency=None, recognizer=None, boxes=(BOX,), **settings):
    """What was said, and what became of the images."""
    recognizer, fates = recognizer or FakeRecognizer(), []
    chosen = Settings.from_dict({"scheduler.refresh": 0.0, "tracker.confirm_frames": 2, **settings})
    perception = Pipeline(ScriptedDetector(boxes), recognizer, chosen)
    machine = Simulator(
        perception, recognizer, latency, lambda image, outcome: fates.append(outcome)
    )
    return list(machine.run(images)), fates


def assessed(found):
    return [s for s in found if s.people.people and s.people.people[0].status is Status.ASSESSED]


def test_without_latency_every_image_is_answered_at_once():
    found, fates = played(beat(5))
    newest = {s.people.stamp_ns: s for s in assessed(found)}
    assert len(newest) == 4  # no track in the first image
    for stamp_ns, said in newest.items():
        assert said.people.people[0].assessed_ns == stamp_ns == said.time_ns
    assert fates == [LOOKED_AT] * 5


def test_nobody_is_asked_about_twice_in_one_image():
    recognizer = FakeRecognizer()
    played(beat(6), None, recognizer, (BOX, FAR), **{"scheduler.max_people": 1})
    assert len(set(recognizer.requests)) == len(recognizer.requests)
    assert len([who for stamp, who in recognizer.requests if stamp == 1.5 * SECOND_NS]) == 2


def test_an_answer_comes_as_late_as_it_is_said_to_and_the_next_question_follows_it():
    recognizer = FakeRecognizer()
    found, _ = played(beat(12), Latency(((1, 0.35),)), recognizer)
    answers = [s for s in found if s.time_ns != s.people.stamp_ns]
    first = answers[0]
    assert first.time_ns == 1.1 * SECOND_NS + 0.35 * SECOND_NS
    assert first.people.stamp_ns == 1.4 * SECOND_NS  # about whom is in the newest image by then
    assert first.people.people[0].assessed_ns == 1.1 * SECOND_NS
    # Asked again at 1.45 s, about the newest image.
    assert [stamp / SECOND_NS for stamp, _ in recognizer.requests] == pytest.approx([1.1, 1.4, 1.7])
    times = [said.time_ns for said in found]
    assert times == sorted(times)


def test_a_machine_that_is_slow_to_look_leaves_images_out_and_takes_the_newest():
    found, fates = played(beat(20), Latency(image=0.25))
    stamps = sorted({said.people.stamp_ns for said in found})
    assert np.diff(stamps).min() >= 0.2 * SECOND_NS
    assert fates.count(TOO_SLOW) + fates.count(LOOKED_AT) == 20
    assert fates.count(LOOKED_AT) == len(stamps) == pytest.approx(2.0 / 0.25, abs=1)
    assert fates[-1] == LOOKED_AT
    assert all(said.time_ns >= said.people.stamp_ns + 0.25 * SECOND_NS for said in found)


def test_images_that_are_unreadable_or_not_wanted_are_told_apart():
    images = beat(6)
    images[2] = images[2]._replace(frame=None)
    images.insert(4, images[3])
    _, fates = played(images)
    assert fates == [LOOKED_AT, LOOKED_AT, UNREADABLE, LOOKED_AT, NOT_WANTED, LOOKED_AT, LOOKED_AT]
    assert set(fates) < set(OUTCOMES)
    _, fates = played(beat(10), max_rate=5.0)
    assert fates.count(NOT_WANTED) == 5


def test_a_round_without_an_answer_is_asked_again_in_another_image():
    recognizer = FakeRecognizer()
    whole, asked = recognizer.assess, []

    def fails_once(scene, people):
        asked.append(scene.frame.stamp_ns)
        if len(asked) == 1:
            raise RecognizerError("away")
        return whole(scene, people)

    recognizer.assess = fails_once
    found, _ = played(beat(6), None, recognizer)
    assert found[-1].people.people[0].status is Status.ASSESSED
    assert len(asked) == len(set(asked)) > 1


def test_stamps_that_go_back_forget_everybody_and_what_was_asked_about_them():
    images = [*beat(4), *beat(4)]
    images = [image._replace(received_ns=i * SECOND_NS // 10) for i, image in enumerate(images)]
    for latency in (None, Latency(((1, 0.3),))):
        found, _ = played(images, latency)
        back = next(
            i for i, s in enumerate(found) if s.people.stamp_ns < found[i - 1].people.stamp_ns
        )
        before, after = (
            {e.track.person_id for s in part for e in s.people.people}
            for part in (found[:back], found[back:])
        )
        assert before.isdisjoint(after)


def test_a_latency_is_a_number_or_what_another_machine_measured(tmp_path):
    assert Latency.read("0").at_once
    assert Latency.read("0.4").answer(7) == 0.4
    path = tmp_path / "latency.json"
    path.write_text('{"image_seconds": 0.03, "answer_seconds": {"4": 0.9, "1": 0.3}}')
    found = Latency.read(str(path))
    assert found.image == 0.03
    assert [found.answer(n) for n in (1, 2, 4, 6)] == pytest.approx([0.3, 0.5, 0.9, 1.3])


NO_LATENCIES = [
    *("-1", "nan", "inf", "soon", "{}", '{"answer_seconds": {}}'),
    *('{"answer_seconds": {"0": 1}}', '{"answer_seconds": {"1": -1}}'),
]


@pytest.mark.parametrize("text", NO_LATENCIES)
def test_a_latency_that_is_none_is_named(tmp_path, text):
    given = text
    if text.startswith("{"):
        (tmp_path / "latency.json").write_text(text)
        given = str(tmp_path / "latency.json")
    with pytest.raises(ValueError, match="latency"):
        Latency.read(given)


def remembered(path, images, recognizer, detector=None):
    with Journal(path) as journal:
        detector = detector or ScriptedDetector([BOX])
        perception = Pipeline(
            JournaledDetector(detector, journal),
            kept := JournaledRecognizer(recognizer, journal),
            Settings.from_dict({"scheduler.refresh": 0.0}),
        )
        return list(Simulator(perception, kept).run(images)), journal.remembered


def test_what_was_computed_before_a_kill_is_not_computed_again(tmp_path):
    path = tmp_path / "computed.jsonl"
    whole, _ = remembered(path, beat(10), FakeRecognizer(lambda p: (1 / 3, 0.1)))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:9]) + lines[9][:20])  # killed in the middle of a line
    recognizer = FakeRecognizer(lambda p: (1 / 3, 0.1))
    again, count = remembered(path, beat(10), recognizer)
    assert count == 9
    assert path.read_bytes().count(b"\n") == len(lines)
    assert len(recognizer.requests) < 9
    for one, other in zip(whole, again, strict=True):
        assert one.time_ns == other.time_ns
        for a, b in zip(one.people.people, other.people.people, strict=True):
            assert (a.track, a.status, a.label) == (b.track, b.status, b.label)
            assert a.scores is b.scores is None or (a.scores == b.scores).all()


def test_answers_to_other_questions_are_refused(tmp_path):
    path = tmp_path / "computed.jsonl"
    remembered(path, beat(4), FakeRecognizer())
    with pytest.raises(ValueError, match=r"computed.jsonl answers .* it is of another replay"):
        remembered(path, beat(4, start=2.0), FakeRecognizer())
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"computed.jsonl is damaged .*: remove it"):
        remembered(path, beat(4), FakeRecognizer())


def test_a_failed_round_is_remembered_as_one(tmp_path):
    def fails(person):
        raise RecognizerError("away")

    path = tmp_path / "computed.jsonl"
    remembered(path, beat(4), FakeRecognizer(fails))
    found, _ = remembered(path, beat(4), FakeRecognizer(), ScriptedDetector([]))
    assert {e.status for s in found for e in s.people.people} == {Status.PENDING}


@pytest.fixture
def bag(tmp_path):
    toy_world.write_bag(tmp_path / "bag", SCENE, start_ns=10**9)
    return tmp_path / "bag"


@pytest.fixture
def stand_ins(monkeypatch):
    pytest.importorskip("polars")
    from emotion_perception.perception import detection
    from emotion_perception.recognizers import registry

    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([Box(5, 5, 60, 90)]))
    monkeypatch.setattr(registry, "make_recognizer", lambda s: FakeRecognizer())


def command(bag, out, *more):
    """The command, with settings for small pictures."""
    given = ["replay", str(bag), "--out", str(out), "-p", "visibility.min_height:=10", *more]
    return main(given)


def lines_of(out):
    return [json.loads(line) for line in (out / "emotions.jsonl").open()]


def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@pytest.mark.serial
def test_memory_stays_flat_over_ten_thousand_images(tmp_path, monkeypatch):
    pytest.importorskip("polars")
    from emotion_perception.perception import detection
    from emotion_perception.recognizers import registry

    noise = np.random.default_rng(0).integers(0, 256, (10_000, 48, 64, 3), dtype=np.uint8)
    frames = (frame_at(1 + i / 30, picture) for i, picture in enumerate(noise))
    raws = (bytes(typestore().serialize_cdr(image_message(frame), IMAGE)) for frame in frames)
    write(tmp_path / "bag", raws, range(10**9, 334 * 10**9 + 4 * 10**8, 10**9 // 30 + 1))
    del noise, frames
    held = []

    def judge(person):
        held.append(resident_megabytes())
        return 0.9, 0.2

    recognizer = FakeRecognizer(judge)
    recognizer.requests = type("Nothing", (), {"append": lambda self, _: None})()
    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([Box(5, 5, 40, 45)]))
    monkeypatch.setattr(registry, "make_recognizer", lambda s: recognizer)
    labels = tmp_path / "labels.csv"
    labels.write_text("person,start,end,labels\np00001,0,400,anger\n")
    more = ("--labels", str(labels), "-p", "scheduler.refresh:=0.5", "--latency", "0.1")
    assert command(tmp_path / "bag", tmp_path / "out", *more) == 0
    # Frames kept would be 92 MB; the labelled images are told apart, in some 10.
    after, end = held[len(held) // 5], held[-1]
    assert len(held) > 500
    assert end - after < 40


def test_two_replays_by_the_command_are_the_same_bytes(bag, tmp_path, stand_ins):
    for name in ("one", "two"):
        assert command(bag, tmp_path / name) == 0
    one, two = ((tmp_path / name / "emotions.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    assert len(one.splitlines()) > len(SCENE)
    assert {line["stamp_ns"] for line in lines_of(tmp_path / "one")} == {
        10**9 + x.stamp_ns for x in SCENE
    }
    assert not (tmp_path / "one" / "partial").exists()


def test_lines_bag_and_table_say_the_same(bag, tmp_path, stand_ins):
    import polars as pl
    from rosbags.highlevel import AnyReader

    from emotion_perception.io.json_codec import people_to_json
    from emotion_perception.io.message_codec import people_from_msg

    out = tmp_path / "out"
    assert command(bag, out, "--images", "--latency", "0.2") == 0
    lines = lines_of(out)
    with AnyReader([out / "bag"]) as reader:
        found = [
            (time, reader.deserialize(raw, c.msgtype))
            for c, time, raw in reader.messages()
            if c.topic.endswith("emotions")
        ]
        assert {c.topic: c.msgcount for c in reader.connections}["/camera/image_raw"] == len(SCENE)
    for line, (time_ns, message) in zip(lines, found, strict=True):
        back = people_to_json(people_from_msg(message))
        assert line["time_ns"] == time_ns
        for person, other in zip(line["people"], back["people"], strict=True):
            assert {**person, "box": None} == {**other, "box": None}
    rows = pl.read_parquet(out / "emotions.parquet")
    assert len(rows) == sum(len(line["people"]) for line in lines) > 0
    judged = rows.filter(pl.col("status") == "ASSESSED")
    first = next(p for line in lines for p in line["people"] if p["status"] == "ASSESSED")
    assert judged["scores"][0].to_list() == first["scores"]
    assert judged["label"][0] == first["label"]


def test_figures_tell_what_was_measured_and_for_another_machine(bag, tmp_path, stand_ins):
    assert command(bag, tmp_path / "one", "--latency", "0.25") == 0
    figures = json.loads((tmp_path / "one" / "figures.json").read_text())
    assert figures["fates"] == {"looked at": len(SCENE)}
    assert figures["answer_latency_seconds"]["median"] == pytest.approx(0.25, abs=0.06)
    shares = figures["share_by_status"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert figures["share_without_answer"] == pytest.approx(1 - shares["ASSESSED"], abs=1e-3)
    measured = tmp_path / "one" / "latency.json"
    assert command(bag, tmp_path / "two", "--latency", str(measured)) == 0


def test_an_interrupted_replay_goes_on(bag, tmp_path, monkeypatch, capsys):
    pytest.importorskip("polars")
    from emotion_perception.perception import detection
    from emotion_perception.recognizers import registry

    def judge(person):
        if len(judged) == 4 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        judged.append(person)
        return 0.9, 0.2

    judged, interrupted = [], []
    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([Box(5, 5, 60, 90)]))
    monkeypatch.setattr(registry, "make_recognizer", lambda s: FakeRecognizer(judge))
    out, more = tmp_path / "out", ("-p", "scheduler.refresh:=0.0")
    assert command(bag, out, *more) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (out / "emotions.jsonl").exists()
    assert command(bag, out, *more) == 0
    assert "results were remembered" in capsys.readouterr().err
    once = len(judged)
    assert command(bag, tmp_path / "whole", *more) == 0
    assert len(judged) - once == once
    whole = (tmp_path / "whole" / "emotions.jsonl").read_bytes()
    assert (out / "emotions.jsonl").read_bytes() == whole


def test_labels_are_mended_and_measured_again(bag, tmp_path, stand_ins, capsys):
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    found = []
    for label in ("happiness", "sadness"):
        labels.write_text(f"person,start,end,labels\np00001,0,5,{label}\n")
        assert command(bag, out, "--labels", str(labels)) == 0
        figures = json.loads((out / "figures.json").read_text())
        found.append(figures["labelled"]["answers_with_a_true_leading_label"])
    assert found[0] > found[1] == 0
    labels.write_text("person,start,end,labels\np00001,500,501,anger\n")
    (out / "report.html").unlink()
    assert command(bag, out, "--labels", str(labels)) == 2
    assert "no row of labels.csv is about an image" in capsys.readouterr().err
    assert (out / "report.html").exists()
    assert not (out / "labelled").exists()


def test_questions_without_an_answer_are_told(bag, tmp_path, monkeypatch, capsys):
    pytest.importorskip("polars")
    from emotion_perception.perception import detection
    from emotion_perception.recognizers import registry

    def fails(person):
        raise RecognizerError("the server is away")

    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([Box(5, 5, 60, 90)]))
    monkeypatch.setattr(registry, "make_recognizer", lambda s: FakeRecognizer(fails))
    assert command(bag, tmp_path / "out") == 1
    assert "questions had no answer: the server is away" in capsys.readouterr().err
    assert "the server is away" in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "latency.json").exists()


def test_files_of_others_are_left_alone(bag, tmp_path, stand_ins, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "report.html").write_text("mine")
    assert command(bag, out) == 2
    assert "mine: it holds other files and no run" in capsys.readouterr().err
    assert (out / "report.html").read_text() == "mine"


def test_a_replay_is_no_run_but_holds_one(bag, tmp_path, stand_ins, capsys):
    assert command(bag, tmp_path / "out") == 0
    assert main(["compare", str(tmp_path / "out")]) == 2
    assert f"pass {tmp_path / 'out' / 'labelled'}" in capsys.readouterr().err


def test_other_weights_are_another_replay(bag, tmp_path, stand_ins, capsys):
    model = tmp_path / "model"
    model.mkdir()
    for content in (b"one", b"other"):
        (model / "model.safetensors").write_bytes(content)
        status = command(bag, tmp_path / "out", "-p", f"recognizer.model:={model}")
    assert status == 2
    assert "holds another run (weights" in capsys.readouterr().err


def test_another_replay_in_the_folder_is_left_alone(bag, tmp_path, stand_ins, capsys):
    assert command(bag, tmp_path / "out") == 0
    before = (tmp_path / "out" / "emotions.jsonl").read_bytes()
    assert command(bag, tmp_path / "out", "-p", "smoothing:=0.0") == 2
    assert "holds another run (settings" in capsys.readouterr().err
    assert (tmp_path / "out" / "emotions.jsonl").read_bytes() == before


def test_of_a_damaged_bag_what_came_before_is_kept_and_marked(bag, tmp_path, stand_ins, capsys):
    stamps = [10**9 + picture.stamp_ns for picture in SCENE]
    large = [np.tile(picture.image, (3, 3, 1)) for picture in SCENE]  # several chunks
    frames = [Frame(image, t, "camera") for image, t in zip(large, stamps, strict=True)]
    raws = [bytes(typestore().serialize_cdr(image_message(frame), IMAGE)) for frame in frames]
    write(tmp_path / "long", raws, stamps, compression=CompressionMode.STORAGE)
    file = tmp_path / "long" / "long.mcap"
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2)
        damaged.write(b"\xff" * (file.stat().st_size // 4))
    code = command(tmp_path / "long", tmp_path / "out")
    said = capsys.readouterr().err
    assert code == 1, said
    assert "any further: it is damaged here" in said
    assert lines_of(tmp_path / "out")
    assert "any further: it is damaged here" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["ended"]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--every", "0"), "--every 0: choose 1"),
        (("--start", "-1"), "--start -1.0: choose 0 s"),
        (("--duration", "0"), "--duration 0.0: choose more than 0 s"),
        (("--start", "99"), "no image on /camera/image_raw in that time"),
        (("--topic", "/nothing"), "the topic /nothing is not in the bag"),
        (("--latency", "soon"), "--latency soon: neither seconds nor a file"),
        (("--lockstep",), "--lockstep is for --live"),
        (("--live", "--rate", "0"), "--rate 0.0: choose a factor above 0"),
        (("--rate", "0"), "--rate is for --live"),
        (("--live", "--lockstep", "--rate", "1"), "leave --rate out"),
        (("--live", "--patience", "-1"), "--patience -1.0: choose seconds above 0"),
        (("--start", "inf"), "--start inf: choose 0 s"),
        (("--duration", "1e300"), "--duration 1e+300: choose more than 0 s"),
        (("--latency", "1e300"), "a latency of 1e300: give 0 to 3600 seconds"),
        (("--live", "--latency", "1"), "--live plays into a node with settings of its own"),
        (("-p", "smoothign:=1.0"), "did you mean 'smoothing'"),
        (("--labels", "nowhere.csv"), "nowhere.csv cannot be read"),
    ],
)
def test_wrong_arguments_of_the_command_are_named(
    bag, tmp_path, stand_ins, capsys, more, complaint
):
    assert command(bag, tmp_path / "out", *more) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out" / "emotions.jsonl").exists()


def test_a_bag_without_images_is_named(tmp_path, stand_ins, capsys):
    write(tmp_path / "empty", [])
    assert command(tmp_path / "empty", tmp_path / "out") == 2
    assert "no image on /camera/image_raw in that time" in capsys.readouterr().err


def test_a_bag_that_is_not_there_is_named(bag, tmp_path, stand_ins, capsys):
    shutil.rmtree(bag)
    assert command(bag, tmp_path / "out") == 2
    assert "bag: it does not exist" in capsys.readouterr().err


@pytest.mark.models
def test_the_small_models_say_the_same_about_a_bag_twice_and_in_every_format(tmp_path):
    for module in ("torch", "transformers", "ultralytics", "polars"):
        pytest.importorskip(module)
    scene = list(toy_world.draw_clip(8, 1.5))
    given = [f"{name}:={value}" for name, value in toy_world.SETTINGS.items()]
    given += ["detector.device:=cpu", "recognizer.device:=cpu"]
    parameters = [word for pair in given for word in ("-p", pair)]
    said = []
    bags = [tmp_path / name for name in ("mcap", "again", "sqlite3", "one.bag")]
    for path in bags[:3]:
        storage = "sqlite3" if path.name == "sqlite3" else "mcap"
        toy_world.write_bag(path, scene, storage=storage, start_ns=10**9)
    write_ros1(bags[3], scene)
    for path in bags:
        out = tmp_path / f"out_{path.name}"
        assert main(["replay", str(path), "--out", str(out), *parameters]) == 0
        said.append((out / "emotions.jsonl").read_bytes())
    assert len(set(said)) == 1
    last = json.loads(said[0].splitlines()[-1])
    assert [person["status"] for person in last["people"]].count("ASSESSED") >= 1

"""Replays: repeatable messages, simulated latencies, resumption, and the command."""

import fcntl
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode
from support.bag_files import serialized, write, write_ros1
from support.file_modes import readable_by_others

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box, Frame, Status
from emotion_perception.io.bags import RecordedImage, image_message, typestore
from emotion_perception.io.image_decoding import IMAGE
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.perception.stamps import LATE, REPEATED
from emotion_perception.replay import annotation
from emotion_perception.replay.journal import Journal, JournaledDetector, JournaledRecognizer
from emotion_perception.replay.options import AnnotationOptions, BagOptions, ReplayOptions
from emotion_perception.replay.report import timeline_data
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

pytestmark = pytest.mark.command

BOX = Box(50, 20, 150, 220)
FAR = Box(200, 20, 300, 220)
SCENE = list(toy_world.draw_clip(3, 2.0, size=(96, 96), people=2))


def steady_images(count, rate=10, start=1.0):
    """Images at a steady rate, received when they were taken."""
    frames = [frame_at(start + i / rate) for i in range(count)]
    return [RecordedImage(frame.stamp_ns, frame, None) for frame in frames]


def simulate(images, latency=None, recognizer=None, boxes=(BOX,), **settings):
    """Return the emissions of a simulated replay, and the outcomes of the images."""
    recognizer, outcomes = recognizer or FakeRecognizer(), []
    chosen = Settings.from_dict({"scheduler.refresh": 0.0, "tracker.confirm_frames": 2, **settings})
    perception = Pipeline(ScriptedDetector(boxes), recognizer, chosen)
    simulator = Simulator(
        perception, recognizer, latency, lambda image, outcome: outcomes.append(outcome)
    )
    return list(simulator.run(images)), outcomes


def assessed(emissions):
    return [
        s for s in emissions if s.people.people and s.people.people[0].status is Status.ASSESSED
    ]


def test_without_latency_each_image_is_answered_at_its_own_time():
    emissions, outcomes = simulate(steady_images(5))
    newest = {s.people.stamp_ns: s for s in assessed(emissions)}
    assert len(newest) == 4  # no track in the first image
    for stamp_ns, emission in newest.items():
        assert emission.people.people[0].assessed_ns == stamp_ns == emission.time_ns
    assert outcomes == [LOOKED_AT] * 5


def test_person_is_assessed_once_per_image():
    recognizer = FakeRecognizer()
    simulate(steady_images(6), None, recognizer, (BOX, FAR), **{"scheduler.max_people": 1})
    assert len(set(recognizer.requests)) == len(recognizer.requests)
    assert len([who for stamp, who in recognizer.requests if stamp == 1.5 * SECOND_NS]) == 2


def test_answer_is_published_after_its_latency_and_the_next_round_follows():
    recognizer = FakeRecognizer()
    emissions, _ = simulate(steady_images(12), Latency(((1, 0.35),)), recognizer)
    answers = [s for s in emissions if s.time_ns != s.people.stamp_ns]
    first = answers[0]
    assert first.time_ns == 1.1 * SECOND_NS + 0.35 * SECOND_NS
    assert first.people.stamp_ns == 1.4 * SECOND_NS  # about whom is in the newest image by then
    assert first.people.people[0].assessed_ns == 1.1 * SECOND_NS
    # Asked again at 1.45 s, about the newest image.
    assert [stamp / SECOND_NS for stamp, _ in recognizer.requests] == pytest.approx([1.1, 1.4, 1.7])
    times = [emission.time_ns for emission in emissions]
    assert times == sorted(times)


def test_slow_detection_skips_images_and_uses_the_newest():
    emissions, outcomes = simulate(steady_images(20), Latency(image=0.25))
    stamps = sorted({emission.people.stamp_ns for emission in emissions})
    assert np.diff(stamps).min() >= 0.2 * SECOND_NS
    assert outcomes.count(TOO_SLOW) + outcomes.count(LOOKED_AT) == 20
    assert outcomes.count(LOOKED_AT) == len(stamps) == pytest.approx(2.0 / 0.25, abs=1)
    assert outcomes[-1] == LOOKED_AT
    assert all(
        emission.time_ns >= emission.people.stamp_ns + 0.25 * SECOND_NS for emission in emissions
    )


def test_unreadable_and_unwanted_images_have_different_outcomes():
    images = steady_images(6)
    images[2] = images[2]._replace(frame=None)
    images.insert(4, images[3])
    _, outcomes = simulate(images)
    assert outcomes == [
        LOOKED_AT,
        LOOKED_AT,
        UNREADABLE,
        LOOKED_AT,
        REPEATED,
        LOOKED_AT,
        LOOKED_AT,
    ]
    assert set(outcomes) < set(OUTCOMES)
    _, outcomes = simulate(steady_images(10), max_rate=5.0)
    assert outcomes.count(NOT_WANTED) == 5


def test_failed_round_is_repeated_in_another_image():
    recognizer = FakeRecognizer()
    whole, asked = recognizer.assess, []

    def fails_once(scene, people):
        asked.append(scene.frame.stamp_ns)
        if len(asked) == 1:
            raise RecognizerError("away")
        return whole(scene, people)

    recognizer.assess = fails_once
    emissions, _ = simulate(steady_images(6), None, recognizer)
    assert emissions[-1].people.people[0].status is Status.ASSESSED
    assert len(asked) == len(set(asked)) > 1


def test_stamps_that_go_back_drop_all_tracks_and_the_open_round():
    images = [*steady_images(4), *steady_images(4)]
    images = [image._replace(received_ns=i * SECOND_NS // 10) for i, image in enumerate(images)]
    for latency in (None, Latency(((1, 0.3),))):
        emissions, _ = simulate(images, latency)
        back = next(
            i
            for i, s in enumerate(emissions)
            if s.people.stamp_ns < emissions[i - 1].people.stamp_ns
        )
        before, after = (
            {e.track.person_id for s in part for e in s.people.people}
            for part in (emissions[:back], emissions[back:])
        )
        assert before.isdisjoint(after)


def test_latency_is_a_number_or_a_file_of_another_machine(tmp_path):
    assert Latency.read("0").at_once
    assert Latency.read("0.4").answer(7) == 0.4
    path = tmp_path / "latency.json"
    path.write_text('{"image_seconds": 0.03, "answer_seconds": {"4": 0.9, "1": 0.3}}')
    latency = Latency.read(str(path))
    assert latency.image == 0.03
    assert [latency.answer(n) for n in (1, 2, 4, 6)] == pytest.approx([0.3, 0.5, 0.9, 1.3])


NO_LATENCIES = [
    *("-1", "nan", "inf", "soon", "{}", '{"answer_seconds": {}}'),
    *('{"answer_seconds": {"0": 1}}', '{"answer_seconds": {"1": -1}}'),
]


@pytest.mark.parametrize("text", NO_LATENCIES)
def test_invalid_latency_is_an_error_that_names_it(tmp_path, text):
    given = text
    if text.startswith("{"):
        (tmp_path / "latency.json").write_text(text)
        given = str(tmp_path / "latency.json")
    with pytest.raises(ValueError, match="latency"):
        Latency.read(given)


def journaled_replay(path, images, recognizer, detector=None):
    with Journal(path) as journal:
        detector = detector or ScriptedDetector([BOX])
        perception = Pipeline(
            JournaledDetector(detector, journal),
            kept := JournaledRecognizer(recognizer, journal),
            Settings.from_dict({"scheduler.refresh": 0.0}),
        )
        return list(Simulator(perception, kept).run(images)), journal.remembered


def test_results_stored_before_a_kill_are_not_computed_again(tmp_path):
    path = tmp_path / "computed.jsonl"
    whole, _ = journaled_replay(path, steady_images(10), FakeRecognizer(lambda p: (1 / 3, 0.1)))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:9]) + lines[9][:20])  # killed in the middle of a line
    recognizer = FakeRecognizer(lambda p: (1 / 3, 0.1))
    again, count = journaled_replay(path, steady_images(10), recognizer)
    assert count == 9
    assert path.read_bytes().count(b"\n") == len(lines)
    assert len(recognizer.requests) < 9
    for one, other in zip(whole, again, strict=True):
        assert one.time_ns == other.time_ns
        for a, b in zip(one.people.people, other.people.people, strict=True):
            assert (a.track, a.status, a.label) == (b.track, b.status, b.label)
            assert a.scores is b.scores is None or (a.scores == b.scores).all()


def test_stored_results_of_another_replay_are_refused(tmp_path):
    path = tmp_path / "computed.jsonl"
    journaled_replay(path, steady_images(4), FakeRecognizer())
    with pytest.raises(ValueError, match=r"computed.jsonl holds .* from another replay"):
        journaled_replay(path, steady_images(4, start=2.0), FakeRecognizer())
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"computed.jsonl is damaged .*; remove the file"):
        journaled_replay(path, steady_images(4), FakeRecognizer())


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (r'"confidence": \[', '"confidence": [5e9, ', "confidence is not a number from 0 to 1"),
        (r'"confidence": \[[0-9.]*', '"confidence": [5e9', "confidence is not a number"),
        (r'"boxes": \[\[50.0, ', '"boxes": [[', "boxes is not a list of four numbers"),
        ('"seconds": ', '"seconds": -1', "seconds = -"),
        (r'"scores": \[[0-9.]*', '"scores": [1.9', "scores are not numbers from 0 to 1"),
        (r'"said": \[{', '"said": [{}, {', "it does not hold 1 assessments"),
        ('"rationale": null', '"rationale": 42', "rationale or reason is not a text"),
        ('"asked"', '"ask"', "a line is not a result"),
        ('"seconds": ', f'"seconds": 1{"0" * 400}', "too large"),
    ],
)
def test_stored_values_without_sense_are_refused(tmp_path, old, new, reason):
    path = tmp_path / "computed.jsonl"
    journaled_replay(path, steady_images(4), FakeRecognizer())
    text = path.read_text()
    assert re.search(old, text)
    path.write_text(re.sub(old, new, text, count=1))
    with pytest.raises(ValueError, match=rf"computed.jsonl is damaged \(.*{reason}.*; remove"):
        journaled_replay(path, steady_images(4), FakeRecognizer())


def test_failed_round_is_stored_as_failed(tmp_path):
    def fails(person):
        raise RecognizerError("away")

    path = tmp_path / "computed.jsonl"
    journaled_replay(path, steady_images(4), FakeRecognizer(fails))
    emissions, _ = journaled_replay(path, steady_images(4), FakeRecognizer(), ScriptedDetector([]))
    assert {e.status for s in emissions for e in s.people.people} == {Status.PENDING}


def test_wrong_answer_is_stored_as_failed_and_resumed(tmp_path):
    class Silent(FakeRecognizer):
        def assess(self, scene, people):
            self.requests.append((scene.frame.stamp_ns, ()))
            return []

    path, recognizer, again = tmp_path / "computed.jsonl", Silent(), Silent()
    emissions, _ = journaled_replay(path, steady_images(4), recognizer)
    person = emissions[-1].people.people[0]
    assert person.status is Status.PENDING
    assert "returned 0 assessments" in person.reason
    resumed, _ = journaled_replay(path, steady_images(4), again)
    assert [e.people.people for e in resumed] != []
    assert (len(recognizer.requests), len(again.requests)) == (3, 0)


def test_limits_of_images_are_those_of_the_parameters(tmp_path):
    write(tmp_path / "bag", serialized([10**9, 2 * 10**9]))
    for max_pixels, readable in ((96 * 96, 2), (96 * 96 - 1, 0)):
        options = BagOptions(path=tmp_path / "bag", parameters={"max_pixels": max_pixels})
        with options.open() as opened:
            assert sum(image.frame is not None for image in options.images(opened)) == readable


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


SMALL = ("-p", "visibility.min_height:=10", "-p", "recognizer.device:=cpu")
"""Parameters of replays of small pictures, which need not look for a GPU."""


def command(bag, out, *more):
    """The command, with settings for small pictures."""
    return main(["replay", str(bag), "--out", str(out), *SMALL, *more])


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

    def assess(person):
        held.append(resident_megabytes())
        return 0.9, 0.2

    recognizer = FakeRecognizer(assess)
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


def test_two_replays_write_the_same_bytes(bag, tmp_path, stand_ins):
    for name in ("one", "two"):
        assert command(bag, tmp_path / name) == 0
    one, two = ((tmp_path / name / "emotions.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    assert len(one.splitlines()) > len(SCENE)
    assert {line["stamp_ns"] for line in lines_of(tmp_path / "one")} == {
        10**9 + x.stamp_ns for x in SCENE
    }
    assert not (tmp_path / "one" / "partial").exists()


def restamped_bag(folder, stamps_ns):
    """A bag of images at 15 Hz that carry these stamps."""
    frames = [Frame(SCENE[i % len(SCENE)].image, s, "camera") for i, s in enumerate(stamps_ns)]
    raws = (bytes(typestore().serialize_cdr(image_message(frame), IMAGE)) for frame in frames)
    write(folder, raws, range(10**9, 1000 * 10**9, 10**9 // 15))
    return folder


def report_of(out):
    figures = json.loads((out / "figures.json").read_text())
    return figures["fates"], figures["clock_jumps"], (out / "report.html").read_text()


def test_images_without_stamps_are_counted_and_the_replay_is_incomplete(
    tmp_path, stand_ins, capsys
):
    bag, out = restamped_bag(tmp_path / "bag", [0] * 20), tmp_path / "out"
    assert command(bag, out) == 1
    outcomes, jumps, page = report_of(out)
    assert outcomes == {LOOKED_AT: 1, REPEATED: 19}
    assert jumps == 0
    assert "19 images were skipped because their stamp repeats" in page
    assert "19 images were skipped because their stamp repeats" in capsys.readouterr().err


def test_late_images_are_skipped_and_counted_and_people_keep_their_ids(tmp_path, stand_ins, capsys):
    stamps = [10**9 + i * 66_666_667 - (80_000_000 if i % 7 == 6 else 0) for i in range(120)]
    bag, out = restamped_bag(tmp_path / "bag", stamps), tmp_path / "out"
    assert command(bag, out) == 0
    outcomes, jumps, page = report_of(out)
    assert outcomes == {LOOKED_AT: 103, LATE: 17}
    assert jumps == 0
    assert "17 images were skipped because they are late" in page
    assert "17 images were skipped because they are late" in capsys.readouterr().err
    assert len({p["person_id"] for line in lines_of(out) for p in line["people"]}) == 1


def test_clock_that_is_set_back_is_counted_and_starts_new_ids(tmp_path, stand_ins, capsys):
    stamps = [(100 if i < 10 else 5) * 10**9 + i * 66_666_667 for i in range(20)]
    bag, out = restamped_bag(tmp_path / "bag", stamps), tmp_path / "out"
    assert command(bag, out) == 0
    outcomes, jumps, page = report_of(out)
    assert (outcomes, jumps) == ({LOOKED_AT: 20}, 1)
    assert "clock to an earlier time: 1; each drops all tracks" in page
    assert "clock to an earlier time: 1; each drops all tracks" in capsys.readouterr().err
    assert len({p["person_id"] for line in lines_of(out) for p in line["people"]}) == 2


def test_annotation_keeps_people_and_reports_late_images(tmp_path, stand_ins, capsys):
    stamps = [10**9 + i * 66_666_667 - (80_000_000 if i % 7 == 6 else 0) for i in range(30)]
    bag, table = restamped_bag(tmp_path / "bag", stamps), tmp_path / "table.csv"
    assert main(["annotate", str(bag), "--out", str(table)]) == 0
    assert {row.split(",")[0] for row in table.read_text().splitlines()[1:]} == {"p00001"}
    assert "4 images were skipped because they are late" in capsys.readouterr().err


def test_interrupted_annotation_resumes(bag, tmp_path, monkeypatch, capsys):
    from emotion_perception.perception import detection

    class Interrupted(ScriptedDetector):
        def detect(self, frame):
            if len(detected) == 5 and not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            detected.append(frame.stamp_ns)
            return super().detect(frame)

    detected, interrupted = [], []
    monkeypatch.setattr(detection, "make_detector", lambda s: Interrupted([Box(5, 5, 60, 90)]))
    arguments = ["annotate", str(bag), "--out"]
    assert main([*arguments, str(tmp_path / "table.csv")]) == 130
    assert "start the same command again to resume" in capsys.readouterr().err
    assert not (tmp_path / "table.csv").exists()
    assert main([*arguments, str(tmp_path / "table.csv")]) == 0
    assert len(detected) == len(set(detected))  # none was computed again
    assert main([*arguments, str(tmp_path / "whole.csv")]) == 0
    resumed, whole = ((tmp_path / f"{name}.csv").read_text() for name in ("table", "whole"))
    assert resumed.replace("table/", "whole/") == whole
    names = sorted(os.listdir(tmp_path / "table"))
    assert names == sorted(os.listdir(tmp_path / "whole"))
    assert main([*arguments, str(tmp_path / "table.csv")]) == 2
    assert "it exists already, perhaps filled in" in capsys.readouterr().err
    (tmp_path / "table.csv").unlink()
    other = [*arguments, str(tmp_path / "table.csv"), "-p", "detector.confidence:=0.9"]
    assert main(other) == 2
    assert "holds another run (settings.detector.confidence" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["replay", "annotate"])
def test_output_that_cannot_be_written_is_refused_before_the_models_load(
    bag, tmp_path, monkeypatch, capsys, name
):
    from emotion_perception.perception import detection
    from emotion_perception.recognizers import registry

    def load(settings):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(detection, "make_detector", load)
    monkeypatch.setattr(registry, "make_recognizer", load)
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    for out, reason in (
        ("file/out.csv", "Not a directory"),
        ("n" * 300 + ".csv", "too long|304 bytes"),
        ("other" if name == "replay" else "other.csv", "holds other files"),
    ):
        assert main([name, str(bag), "--out", str(tmp_path / out)]) == 2
        assert re.search(reason, capsys.readouterr().err.splitlines()[-1])
    assert sorted(os.listdir(tmp_path)) == ["bag", "file", "other"]


def test_full_disk_is_named_and_leaves_no_partial_folder(bag, tmp_path):
    """In a process of its own, whose files may not grow beyond 3 kB."""
    program = (
        "import resource, signal, sys\n"
        "from emotion_perception.core.values import Box\n"
        "from emotion_perception.perception import detection\n"
        "from emotion_perception.recognizers import registry\n"
        "from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector\n"
        "from emotion_perception.cli.main import main\n"
        "import emotion_perception.replay.session\n"
        "detection.make_detector = lambda s: ScriptedDetector([Box(5, 5, 60, 90)])\n"
        "registry.make_recognizer = lambda s: FakeRecognizer()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "limit = int(sys.argv.pop(1))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    named = set()
    for limit in (1000, 3000, 5000, 10_000, 20_000):
        out = tmp_path / f"out{limit}"
        arguments = ["replay", str(bag), "--out", str(out), *SMALL]
        done = subprocess.run(
            [sys.executable, "-c", program, str(limit), *arguments],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        line = done.stderr.splitlines()[-1]
        assert re.match(r"emotion-perception replay: cannot write .*File too large", line), line
        assert "Traceback" not in done.stderr
        named.add(re.search(rf"{out}/([^:]*):", line)[1])
        assert not (out / "partial").exists()
        assert not list(tmp_path.rglob("*.part"))
    assert len(named) > 1, named


def test_lines_bag_and_table_have_the_same_content(bag, tmp_path, stand_ins):
    import polars as pl
    from rosbags.highlevel import AnyReader

    from emotion_perception.io.json_codec import people_to_json
    from emotion_perception.io.message_codec import people_from_msg

    out = tmp_path / "out"
    assert command(bag, out, "--images", "--latency", "0.2") == 0
    lines = lines_of(out)
    with AnyReader([out / "bag"]) as reader:
        messages = [
            (time, reader.deserialize(raw, c.msgtype))
            for c, time, raw in reader.messages()
            if c.topic.endswith("emotions")
        ]
        assert {c.topic: c.msgcount for c in reader.connections}["/camera/image_raw"] == len(SCENE)
    for line, (time_ns, message) in zip(lines, messages, strict=True):
        back = people_to_json(people_from_msg(message))
        assert line["time_ns"] == time_ns
        for person, other in zip(line["people"], back["people"], strict=True):
            assert {**person, "box": None} == {**other, "box": None}
    rows = pl.read_parquet(out / "emotions.parquet")
    assert len(rows) == sum(len(line["people"]) for line in lines) > 0
    assessed_people = rows.filter(pl.col("status") == "ASSESSED")
    first = next(p for line in lines for p in line["people"] if p["status"] == "ASSESSED")
    assert assessed_people["scores"][0].to_list() == first["scores"]
    assert assessed_people["label"][0] == first["label"]


def test_outputs_with_images_of_people_are_private(bag, tmp_path, stand_ins):
    assert command(bag, tmp_path / "out") == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert main(["annotate", str(bag), "--out", str(tmp_path / "table.csv")]) == 0
    assert len(list((tmp_path / "table").iterdir())) > 0
    outputs = [tmp_path / name for name in ("out", "table", "table.csv")]
    assert readable_by_others(*outputs) == []


def test_heads_in_recorded_images_reports_and_thumbnails_are_blurred_on_request(
    bag, tmp_path, stand_ins, monkeypatch
):
    from emotion_perception.io.bags import Bag
    from emotion_perception.perception import privacy

    monkeypatch.setattr(privacy.importlib.util, "find_spec", lambda name: None)  # no face detector
    shown = []
    monkeypatch.setattr(timeline_data, "_jpeg", lambda frame, side: shown.append(frame) or b"jpeg")
    on = ("-p", "privacy.blur_faces:=true")
    assert command(bag, tmp_path / "out", "--images", "--latency", "0.2", *on) == 0
    with Bag(bag) as recorded, Bag(tmp_path / "out" / "bag", "/camera/image_raw") as written:
        originals = {image.frame.stamp_ns: image.frame.image for image in recorded.images()}
        frames = [image.frame for image in written.images()]
    assert len(frames) == len(SCENE)  # all were looked at
    head, body = (slice(8, 30), slice(8, 57)), (slice(35, 88), slice(8, 57))  # of Box(5, 5, 60, 90)
    for frame in [*frames[2:], *shown[2:]]:  # the first two have no person yet
        original = originals[frame.stamp_ns]
        assert np.array_equal(frame.image[body], original[body])
        colours = [len(np.unique(i[head].reshape(-1, 3), axis=0)) for i in (frame.image, original)]
        assert colours[0] <= 40 < colours[1]
    crops = []
    monkeypatch.setattr(annotation, "_thumbnail", lambda frame, box: crops.append(frame) or b"")
    assert main(["annotate", str(bag), "--out", str(tmp_path / "table.csv"), *on]) == 0
    assert all(len(np.unique(f.image[head].reshape(-1, 3), axis=0)) <= 40 for f in crops)
    assert crops


def test_figures_hold_measured_latencies_for_another_machine(bag, tmp_path, stand_ins):
    assert command(bag, tmp_path / "one", "--latency", "0.25") == 0
    figures = json.loads((tmp_path / "one" / "figures.json").read_text())
    assert figures["fates"] == {"looked at": len(SCENE)}
    assert figures["answer_latency_seconds"]["median"] == pytest.approx(0.25, abs=0.06)
    shares = figures["share_by_status"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert figures["share_without_answer"] == pytest.approx(1 - shares["ASSESSED"], abs=1e-3)
    measured = tmp_path / "one" / "latency.json"
    assert command(bag, tmp_path / "two", "--latency", str(measured)) == 0


def test_interrupted_replay_resumes(bag, tmp_path, monkeypatch, capsys):
    pytest.importorskip("polars")
    from emotion_perception.perception import detection
    from emotion_perception.recognizers import registry

    def assess(person):
        if len(assessed_people) == 4 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        assessed_people.append(person)
        return 0.9, 0.2

    assessed_people, interrupted = [], []
    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([Box(5, 5, 60, 90)]))
    monkeypatch.setattr(registry, "make_recognizer", lambda s: FakeRecognizer(assess))
    out, more = tmp_path / "out", ("-p", "scheduler.refresh:=0.0")
    assert command(bag, out, *more) == 130
    assert "start the same command again to resume" in capsys.readouterr().err
    assert not (out / "emotions.jsonl").exists()
    assert command(bag, out, *more) == 0
    assert "results were read from the interrupted replay" in capsys.readouterr().err
    once = len(assessed_people)
    assert command(bag, tmp_path / "whole", *more) == 0
    assert len(assessed_people) - once == once
    whole = (tmp_path / "whole" / "emotions.jsonl").read_bytes()
    assert (out / "emotions.jsonl").read_bytes() == whole


def test_corrected_labels_are_compared_again(bag, tmp_path, stand_ins, capsys):
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    answers = []
    for label in ("happiness", "sadness"):
        labels.write_text(f"person,start,end,labels\np00001,0,5,{label}\n")
        assert command(bag, out, "--labels", str(labels)) == 0
        figures = json.loads((out / "figures.json").read_text())
        answers.append(figures["labelled"]["answers_with_a_true_leading_label"])
    assert answers[0] > answers[1] == 0
    labels.write_text("person,start,end,labels\np00001,500,501,anger\n")
    (out / "report.html").unlink()
    assert command(bag, out, "--labels", str(labels)) == 2
    assert "no row of it is about an image" in capsys.readouterr().err
    assert (out / "report.html").exists()
    assert not (out / "labelled").exists()


def test_questions_without_an_answer_are_reported(bag, tmp_path, monkeypatch, capsys):
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


def test_failures_that_differ_in_numbers_are_one_warning(bag, tmp_path, monkeypatch, capsys):
    pytest.importorskip("polars")
    from emotion_perception.perception import detection
    from emotion_perception.recognizers import registry

    asked = []

    def fails(person):
        asked.append(person)
        raise RecognizerError(f"request {len(asked)} took {3.5 + len(asked)} s")

    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([Box(5, 5, 60, 90)]))
    monkeypatch.setattr(registry, "make_recognizer", lambda s: FakeRecognizer(fails))
    assert command(bag, tmp_path / "out") == 1
    assert len(asked) > 5
    assert f"{len(asked)} questions had no answer: request 1 took 4.5 s" in capsys.readouterr().err
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert list(figures["failures"].values()) == [len(asked)]


def test_folder_with_other_files_is_refused(bag, tmp_path, stand_ins, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "report.html").write_text("mine")
    assert command(bag, out) == 2
    assert "mine: it holds other files and no run" in capsys.readouterr().err
    assert (out / "report.html").read_text() == "mine"


def test_compare_refers_to_the_run_inside_a_replay(bag, tmp_path, stand_ins, capsys):
    assert command(bag, tmp_path / "out") == 0
    assert main(["compare", str(tmp_path / "out")]) == 2
    assert f"pass {tmp_path / 'out' / 'labelled'}" in capsys.readouterr().err


def test_other_weights_make_another_replay(bag, tmp_path, stand_ins, capsys):
    model = tmp_path / "model"
    model.mkdir()
    for content in (b"one", b"other"):
        (model / "model.safetensors").write_bytes(content)
        status = command(bag, tmp_path / "out", "-p", f"recognizer.model:={model}")
    assert status == 2
    assert "holds another run (weights" in capsys.readouterr().err


def test_folder_is_locked_for_the_whole_replay(bag, tmp_path, stand_ins, monkeypatch):
    from emotion_perception.replay import session

    locked = []

    class ObservedOutputs(session.Outputs):
        def add(self, emission):
            descriptor = os.open(tmp_path / "out", os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked.append(False)
            except BlockingIOError:
                locked.append(True)
            finally:
                os.close(descriptor)
            super().add(emission)

    monkeypatch.setattr(session, "Outputs", ObservedOutputs)
    assert command(bag, tmp_path / "out") == 0
    assert len(locked) > len(SCENE)
    assert all(locked)
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released at the end
    os.close(descriptor)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("walk_1.5mps", "walk_1.5mps"), ("walk", "walk"), ("bag.mcap", "bag.mcap")],
)
def test_run_folder_has_the_full_name_of_a_folder(tmp_path, monkeypatch, folder, name):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    for path in (tmp_path / folder, Path(".")):
        options = ReplayOptions(bag=BagOptions(path=path))
        assert options.folder == Path("out/replay") / name
        table = AnnotationOptions(bag=BagOptions(path=path)).table
        assert table == tmp_path / f"{name}.labels.csv"


@pytest.mark.parametrize("suffix", [".mcap", ".db3", ".bag"])
def test_run_folder_has_the_name_of_a_file_without_its_suffix(tmp_path, suffix):
    bag = BagOptions(path=tmp_path / f"walk_1.5mps{suffix}")
    assert ReplayOptions(bag=bag).folder == Path("out/replay/walk_1.5mps")
    assert AnnotationOptions(bag=bag).table == tmp_path / "walk_1.5mps.labels.csv"


@pytest.mark.parametrize(
    ("out", "table"),
    [
        ("monday", "monday.csv"),
        ("monday.csv", "monday.csv"),
        ("walk_1.5mps", "walk_1.5mps.csv"),
        (".", "bag.labels.csv"),
    ],
)
def test_table_of_annotations_is_a_csv_file(tmp_path, monkeypatch, out, table):
    monkeypatch.chdir(tmp_path)
    options = AnnotationOptions(bag=BagOptions(path=tmp_path / "bag"), out=Path(out))
    assert options.table.resolve() == tmp_path / table


@pytest.mark.parametrize(
    ("parameter", "difference"),
    [
        ("smoothing:=0.0", "settings.smoothing: 1.0, now 0.0"),
        ("recognizer.dtype:=bfloat16", "settings.recognizer.dtype: 'float32', now 'bfloat16'"),
    ],
)
def test_folder_of_another_replay_is_refused(
    bag, tmp_path, stand_ins, capsys, parameter, difference
):
    assert command(bag, tmp_path / "out") == 0
    before = (tmp_path / "out" / "emotions.jsonl").read_bytes()
    assert command(bag, tmp_path / "out", "-p", parameter) == 2
    assert f"holds another run ({difference}" in capsys.readouterr().err
    assert (tmp_path / "out" / "emotions.jsonl").read_bytes() == before


def test_messages_before_the_damage_of_a_bag_are_kept(bag, tmp_path, stand_ins, capsys):
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
    printed = capsys.readouterr().err
    assert code == 1, printed
    assert "any further: it is damaged here" in printed
    assert lines_of(tmp_path / "out")
    assert "any further: it is damaged here" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["ended"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--every", "0"), "cannot use --every 0: choose 1"),
        (("--start", "-1"), "cannot use --start -1.0: choose 0 s"),
        (("--duration", "0"), "cannot use --duration 0.0: choose more than 0 s"),
        (("--start", "99"), "no image on /camera/image_raw in the selected time"),
        (("--topic", "/nothing"), "the topic /nothing is not in the bag"),
        (("--latency", "soon"), "--latency soon: it is neither seconds nor a file"),
        (("--lockstep",), "cannot use --lockstep without --live"),
        (("--live", "--rate", "0"), "cannot use --rate 0.0: choose a factor above 0"),
        (("--rate", "0"), "cannot use --rate without --live"),
        (("--live", "--lockstep", "--rate", "1"), "remove --rate"),
        (("--live", "--patience", "-1"), "cannot use --patience -1.0: choose seconds above 0"),
        (("--start", "inf"), "--start inf: choose 0 s"),
        (("--duration", "1e300"), "--duration 1e+300: choose more than 0 s"),
        (("--latency", "1e300"), "cannot use --latency 1e300: choose 0 to 3600 seconds"),
        (("--live", "--latency", "1"), "cannot use --labels, --params-file or -p with --live"),
        (("-p", "smoothign:=1.0"), "did you mean 'smoothing'"),
        (("--labels", "nowhere.csv"), "cannot read nowhere.csv"),
    ],
)
def test_invalid_option_is_an_error_that_names_it(bag, tmp_path, stand_ins, capsys, more, message):
    assert command(bag, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "emotions.jsonl").exists()


def test_bag_without_images_is_an_error(tmp_path, stand_ins, capsys):
    write(tmp_path / "empty", [])
    assert command(tmp_path / "empty", tmp_path / "out") == 2
    assert "no image on /camera/image_raw in the selected time" in capsys.readouterr().err


def test_missing_bag_is_an_error(bag, tmp_path, stand_ins, capsys):
    shutil.rmtree(bag)
    assert command(bag, tmp_path / "out") == 2
    assert "bag: it does not exist" in capsys.readouterr().err


@pytest.mark.models
def test_small_models_give_the_same_messages_for_each_bag_format(tmp_path):
    for module in ("torch", "transformers", "ultralytics", "polars"):
        pytest.importorskip(module)
    scene = list(toy_world.draw_clip(8, 1.5))
    given = [f"{name}:={value}" for name, value in toy_world.SETTINGS.items()]
    given += ["detector.device:=cpu", "recognizer.device:=cpu"]
    parameters = [word for pair in given for word in ("-p", pair)]
    written = []
    bags = [tmp_path / name for name in ("mcap", "again", "sqlite3", "one.bag")]
    for path in bags[:3]:
        storage = "sqlite3" if path.name == "sqlite3" else "mcap"
        toy_world.write_bag(path, scene, storage=storage, start_ns=10**9)
    write_ros1(bags[3], scene)
    for path in bags:
        out = tmp_path / f"out_{path.name}"
        assert main(["replay", str(path), "--out", str(out), *parameters]) == 0
        lines = [json.loads(line) for line in (out / "emotions.jsonl").open()]
        assert len({line.pop("run_id") for line in lines}) == 1
        written.append(lines)
    assert all(lines == written[0] for lines in written)
    last = written[0][-1]
    assert [person["status"] for person in last["people"]].count("ASSESSED") >= 1

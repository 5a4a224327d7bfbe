"""Bags of the drawn world, replayed: the same answers from every format, on every machine."""

import json
import shutil

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from emotion_perception import world
from emotion_perception.bags import Bag
from emotion_perception.cli import replay as command
from emotion_perception.cli.main import main
from emotion_perception.evaluation.replay import replay
from emotion_perception.perception import Perception, RecognizerError
from emotion_perception.settings import Settings
from emotion_perception.testing import FunctionRecognizer, ScriptedDetector, frame_at
from emotion_perception.values import Box, Status

BOX = Box(50, 20, 150, 220)
SCENE = list(world.clip(3, 2.0, size=(96, 96), people=2))


@pytest.fixture
def bag(tmp_path):
    world.write_bag(tmp_path / "bag", SCENE, start_ns=10**9)
    return tmp_path / "bag"


def messages(frames, latency=0.0, recognizer=None, **settings):
    recognizer = recognizer or FunctionRecognizer()
    chosen = Settings.of({"scheduler.refresh": 0.0, "tracker.confirm_frames": 2, **settings})
    perception = Perception(ScriptedDetector([BOX]), recognizer, chosen)
    return list(replay(frames, perception, recognizer, latency))


def beat(count, rate=10):
    return [frame_at(1 + i / rate) for i in range(count)]


def test_without_latency_every_frame_is_answered_at_once():
    found = messages(beat(5))
    answered = [m for m in found if m.people and m.people[0].status is Status.ASSESSED]
    assert all(m.people[0].assessed_ns <= m.stamp_ns for m in answered)
    newest = {m.stamp_ns: m.people[0].assessed_ns for m in answered}
    assert all(stamp == looked for stamp, looked in newest.items())


def test_with_latency_an_answer_is_so_old_and_nothing_else_is_asked_meanwhile():
    recognizer = FunctionRecognizer()
    found = messages(beat(12), 0.35, recognizer)
    asked = [stamp for stamp, _ in recognizer.asked]
    assert np.diff(asked).min() >= 0.35e9
    answered = [m for m in found if m.people and m.people[0].status is Status.ASSESSED]
    assert min(m.stamp_ns - m.people[0].assessed_ns for m in answered[:-1]) >= 0.3e9


def test_a_round_without_an_answer_is_asked_again():
    recognizer = FunctionRecognizer()
    whole, asked = recognizer.assess, []

    def fails_once(scene, people):
        asked.append(scene.frame.stamp_ns)
        if len(asked) == 1:
            raise RecognizerError("away")
        return whole(scene, people)

    recognizer.assess = fails_once
    assert messages(beat(6), 0.0, recognizer)[-1].people[0].status is Status.ASSESSED
    assert len(asked) > 1


def test_stamps_that_go_back_forget_everybody():
    found = messages([*beat(4), *beat(4)])
    first, second = (
        {e.track.person_id for m in part for e in m.people} for part in (found[:7], found[7:])
    )
    assert first.isdisjoint(second)
    with pytest.raises(ValueError, match="a latency of -1 s"):
        messages(beat(2), -1)


def test_pictures_come_out_of_every_format_as_they_went_in(tmp_path, bag):
    world.write_bag(tmp_path / "sqlite", SCENE, storage="sqlite3", start_ns=10**9)
    write_ros1(tmp_path / "one.bag")
    for path in (bag, tmp_path / "sqlite", tmp_path / "one.bag", next(bag.glob("*.mcap"))):
        with Bag(path) as opened:
            assert len(opened) == len(SCENE)
            assert opened.topic == "/camera/image_raw"
            for picture, frame in zip(SCENE, opened.frames(), strict=True):
                assert (frame.image == picture.image).all()
                assert frame.stamp_ns == picture.stamp_ns + 10**9


def write_ros1(path):
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = "sensor_msgs/msg/Image"
    image, header, time = (
        store.types[name] for name in (kind, "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer1(path) as writer:
        connection = writer.add_connection("/camera/image_raw", kind, typestore=store)
        for number, picture in enumerate(SCENE):
            height, width = picture.image.shape[:2]
            stamp_ns = picture.stamp_ns + 10**9
            stamp = time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            message = image(
                header=header(seq=number, stamp=stamp, frame_id="world"),
                height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width,
                data=picture.image.reshape(-1),
            )  # fmt: skip
            writer.write(connection, stamp_ns, store.serialize_ros1(message, kind))


def test_a_part_of_a_bag_is_cut_by_time(bag):
    with Bag(bag) as opened:
        stamps = [f.stamp_ns for f in opened.frames(start=0.5, duration=0.45)]
    assert stamps == [10**9 + x.stamp_ns for x in SCENE if 0.5e9 <= x.stamp_ns <= 0.95e9]


def test_what_is_no_bag_or_has_no_such_topic_is_named(tmp_path, bag):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        Bag(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="the topic /other is not in the bag; topics with images"):
        Bag(bag, "/other")
    (bag / "metadata.yaml").unlink()
    with pytest.raises(ValueError, match="is no bag that can be read"):
        Bag(bag)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="is no bag that can be read"):
        Bag(empty)


def test_a_lying_message_is_counted_and_the_rest_is_read(tmp_path):
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/Image"
    world.write_bag(tmp_path / "good", SCENE[:2])
    with Bag(tmp_path / "good") as opened:
        raws = [bytes(raw) for _, _, raw in opened._reader.messages()]
    lying = raws[0].replace(b"rgb8", b"rgba", 1)
    with Writer(tmp_path / "bad", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image_raw", kind, typestore=store)
        for stamp, raw in enumerate([lying, raws[0][:40], raws[1]]):
            writer.write(connection, stamp, raw)
    with Bag(tmp_path / "bad") as opened:
        assert [frame is None for frame in opened.frames()] == [True, True, False]
        assert opened.skipped.total() == 2


def test_a_truncated_bag_is_one_error(tmp_path, bag):
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    errors = r"is no bag that can be read|is damaged from here on"
    with pytest.raises(ValueError, match=errors), Bag(bag) as opened:
        list(opened.frames())


@pytest.fixture
def stand_ins(monkeypatch):
    from emotion_perception import detection, recognizers

    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([Box(5, 5, 60, 90)]))
    monkeypatch.setattr(recognizers, "make_recognizer", lambda s: FunctionRecognizer())


def test_two_replays_by_the_command_are_the_same_bytes(bag, tmp_path, stand_ins):
    for name in ("one", "two"):
        given = [
            "replay",
            str(bag),
            "--out",
            str(tmp_path / name),
            "-p",
            "visibility.min_height:=10",
        ]
        assert main(given) == 0
    one, two = ((tmp_path / name / "emotions.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    lines = [json.loads(line) for line in one.splitlines()]
    assert len(lines) > len(SCENE)
    assert {line["stamp_ns"] for line in lines} == {10**9 + x.stamp_ns for x in SCENE}
    assert not list((tmp_path / "one").glob("*.partial"))


def test_wrong_arguments_of_the_command_are_named(bag, tmp_path, stand_ins, capsys):
    assert main(["replay", str(bag), "--every", "0"]) == 2
    assert "--every 0: choose 1" in capsys.readouterr().err
    given = ["replay", str(bag), "--start", "99", "--out", str(tmp_path / "late")]
    assert main(given) == 2
    assert "has no image on /camera/image_raw in that time" in capsys.readouterr().err
    assert not (tmp_path / "late" / "emotions.jsonl").exists()
    shutil.rmtree(bag)
    assert main(["replay", str(bag)]) == 2
    assert command.__doc__


@pytest.mark.models
def test_the_small_models_say_the_same_about_a_bag_twice_and_in_every_format(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    scene = list(world.clip(8, 1.5))
    given = [f"{name}:={value}" for name, value in world.SETTINGS.items()]
    given += ["detector.device:=cpu", "recognizer.device:=cpu"]
    parameters = [word for pair in given for word in ("-p", pair)]
    said = []
    for number, storage in enumerate(("mcap", "mcap", "sqlite3")):
        world.write_bag(tmp_path / f"bag{number}", scene, storage=storage, start_ns=10**9)
        out = tmp_path / f"out{number}"
        assert main(["replay", str(tmp_path / f"bag{number}"), "--out", str(out), *parameters]) == 0
        said.append((out / "emotions.jsonl").read_bytes())
    assert said[0] == said[1] == said[2]
    last = json.loads(said[0].splitlines()[-1])
    assert [person["status"] for person in last["people"]].count("ASSESSED") >= 1

"""A bag played into a running node gives the messages of a replay without it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")
pytest.importorskip("polars")

from support.bag_files import serialized, write

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.perception.stamps import LATE, REPEATED
from emotion_perception.replay.simulator import LOOKED_AT

pytestmark = [pytest.mark.ros, pytest.mark.models, pytest.mark.serial]

CAMERA = "/camera/image_raw"
COMPARED = ("person_id", "status", "reason", "label", "active", "confidence", "assessed_ns",
            "scores", "raw_scores", "valence", "arousal", "dominance")  # fmt: skip


@pytest.fixture
def parameters():
    values = {**toy_world.SETTINGS, "smoothing": 0.3, "scheduler.refresh": 0.3}
    return [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]


@pytest.fixture
def node(ros_domain, parameters, tmp_path):
    """The installed node with the small models, in a process of its own."""
    for module in ("torch", "transformers", "ultralytics"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "emotion_perception.ros.main", "--ros-args"]
    command += ["-r", f"image:={CAMERA}", "-p", "use_sim_time:=true", *parameters]
    with (tmp_path / "node.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
        deadline = time.monotonic() + 120
        while "subscribed to" not in (tmp_path / "node.log").read_text():
            assert process.poll() is None, (tmp_path / "node.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    assert "Traceback" not in (tmp_path / "node.log").read_text()


def replayed(bag, out, *more):
    code = main(["replay", str(bag), "--out", str(out), *more])
    return code, [json.loads(line) for line in (out / "emotions.jsonl").open()]


def test_lockstep_equals_a_replay_without_latency(node, parameters, tmp_path):
    toy_world.write_bag(tmp_path / "bag", toy_world.draw_clip(8, 3.0), start_ns=10**9)
    code, live = replayed(tmp_path / "bag", tmp_path / "live", "--live", "--lockstep")
    assert code == 0
    code, offline = replayed(tmp_path / "bag", tmp_path / "offline", *parameters)
    assert code == 0
    assert len(live) == len(offline) > 30
    for one, other in zip(live, offline, strict=True):
        assert one["time_ns"] == other["time_ns"]
        assert one["stamp_ns"] == other["stamp_ns"]
        assert one["labels"] == other["labels"]
        for person, twin in zip(one["people"], other["people"], strict=True):
            assert {k: person[k] for k in COMPARED} == {k: twin[k] for k in COMPARED}
    assert sum(p["status"] == "ASSESSED" for line in live for p in line["people"]) > 30
    assert (tmp_path / "live" / "report.html").stat().st_size > 100_000
    # In real time, into the same node: the node continues its ids.
    start = time.monotonic()
    code, real = replayed(tmp_path / "bag", tmp_path / "real", "--live", "--rate", "0.5")
    assert code == 0
    assert time.monotonic() - start > 3.0 / 0.5
    assert {line["stamp_ns"] for line in real} <= {line["stamp_ns"] for line in offline}
    known = {p["person_id"] for line in live for p in line["people"]}
    assert known.isdisjoint(p["person_id"] for line in real for p in line["people"])
    figures = json.loads((tmp_path / "real" / "figures.json").read_text())
    assert sum(figures["fates"].values()) == 30


def test_repeated_and_late_images_have_the_outcomes_of_a_replay(node, parameters, tmp_path):
    stamps = [3 * 10**9 + i * 10**8 for i in range(20)]
    stamps[5], stamps[9], stamps[13] = stamps[4], 0, stamps[12] - 5 * 10**7
    raws = serialized(stamps)
    write(tmp_path / "bag", raws, [2 * 10**9 + i * 10**8 for i in range(20)])
    runs = {
        "offline": parameters,
        "lockstep": ("--live", "--lockstep"),
        "real": ("--live", "--rate", "0.5"),
    }
    fates = {}
    for name, more in runs.items():
        code, _ = replayed(tmp_path / "bag", tmp_path / name, *more)
        assert code == 0
        fates[name] = json.loads((tmp_path / name / "figures.json").read_text())["fates"]
    assert fates["offline"] == fates["lockstep"] == {LOOKED_AT: 17, REPEATED: 2, LATE: 1}
    assert sum(fates["real"].values()) == 20
    assert (fates["real"][REPEATED], fates["real"][LATE]) == (2, 1)


def test_messages_of_a_killed_node_are_kept(node, tmp_path, capsys):
    toy_world.write_bag(tmp_path / "bag", toy_world.draw_clip(8, 15.0), start_ns=10**9)
    lines_file = tmp_path / "out" / "partial" / "emotions.jsonl"

    def kill():
        while not (lines_file.exists() and lines_file.stat().st_size) and node.poll() is None:
            time.sleep(0.01)
        node.kill()

    threading.Thread(target=kill, daemon=True).start()
    more = ("--live", "--lockstep", "--patience", "5")
    code, lines = replayed(tmp_path / "bag", tmp_path / "out", *more)
    assert code == 1
    assert 0 < len(lines) < 150
    assert "does not" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    "more", [("--live", "--image-topic", "bad topic"), ("--live", "--node", "bad node")]
)
def test_invalid_name_is_an_error_that_names_it(ros_domain, tmp_path, capsys, more):
    toy_world.write_bag(tmp_path / "bag", toy_world.draw_clip(8, 0.5), start_ns=10**9)
    assert main(["replay", str(tmp_path / "bag"), "--out", str(tmp_path / "out"), *more]) == 2
    assert "bad" in capsys.readouterr().err
    assert main(["watch", "--topic", "bad topic"]) == 2
    assert "bad topic" in capsys.readouterr().err


def test_missing_node_is_an_error_with_the_command_that_starts_one(ros_domain, tmp_path, capsys):
    toy_world.write_bag(tmp_path / "bag", toy_world.draw_clip(8, 0.5), start_ns=10**9)
    command = ["replay", str(tmp_path / "bag"), "--live", "--patience", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "cannot find the node /emotion_node (waited 1 s)" in printed
    assert f"-r image:={CAMERA} -p use_sim_time:=true" in printed

"""The process of the node ends in time and says why, whatever its models do."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from support.robot import FAST, Robot

from emotion_perception.core.process import EXIT_S, remove_stale_shared_memory
from emotion_perception.core.values import Cause, SourceStatus, Status

pytestmark = [pytest.mark.ros, pytest.mark.serial]

SLACK_S = 3.0  # for a busy machine


@pytest.fixture
def robot(ros_domain, tmp_path):
    made = []

    def start(*arguments, **parameters):
        made.append(Robot(tmp_path / f"node_{len(made)}.log", *arguments, **parameters))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_working_node_with_an_inactive_last_message(robot, number):
    r = robot()
    r.assessed()
    r.process.send_signal(number)
    assert r.ends(EXIT_S + SLACK_S) == 0
    r.until(lambda: r.messages[-1][1].source_status is SourceStatus.INACTIVE)
    _, last = r.messages[-1]
    assert (last.people, last.source_status) == ((), SourceStatus.INACTIVE)
    assert last.cause is Cause.DEACTIVATED
    assert "Traceback" not in r.errors


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        ("assess:hang", {0}),
        ("assess:hang_with_lock", {-signal.SIGKILL}),
        ("detect:hang", {-signal.SIGKILL}),
        ("detect:hang_with_lock", {-signal.SIGKILL}),
        ("load:hang", {0}),
        ("load:hang_with_lock", {-signal.SIGKILL}),
    ],
)
def test_first_signal_ends_a_node_that_hangs(robot, fault, statuses):
    r = robot(fault)
    r.until(lambda: "begins" in r.errors)
    r.process.send_signal(signal.SIGTERM)
    assert r.ends(EXIT_S + SLACK_S) in statuses


@pytest.mark.parametrize("fault", ["assess:hang", "assess:hang_with_lock", "detect:hang"])
def test_watchdog_ends_a_node_that_hangs_and_prints_its_stacks(robot, fault):
    r = robot(fault, **{"watchdog.hang": 2.0})
    assert r.ends(60) == 1
    assert "most recent call first" in r.errors
    assert "hostile_node.py" in r.errors


def test_watchdog_ends_a_load_that_hangs(robot):
    r = robot("load:hang_with_lock", **{"watchdog.load": 2.0})
    assert r.ends(60) == 1
    assert "warm_up" in r.errors


def test_slow_model_is_no_reason_to_end(robot):
    r = robot("assess:slow", **{"watchdog.hang": 6.0, "recognizer.timeout": 1.0})
    r.hear(lambda m: m.cause is Cause.ASSESSMENT)
    assert r.process.poll() is None


@pytest.mark.parametrize(("fault", "text"), [("exit", "SystemExit"), ("interrupt", "Keyboard")])
def test_recognizer_that_ends_its_thread_ends_the_process_with_a_message(robot, fault, text):
    r = robot(f"assess:{fault}")
    assert r.ends(60) == 1
    assert f"the recognizer ended with {text}" in r.errors


def test_context_that_is_shut_down_inside_a_step_is_a_clean_stop(robot):
    r = robot("detect:shut_down")
    assert r.ends(60) == 0
    assert "Traceback" not in r.errors


def test_error_whose_text_raises_is_a_failed_round(robot):
    r = robot("assess:unprintable")
    r.until(lambda: "Unprintable, whose text raises RuntimeError" in r.errors)
    assert r.process.poll() is None


def test_stopped_camera_expires_all_estimates_until_it_sends_again(robot):
    r = robot(silence=0.6)
    _, live = r.assessed()
    assert live.source_status is SourceStatus.LIVE
    r.filming = False
    _, silent = r.hear(lambda m: m.source_status is SourceStatus.CAMERA_SILENT, 10)
    assert silent.cause is Cause.EXPIRY
    assert {(e.status, e.reason) for e in silent.people} == {(Status.EXPIRED, "camera silent")}
    _, beat = r.hear(lambda m: m.cause is Cause.HEARTBEAT, 10)
    assert [e.status for e in beat.people] == [Status.EXPIRED]
    r.filming = True
    _, again = r.assessed()
    assert again.people[0].track.person_id == silent.people[0].track.person_id
    assert {m.run_id for _, m in r.messages} == {live.run_id} != {""}


def test_slow_answer_after_the_camera_stopped_is_not_shown_as_assessed(robot):
    r = robot("assess:slow", max_age=2.0, silence=60.0)
    r.until(lambda: r.messages and r.messages[-1][1].people)
    r.filming = False
    _, answer = r.hear(lambda m: m.cause is Cause.ASSESSMENT)
    assert answer.people[0].status is Status.EXPIRED


def test_no_message_after_a_pause_of_the_process_shows_an_old_assessment(robot):
    r = robot(max_age=1.0, silence=60.0)
    r.assessed()
    r.process.send_signal(signal.SIGSTOP)
    stopped = time.time()
    r.until(lambda: time.time() > stopped + 0.5)
    before = len(r.messages)
    r.until(lambda: time.time() > stopped + 3.0)
    r.process.send_signal(signal.SIGCONT)
    r.until(lambda: len(r.messages) > before + 5)
    for when, message in r.messages[before:]:
        for estimate in message.people:
            age = when - estimate.assessed_ns / 1e9
            assert estimate.status is not Status.ASSESSED or age < 1.0 + SLACK_S / 6, age


@pytest.mark.parametrize("fault", ["stop", "detect:hang", "assess:hang_with_lock"])
def test_subscriber_learns_within_the_lease_that_the_node_no_longer_works(robot, fault):
    r = robot("none" if fault == "stop" else fault)
    r.filming = False
    r.until(lambda: r.alive and r.alive[-1][1] == 1)
    r.filming = True
    if fault == "stop":
        r.assessed()
        r.process.send_signal(signal.SIGSTOP)
    else:
        r.until(lambda: "begins" in r.errors)
    begin = time.time()
    r.until(lambda: r.alive[-1][1] == 0, 2 * FAST["heartbeat"] + SLACK_S + 2.0)
    assert r.alive[-1][0] - begin < 2 * FAST["heartbeat"] + SLACK_S


def test_shared_memory_of_killed_nodes_is_removed_by_the_next_one(robot):
    r = robot()
    r.assessed()
    opened = [os.path.realpath(fd) for fd in Path(f"/proc/{r.process.pid}/fd").iterdir()]
    name = re.compile(r"fast(rtps|dds)_\w{16}_el$")
    segments = [Path(f.removesuffix("_el")) for f in opened if name.search(f)]
    assert segments
    r.process.kill()
    r.process.wait()
    end = time.time() + 2.5  # the files of a young process are kept
    r.until(lambda: time.time() > end)
    assert all(segment.exists() for segment in segments)
    robot().assessed()
    assert not any(segment.exists() for segment in segments)


@pytest.mark.parametrize("prefix", ["fastrtps", "fastdds"])  # of Fast DDS 2 and 3
def test_shared_memory_in_use_is_kept(tmp_path, prefix):
    import fcntl

    held, free = f"{prefix}_bb", f"{prefix}_port7"
    for name in (free, f"{free}_el", f"sem.{free}_mutex", held, f"{held}_el", "other", "fast_x_el"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    with (tmp_path / f"{held}_el").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_stale_shared_memory(tmp_path) == 3
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {held, f"{held}_el", "other", "fast_x_el"}


def test_interrupt_while_libraries_are_imported_ends_without_a_traceback():
    program = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'rclpy':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from emotion_perception.ros import start_node\n"
        "sys.exit(start_node())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

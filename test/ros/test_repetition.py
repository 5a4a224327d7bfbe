"""What repeats on a robot: a bag in a loop, and a node that is switched on and off."""

import gc
import threading
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from lifecycle_msgs.msg import Transition
from support.node_rig import ALICE

from emotion_perception.core.values import Box, Status
from emotion_perception.testing.fakes import SECOND_NS, ScriptedDetector, noise_image

pytestmark = [pytest.mark.ros, pytest.mark.serial]

BOXES = [ALICE, Box(200, 20, 250, 200)]


def test_bag_in_a_loop_gives_new_ids_and_no_old_estimate_survives(rig):
    r = rig(detector=ScriptedDetector(BOXES)).start()
    for _ in range(3):
        for step in range(20):
            r.show(100.0 + step / 10)
        r.until(lambda: all(p.status is Status.ASSESSED for p in r.received[-1].people))
    loops, before_ns = [], 2**63
    for message in r.received:
        if message.stamp_ns < before_ns:
            loops.append([])
        before_ns = message.stamp_ns
        loops[-1].append(message)
    ids = [{p.track.person_id for m in loop for p in m.people} for loop in loops]
    assert [len(each) for each in ids] == [2, 2, 2]
    assert len(set.union(*ids)) == 6
    for loop in loops:
        # A track begins with its second detection.
        assert loop[0].people == ()
        assert {p.status for p in loop[1].people} == {Status.PENDING}
        for message in loop:
            for person in message.people:
                assert person.assessed_ns <= message.stamp_ns, "an answer of the loop before"


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_and_threads_stay_flat_over_ten_rounds_of_activity(rig):
    r = rig(parameters={"depth.enabled": True}).start()
    image, seconds = noise_image(640, 480), 0.0

    def switch_off_and_on(rounds):
        nonlocal seconds
        for _ in range(rounds):
            assert r.change(Transition.TRANSITION_DEACTIVATE)
            r.until(lambda: r.camera.get_subscription_count() == 0)
            assert r.change(Transition.TRANSITION_ACTIVATE)
            r.until(lambda: r.camera.get_subscription_count() == 1)
            for _ in range(5):
                r.show(seconds := seconds + 0.1, image)
            r.until(lambda: r.received[-1].people[0].status is Status.ASSESSED)
            assert r.received[-1].stamp_ns == round(seconds * SECOND_NS)
            del r.received[:-1]  # what the test keeps is not the node's
        gc.collect()
        return resident_bytes(), threading.active_count()

    switch_off_and_on(10)  # allocators and buffers fill up first
    before, threads_before = switch_off_and_on(1)
    after, threads_after = switch_off_and_on(10)
    assert threads_after == threads_before
    assert after - before < 4_000_000, f"{(after - before) / 1e6:.1f} MB more"

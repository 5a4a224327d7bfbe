"""The commands as a user runs them: separate processes, real topics, real models."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

for module in ("rclpy", "emotion_perception_msgs", "torch", "ultralytics"):
    if find_spec(module) is None:  # not imported: the first import of ultralytics decides a lot
        pytest.skip(f"{module} is not installed", allow_module_level=True)

from support.file_modes import readable_by_others

from emotion_perception import toy_world
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Detections
from emotion_perception.evaluation.tracking_metrics import tracking_metrics
from emotion_perception.perception.tracking import Tracker
from emotion_perception.testing.fakes import noise_image

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ros, pytest.mark.models, pytest.mark.serial]

# Where the faces are in the two sample photographs, by eye: centres in pixels.
FACES = {"bus": [(130, 440), (284, 436)], "zidane": [(855, 200), (1075, 130)]}
SIZES = {"bus": (810, 1080), "zidane": (1280, 720)}


def command(*arguments, check=True, timeout=300, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "emotion_perception.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def last_of_each(lines):
    """Return the last message about each photograph, by its size."""
    newest = {(m["image_width"], m["image_height"]): m for m in lines}
    return {name: newest[size] for name, size in SIZES.items()}


def read(path):
    """Return the messages about an image or an answer; the others repeat what is known."""
    lines = map(json.loads, path.read_text().splitlines())
    return [line for line in lines if line["cause"] in ("FRAME", "ASSESSMENT")]


def holds(box, point):
    left, top, right, bottom = box
    return left <= point[0] <= right and top <= point[1] <= bottom


def assert_all_people_are_detected_and_assessed(lines, out):
    for name, message in last_of_each(lines).items():
        people = message["people"]
        assert len(people) == len(FACES[name]), (name, [p["box"] for p in people])
        for face in FACES[name]:
            assert any(holds(person["box"], face) for person in people), (name, face)
        assert [p["status"] for p in people] == ["ASSESSED"] * len(people), name
        for person in people:
            assert person["label"] in message["labels"]
            assert len(person["scores"]) == len(message["labels"])
        drawn = cv2.imread(str(out / f"{name}.png"))
        assert drawn.shape[1::-1] == SIZES[name]


def assert_stamps_are_those_of_images(lines, out):
    published = {json.loads(line)["stamp_ns"] for line in (out / "images.jsonl").open()}
    stamps = [message["stamp_ns"] for message in lines]
    assert stamps == sorted(stamps)
    assert set(stamps) <= published
    for message in lines:
        for person in message["people"]:
            assessed_ns = person["assessed_ns"]
            assert assessed_ns in published or person["status"] == "PENDING"


# Reports every socket that Python code opens, and every look-up of a host.
GUARD = """
import os, sys
def _audit(event, arguments, path=os.environ["SOCKET_LOG"]):
    if event == "socket.bind" and arguments[1] == ("::1", 0):
        return  # urllib3 asks the kernel at import whether it knows IPv6; nothing is sent
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
        with open(path, "a") as file:
            print(event, *map(str, arguments), sys.argv, file=file)
sys.addaudithook(_audit)
"""


@pytest.fixture(scope="module")
def default_demo(tmp_path_factory):
    """One run of the demo as it is, watched for sockets in each of its processes."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    environment = {"PYTHONPATH": str(folder / "guard"), "SOCKET_LOG": str(folder / "sockets")}
    done = command("demo", "--out", folder / "out", **environment)
    return folder, done


def test_demo_without_models_assesses_the_four_visible_faces(default_demo):
    folder, done = default_demo
    out = folder / "out" / "photographs"
    lines = read(out / "emotions.jsonl")
    assert_all_people_are_detected_and_assessed(lines, out)
    assert_stamps_are_those_of_images(lines, out)
    assert readable_by_others(folder / "out") == []
    assert "face-only baseline" in done.stdout.replace("\n", " ")
    for message in lines:
        assert message["model"] == "face:fer2013-mini-xception"
        assert "neutral" in message["labels"]
        assert all(person["valence"] is None for person in message["people"])


def test_people_of_the_drawn_scene_keep_their_ids_and_get_true_labels(default_demo):
    folder, done = default_demo
    out = folder / "out" / "world"
    lines = read(out / "emotions.jsonl")
    assert_stamps_are_those_of_images(lines, out)
    assert {line["model"] for line in lines} == {"vlm:small_world/vlm"}
    figures = json.loads((out / "truth.json").read_text())
    assert figures["answers"] >= 15
    assert figures["right"] / figures["answers"] >= 0.85, figures
    scene = list(toy_world.draw_clip(6, 12.0))
    tracker = Tracker(Settings().tracker, Settings().detector.confidence, 0)
    boxes = {x.stamp_ns: {str(p.number): p.box for p in x.people} for x in scene}
    images = {x.stamp_ns: x.image for x in scene}
    tracks = {}
    for stamp_ns, people in boxes.items():
        sure = Detections.from_lists(list(people.values()), [1.0] * len(people))
        tracks[stamp_ns] = {
            t.person_id: t.box for t in tracker.update(sure, stamp_ns, images[stamp_ns])
        }
    best = tracking_metrics(boxes, tracks).identity_f1
    assert figures["identities_f1"] >= 0.9 * best, (figures, best)
    assert f"{figures['right']} of {figures['answers']} new answers" in done.stdout


def test_demo_opens_no_socket_besides_those_of_dds(default_demo):
    folder, _ = default_demo
    log = folder / "sockets"
    assert not log.exists() or log.read_text() == ""


def test_guard_detects_a_socket(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SOCKET_LOG": str(tmp_path / "log")}
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0))"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert "socket.bind" in (tmp_path / "log").read_text()


def model_with_high_scores(folder):
    """Return a random Qwen3-VL with a score above 0.5 for each person; most have none."""
    from emotion_perception.core.recognizer_settings import recognizer_settings
    from emotion_perception.core.values import Box, Frame, Scene, Track
    from emotion_perception.io.image_decoding import decode_image
    from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer
    from emotion_perception.testing.checkpoints.vlm import save_tiny
    from emotion_perception.testing.checkpoints.yolo import PEOPLE_WITH_FACES, photograph

    for seed in range(20):
        model = save_tiny("qwen3_vl", folder / f"vlm{seed}", seed)
        recognizer = VlmRecognizer(recognizer_settings(model=str(model)))
        highest = []
        for name, boxes in PEOPLE_WITH_FACES.items():
            frame = Frame(decode_image(np.fromfile(photograph(name), np.uint8)), 0, "")
            people = [Track(f"p{i}", Box(*box), 0.9) for i, box in enumerate(boxes)]
            answers = recognizer.assess(Scene(frame, tuple(people)), people)
            highest += [answer.scores.max() for answer in answers]
        if min(highest) > 0.52:
            return model
    raise AssertionError("none of 20 random models has high scores")


def test_full_system_runs_on_small_checkpoints(tmp_path, yolo_file):
    vlm, out = model_with_high_scores(tmp_path), tmp_path / "out"
    command(
        "demo", "--detector", "yolo", "--detector-model", yolo_file, "--recognizer", "vlm",
        "--model", vlm, "--out", out, "-p", "detector.image_size:=320",
    )  # fmt: skip
    lines = read(out / "emotions.jsonl")
    assert_stamps_are_those_of_images(lines, out)
    for name, message in last_of_each(lines).items():
        assert message["labels"] == list(EMOTIC_LABELS)
        for face in FACES[name]:
            (person,) = [p for p in message["people"] if holds(p["box"], face)]
            assert person["status"] == "ASSESSED"
            assert -1 <= person["valence"] <= 1
            assert len(person["scores"]) == 26


def test_video_is_played_to_its_end_through_the_compressed_topic(tmp_path):
    video = cv2.VideoWriter(
        str(tmp_path / "room.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120)
    )
    for number in range(20):
        video.write(noise_image(160, 120, number))
    video.release()
    out = tmp_path / "out"
    command("demo", "--source", tmp_path / "room.avi", "--transport", "compressed", "--out", out)
    lines = read(out / "emotions.jsonl")
    assert lines
    assert all(message["people"] == [] for message in lines)
    assert list(out.glob("room_*.png"))


@pytest.mark.parametrize(
    ("arguments", "message_part"),
    [
        (["--source", "nowhere.jpg"], "nowhere.jpg: it does not exist"),
        (["--source", "README.md"], "README.md: it contains no image or video"),
        (["--recognizer", "vlm", "--model", "/nowhere"], "cannot find the model '/nowhere'"),
        (["--recognizer", "vlm", "--model", "own/er"], "emotion-perception fetch own/er"),
        (["--detector", "yolo", "--detector-model", "gone.pt"], "fetch gone.pt"),
        (["-p", "smoothing"], "cannot read the parameter 'smoothing': write it as NAME:=VALUE"),
        (["-p", "max_rat:=3"], "no such setting of the demo; did you mean 'max_rate'?"),
        (["--patience", "nan"], "cannot use --patience nan: choose seconds above 0"),
        (["--out", "/proc/nope"], "cannot create the folder /proc/nope: "),
        (["-p", "max_rate:=.nan"], "max_rate = nan is not a finite number"),
        (["-p", "detector.confidence:=7.0"], "detector.confidence = 7.0 is not allowed"),
    ],
)
def test_invalid_option_ends_with_one_error(tmp_path, arguments, message_part):
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    done = command("demo", *out, *arguments, check=False)
    assert done.returncode != 0
    assert message_part in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_node_that_cannot_configure_exits_with_an_error(ros_domain):
    node = [sys.executable, "-m", "emotion_perception.ros.main", "--ros-args"]
    node += ["-p", "recognizer.model:=/nowhere", "-p", "detector.name:=face"]
    done = subprocess.run(node, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "cannot configure" in done.stderr
    assert "/nowhere" in done.stderr


def configure(process):
    """Ask the running node to configure, as a lifecycle manager does; whether it did."""
    import rclpy
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    context = rclpy.Context()
    rclpy.init(context=context)
    manager = rclpy.create_node("manager", context=context)
    try:
        client = manager.create_client(ChangeState, "/emotion_node/change_state")
        assert client.wait_for_service(timeout_sec=60)
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        answer = client.call_async(request)
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        rclpy.spin_until_future_complete(manager, answer, executor, timeout_sec=60)
        return answer.result().success
    finally:
        manager.destroy_node()
        rclpy.try_shutdown(context=context)


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0])
def test_node_interrupted_during_its_start_ends_without_a_traceback(ros_domain, seconds):
    node = [sys.executable, "-m", "emotion_perception.ros.main", "--ros-args"]
    node += ["-p", "detector.name:=face", "-p", "recognizer.name:=face"]
    process = subprocess.Popen(node, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_the_demo_outlives_it(tmp_path, number):
    demo = [sys.executable, "-m", "emotion_perception.cli.main", "demo", "--out", str(tmp_path)]
    process = subprocess.Popen(demo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (children := children_of(process.pid)):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}/stat").exists() for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.2)


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_managed_node_that_cannot_configure_stays_until_interrupted(ros_domain, tmp_path):
    node = [sys.executable, "-m", "emotion_perception.ros.main", "--ros-args"]
    node += ["-p", "autostart:=false", "-p", "recognizer.model:=/nowhere"]
    process = subprocess.Popen(node, stderr=subprocess.PIPE, text=True)
    assert not configure(process)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "cannot configure" in errors
    assert "Traceback" not in errors


def test_node_without_messages_names_the_command_that_builds_them(tmp_path):
    (tmp_path / "emotion_perception_msgs").mkdir()
    (tmp_path / "emotion_perception_msgs" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "emotion_perception.ros.main"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode != 0
    assert (
        "colcon build --base-paths src/emotion_perception "
        "src/emotion_perception/emotion_perception_msgs" in done.stderr
    )


def test_watch_reports_silence(ros_domain):
    watch = [sys.executable, "-m", "emotion_perception.cli.main", "watch", "--topic", "/silent"]
    process = subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    line = process.stdout.readline()  # at once, though this is a pipe
    assert "no message for 5 s on /silent (0 publishers)" in line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_doctor_names_the_remedy_for_what_is_missing():
    done = command("doctor", check=False, COLUMNS="200")
    assert "emotion-perception fetch yolo11n.pt" in done.stdout
    assert done.returncode == 1
    embedded = ROOT / "config" / "embedded_baseline.yaml"
    assert "would start" in command("doctor", "--params-file", embedded, COLUMNS="200").stdout


def test_invalid_ros_domain_is_an_error_that_names_it():
    done = command("watch", check=False, ROS_DOMAIN_ID="abc")
    assert done.returncode == 2
    assert "ROS_DOMAIN_ID='abc'" in done.stderr


def test_stamps_continue_after_a_clip_longer_than_the_gap():
    from emotion_perception.installation.demo_player import Show
    from emotion_perception.io.video import Clip

    class Anything:
        newest, alive = None, True

        def __getattr__(self, name):
            return lambda *arguments: None

    long = Clip("long", 2000.0, False, lambda: iter([noise_image(8, 8)] * 24_000))
    with open(os.devnull, "w") as nowhere:
        show = Show(long, Anything(), Anything(), Anything(), nowhere)
        assert show.play(5, patience=0.1) == 5 + round(23_999 / 2000 * 1e9)


def test_unknown_command_is_refused_with_the_known_ones():
    done = command("dmeo", check=False)
    assert done.returncode == 2
    assert "demo" in done.stderr

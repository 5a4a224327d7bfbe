import io
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.models
for library in ("torch", "ultralytics", "facenet_pytorch"):
    # Looked for, not imported: how ultralytics is imported is part of what is tested.
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed", allow_module_level=True)

from emotion_perception.core.errors import ModelError
from emotion_perception.core.settings import (
    FaceDetectorSettings,
    Settings,
    TopicDetectorSettings,
    YoloSettings,
)
from emotion_perception.core.values import Box, Frame
from emotion_perception.perception.detection import (
    FaceDetector,
    FaceFinder,
    YoloDetector,
    import_ultralytics,
    make_detector,
)
from emotion_perception.perception.privacy import FaceBlur, blur_faces
from emotion_perception.testing.checkpoints.yolo import (
    IMAGE_SIZE,
    OTHERS,
    PEOPLE_WITH_FACES,
    photograph,
)


def zip_of_nothing_useful():
    """What a checkpoint with a lost interior looks like: ultralytics would delete the file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/version", "3")
    return buffer.getvalue()


def frame(name):
    image = cv2.cvtColor(cv2.imread(str(photograph(name))), cv2.COLOR_BGR2RGB)
    return Frame(image, stamp_ns=0, camera="camera")


def overlap(one, other):
    """Intersection over union."""
    left, top = np.maximum(one[:2], other[:2])
    right, bottom = np.minimum(one[2:], other[2:])
    both = Box(left, top, right, bottom)
    shared = both.area if both.width > 0 and both.height > 0 else 0.0
    return shared / (Box(*one).area + Box(*other).area - shared)


def settings(model, **others):
    return YoloSettings(model=str(model), image_size=IMAGE_SIZE, device="cpu", **others)


@pytest.fixture(scope="module")
def yolo(yolo_file):
    detector = YoloDetector(settings(yolo_file))
    yield detector
    detector.close()


@pytest.fixture(scope="module")
def faces():
    detector = make_detector(FaceDetectorSettings(device="cpu"))
    yield detector
    detector.close()


@pytest.mark.parametrize("name", PEOPLE_WITH_FACES)
def test_yolo_detects_exactly_the_people(yolo, name):
    detections = yolo.detect(frame(name))
    sure = detections.corners[detections.confidence >= YoloSettings().confidence]
    people = PEOPLE_WITH_FACES[name] + [box for kind, box in OTHERS[name] if kind == 1]
    for person in people:
        assert max(overlap(person, box) for box in sure) > 0.7, (person, sure)
    assert len(sure) == len(people)


def test_yolo_detects_people_who_are_not_class_0(yolo):
    bus = OTHERS["bus.jpg"][-1][1]
    assert all(overlap(bus, box) < 0.5 for box in yolo.detect(frame("bus.jpg")).corners)


@pytest.mark.parametrize("name", PEOPLE_WITH_FACES)
def test_yolo_gets_the_colours_in_the_order_of_ultralytics(yolo, yolo_file, name):
    (expected,) = import_ultralytics().YOLO(yolo_file)(
        str(photograph(name)), imgsz=IMAGE_SIZE, conf=0.1, classes=[1], verbose=False
    )
    detections = yolo.detect(frame(name))
    np.testing.assert_allclose(detections.confidence, expected.boxes.conf.numpy(), atol=1e-5)
    swapped = yolo.detect(Frame(np.ascontiguousarray(frame(name).image[..., ::-1]), 0, "camera"))
    assert swapped.confidence.tolist() != detections.confidence.tolist()


@pytest.mark.parametrize("size", [(320, 40), (31, 200), (1, 1)], ids=str)
def test_yolo_boxes_lie_inside_images_of_any_shape(yolo, size):
    wide, high = size
    part = cv2.resize(frame("zidane.jpg").image, (wide, high))
    detections = yolo.detect(Frame(part, 0, "camera"))
    assert np.all(detections.corners >= 0)
    assert np.all(detections.corners <= [wide, high, wide, high])
    assert np.all(detections.corners[:, :2] < detections.corners[:, 2:])


def test_yolo_detects_people_at_the_edge_of_the_image(yolo):
    right_half = np.ascontiguousarray(frame("zidane.jpg").image[:, 640:])
    detections = yolo.detect(Frame(right_half, 0, "camera"))
    assert detections.corners[:, 2].max() <= 640
    assert detections.corners[:, 3].max() <= 720


def test_black_image_has_no_people(yolo, faces):
    black = Frame(np.zeros((480, 640, 3), np.uint8), 0, "camera")
    detections = yolo.detect(black)
    assert not np.any(detections.confidence >= YoloSettings().confidence)
    assert len(faces.detect(black)) == 0


@pytest.mark.parametrize("name", PEOPLE_WITH_FACES)
def test_face_of_each_person_lies_in_the_upper_half_of_the_box(faces, name):
    detections = faces.detect(frame(name))
    assert len(detections)
    for (left, top, right, bottom), face in zip(detections.corners, detections.faces, strict=True):
        assert left <= face[0] < face[2] <= right
        assert top <= face[1] < face[3] <= (top + bottom) / 2


def test_exported_onnx_file_detects_the_same_people(yolo, yolo_file):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    exported = (
        import_ultralytics()
        .YOLO(yolo_file)
        .export(format="onnx", imgsz=IMAGE_SIZE, simplify=False, verbose=False)
    )
    detector = YoloDetector(settings(exported))
    detections = detector.detect(frame("bus.jpg"))
    expected = yolo.detect(frame("bus.jpg"))
    for box, confidence in zip(expected.corners, expected.confidence, strict=True):
        if confidence > YoloSettings().confidence:
            assert max(overlap(box, other) for other in detections.corners) > 0.7
    detector.close()


def test_boxes_of_a_topic_are_refused_outside_the_node():
    with pytest.raises(ModelError, match="detector.name = topic here: only the node receives"):
        make_detector(TopicDetectorSettings())


def test_missing_file_raises_an_error_with_the_command_that_fetches_it(tmp_path):
    with pytest.raises(ModelError, match=r"yolo11n\.pt.*emotion-perception fetch yolo11n\.pt"):
        YoloDetector(settings(tmp_path / "yolo11n.pt"))


@pytest.mark.parametrize("name", ["", "people.txt", "https://example.org/yolo11n.weights"])
def test_file_with_another_suffix_raises_an_error(name):
    with pytest.raises(ModelError, match=r"expected a file that ends in \.pt, \.onnx, \.engine"):
        YoloDetector(settings(name))


def test_folder_raises_an_error(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ModelError, match=r"folder\.pt.* is a folder"):
        YoloDetector(settings(tmp_path / "folder.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
@pytest.mark.parametrize("content", [b"", b"hello", zip_of_nothing_useful()], ids=len)
def test_invalid_model_file_raises_an_error_and_is_kept(tmp_path, monkeypatch, suffix, content):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"yolo11n{suffix}").write_bytes(content)
    with pytest.raises(ModelError, match=f"yolo11n{suffix} cannot be used"):
        YoloDetector(settings(f"yolo11n{suffix}"))
    assert (tmp_path / f"yolo11n{suffix}").read_bytes() == content


@pytest.mark.parametrize("safe_load_before", [True, False])
def test_checkpoint_with_code_raises_an_error(tmp_path, monkeypatch, safe_load_before):
    import torch
    from ultralytics.nn import tasks

    monkeypatch.setattr(tasks, "SAFE_LOAD", safe_load_before)

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ModelError, match=r"trap\.pt"):
        YoloDetector(settings(tmp_path / "trap.pt"))
    assert not (tmp_path / "sprung").exists()


def test_model_without_the_class_person_raises_an_error_with_its_classes(tmp_path):
    model = import_ultralytics().YOLO("yolo11n.yaml")
    model.model.names = {0: "cat", 1: "dog"}
    model.save(tmp_path / "pets.pt")
    with pytest.raises(ModelError, match="no class 'person', only cat, dog"):
        YoloDetector(settings(tmp_path / "pets.pt"))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [({0: "Person", 1: "dog"}, "person"), ({0: "car", 1: "pedestrian"}, "Pedestrian")],
)
def test_class_of_people_is_compared_without_case_and_can_be_set(tmp_path, names, wanted):
    model = import_ultralytics().YOLO("yolo11n.yaml")
    model.model.names = names
    model.save(tmp_path / "people.pt")
    YoloDetector(settings(tmp_path / "people.pt", person_class=wanted)).close()
    if wanted != "person":
        with pytest.raises(ModelError, match="set detector.person_class to its class of people"):
            YoloDetector(settings(tmp_path / "people.pt"))


@pytest.mark.parametrize("name", ["yolov5n.pt", "yolov3-tiny.pt", "yolov5s6.pt"])
def test_file_of_an_older_family_is_loaded_exactly_as_named(yolo_file, name):
    folder = Path(tempfile.mkdtemp(prefix="a", dir="/tmp"))
    file = folder.rename("/tmp/" + folder.name.replace("u", "a")) / name  # no "u" in the path
    shutil.copy(yolo_file, file)
    try:
        detector = YoloDetector(settings(file))
        expected = YoloDetector(settings(yolo_file)).detect(frame("bus.jpg"))
        assert np.array_equal(detector.detect(frame("bus.jpg")).corners, expected.corners)
    finally:
        shutil.rmtree(file.parent)


def test_layer_that_downloads_weights_is_refused(monkeypatch, yolo_file, tmp_path):
    import torch

    def load(path):
        torch.hub.load_state_dict_from_url("https://example.org/resnet18.pth", str(tmp_path))

    monkeypatch.setattr(import_ultralytics(), "YOLO", load)
    with pytest.raises(ModelError, match="it wants to download https://example.org/resnet18.pth"):
        YoloDetector(settings(yolo_file))


def test_torch_without_safe_loading_is_refused(monkeypatch, yolo_file):
    import torch

    monkeypatch.delattr(torch.serialization, "get_unsafe_globals_in_checkpoint")
    with pytest.raises(ModelError, match="this torch is too old"):
        YoloDetector(settings(yolo_file))


def test_classifier_raises_an_error_with_its_task(tmp_path):
    import_ultralytics().YOLO("yolo11n-cls.yaml").save(tmp_path / "sorter.pt")
    with pytest.raises(ModelError, match="'classify'.*detect, segment or pose"):
        YoloDetector(settings(tmp_path / "sorter.pt"))


@pytest.mark.parametrize("kind", ["pose", "seg"])
def test_pose_and_segmentation_models_give_boxes(tmp_path, kind):
    model = import_ultralytics().YOLO(f"yolo11n-{kind}.yaml")
    model.model.names[7] = "person"
    model.save(tmp_path / "model.pt")
    detector = YoloDetector(settings(tmp_path / "model.pt"))
    assert detector.detect(frame("zidane.jpg")).corners.shape[1] == 4


@pytest.mark.parametrize(("suffix", "module"), [(".onnx", "onnxruntime"), (".engine", "tensorrt")])
def test_missing_runtime_of_an_exported_file_raises_an_error_with_the_package(
    tmp_path, monkeypatch, suffix, module
):
    (tmp_path / f"people{suffix}").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=f"pip install .*{module}"):
        YoloDetector(settings(tmp_path / f"people{suffix}"))


def test_missing_library_raises_an_error_with_its_name(yolo_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(ModelError, match="pip install --no-deps ultralytics"):
        YoloDetector(settings(yolo_file))
    with pytest.raises(ModelError, match="pip install --no-deps facenet-pytorch==2.6.0"):
        FaceDetector(FaceDetectorSettings())


@pytest.mark.parametrize("name", PEOPLE_WITH_FACES)
def test_face_detector_detects_the_two_people_with_visible_faces(faces, name):
    detections = faces.detect(frame(name))
    people = PEOPLE_WITH_FACES[name]
    assert len(detections) == len(people) == 2
    assert np.all(detections.confidence > 0.9)
    for left, top, right, bottom in people:
        inside = [
            left < (box[0] + box[2]) / 2 < right and top - 100 < box[1] < bottom
            for box in detections.corners
        ]
        assert sum(inside) == 1
    height, width = frame(name).image.shape[:2]
    assert np.all(
        (detections.corners >= 0) & (detections.corners <= [width, height, width, height])
    )


def test_box_of_a_face_covers_head_and_upper_body(faces):
    detections = faces.detect(frame("bus.jpg"))
    for left, top, right, bottom in PEOPLE_WITH_FACES["bus.jpg"]:
        upper_half = (left, top, right, (top + bottom) / 2)
        assert max(overlap(upper_half, box) for box in detections.corners) > 0.45


def test_faces_have_the_same_place_in_images_of_any_size():
    finder = FaceFinder("cpu")
    image = frame("zidane.jpg").image
    for scale in (0.5, 1, 3):
        large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        detections = finder.find(large).corners / scale
        for face in [(917, 97, 1050, 283), (555, 260, 668, 434)]:
            assert max(overlap(face, box) for box in detections) > 0.6
        assert len(detections) == 2


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (21, 21), (2000, 30), (3, 4000)], ids=str)
def test_image_too_small_for_a_face_has_none(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert len(FaceFinder("cpu").find(noise)) == 0


def test_detectors_use_no_network_and_install_nothing(yolo_file):
    program = f"""
        import sys

        def forbid(event, arguments):
            network = event in ("socket.connect", "socket.getaddrinfo", "socket.sendto")
            installs = event == "subprocess.Popen" and "pip" in str(arguments)
            if network or installs:
                print("FORBIDDEN", event, arguments, flush=True)
                raise OSError(event)

        sys.addaudithook(forbid)
        import numpy as np
        from emotion_perception.perception.detection import make_detector
        from emotion_perception.core.settings import FaceDetectorSettings, Settings, YoloSettings
        from emotion_perception.core.values import Frame

        for settings in (YoloSettings(model={str(yolo_file)!r}), FaceDetectorSettings()):
            detector = make_detector(settings)
            detector.detect(Frame(np.zeros((480, 640, 3), np.uint8), 0, "camera"))
            detector.close()
        from ultralytics.utils.events import events
        from ultralytics.utils import AUTOINSTALL
        print("sends events:", events.enabled, "installs:", AUTOINSTALL)
    """
    ours = ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "ULTRALYTICS_SAFE_LOAD")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sends events: False installs: False\n"


@pytest.mark.parametrize("name", ["bus.jpg", "zidane.jpg"])
def test_no_face_is_found_in_a_photograph_after_blurring(name):
    finder, blur = FaceFinder("cpu"), FaceBlur(Settings.from_dict({"privacy.blur_faces": True}))
    faces = finder.find(frame(name).image)
    people = [Box(*box) for box in PEOPLE_WITH_FACES[name]]
    shown = blur.frame(frame(name), people)
    assert len(faces) >= 2
    assert len(finder.find(shown.image)) == 0
    # A person whose face is not found loses the upper third, and with it the face.
    blind = replace(frame(name), image=blur_faces(frame(name).image, people, []))
    assert len(finder.find(blind.image)) == 0

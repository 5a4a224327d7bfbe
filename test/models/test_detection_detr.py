"""The detector `detr`, on models with random weights: published weights cannot be had here."""

import shutil
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from PIL import Image

from emotion_perception.core.errors import ModelError
from emotion_perception.core.settings import DetrSettings, Settings
from emotion_perception.core.values import Frame
from emotion_perception.installation.doctor import examine
from emotion_perception.perception.detection import WEAKEST_BOX, make_detector
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.testing.checkpoints.detr import IMAGE_SIZE, save_d_fine, save_rf_detr
from emotion_perception.testing.fakes import FakeRecognizer

pytestmark = pytest.mark.models

SAVE = {"rf_detr": save_rf_detr, "d_fine": save_d_fine}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("detr")
    return {name: save(root / name) for name, save in SAVE.items()}


@pytest.fixture(params=SAVE)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(autouse=True)
def without_ultralytics(monkeypatch):
    """In this module its import fails, as where only permissive.txt is installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "ultralytics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)


def settings(folder, **others):
    return DetrSettings(model=str(folder), image_size=IMAGE_SIZE, device="cpu", **others)


def frame(seed=0, size=(200, 120), stamp_ns=0):
    width, height = size
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(image, stamp_ns, "camera")


def reference(folder, image, label):
    """The boxes and scores of `label` by the object-detection pipeline of transformers."""
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    detect = transformers.pipeline(
        "object-detection", model=model, image_processor=processor, device="cpu"
    )
    found = detect(Image.fromarray(image), threshold=WEAKEST_BOX)
    found = [each for each in found if each["label"] == label]
    boxes = [[each["box"][k] for k in ("xmin", "ymin", "xmax", "ymax")] for each in found]
    return np.array(boxes), np.array([each["score"] for each in found])


def test_people_are_those_of_the_pipeline_of_transformers(folder):
    detections = make_detector(settings(folder)).detect(frame())
    boxes, scores = reference(folder, frame().image, "person")
    assert len(detections) > 3
    order, expected = np.argsort(-detections.confidence), np.argsort(-scores)
    np.testing.assert_allclose(detections.confidence[order], scores[expected], atol=1e-4)
    clipped = np.clip(boxes[expected], 0, [200, 120, 200, 120])
    np.testing.assert_allclose(detections.corners[order], clipped, atol=1.01)  # whole pixels


def test_class_of_people_is_chosen_by_name(folder):
    bus = make_detector(settings(folder, person_class="Bus")).detect(frame())
    person = make_detector(settings(folder)).detect(frame())
    assert bus.confidence.tolist() != person.confidence.tolist()
    np.testing.assert_allclose(
        sorted(bus.confidence), sorted(reference(folder, frame().image, "bus")[1]), atol=1e-4
    )


@pytest.mark.parametrize("size", [(320, 40), (31, 200), (2, 2)], ids=str)
def test_boxes_lie_inside_images_of_any_shape(folder, size):
    detections = make_detector(settings(folder)).detect(frame(size=size))
    assert np.all(detections.corners >= 0)
    assert np.all(detections.corners <= [*size, *size])
    assert np.all(detections.corners[:, :2] < detections.corners[:, 2:])


@pytest.mark.parametrize("image_size", [64, 100, 150])
def test_image_size_is_rounded_to_what_the_model_can_process(folder, image_size):
    chosen = DetrSettings(model=str(folder), image_size=image_size, device="cpu")
    detector = make_detector(chosen)
    assert detector.detect(frame()).confidence.tolist() != []
    exact = DetrSettings(model=str(folder), image_size=image_size // 32 * 32, device="cpu")
    expected = make_detector(exact).detect(frame())
    assert detector.detect(frame()).confidence.tolist() == expected.confidence.tolist()


def test_image_that_is_too_small_for_the_model_is_refused_at_once(folders):
    too_small = DetrSettings(model=str(folders["rf_detr"]), image_size=32, device="cpu")
    with pytest.raises(ModelError, match=r"in images of 32 px.*raise detector\.image_size"):
        make_detector(too_small)


def test_pipeline_tracks_what_the_detector_finds(folder):
    values = {"detector.name": "detr", "detector.model": str(folder), "detector.device": "cpu"}
    chosen = Settings.from_dict(values | {"detector.image_size": IMAGE_SIZE})
    pipeline = Pipeline(make_detector(chosen.detector), FakeRecognizer(), chosen)
    for i in range(3):
        people = pipeline.on_frame(frame(stamp_ns=1 + i * 10**8)).people
    assert people


@pytest.mark.parametrize(("model", "state"), [(None, "ok"), ("owner/never-fetched", "missing")])
def test_doctor_looks_for_the_model(folder, model, state):
    values = {"detector.name": "detr", "detector.model": model or str(folder)}
    (check,) = [c for c in examine(Settings.from_dict(values)) if c.name == "detector.model"]
    assert check.state == state
    assert ("fetch owner/never-fetched" in str(check.remedy)) == (state == "missing")


def test_closed_detector_holds_no_model(folder):
    detector = make_detector(settings(folder))
    detector.close()
    assert detector._model is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolo11n.pt", r"cannot find the model 'yolo11n\.pt'.*set detector\.model"),
        ("owner/never-fetched", r"emotion-perception fetch owner/never-fetched"),
    ],
)
def test_model_that_is_not_here_raises_an_error_with_the_remedy(name, message):
    with pytest.raises(ModelError, match=message):
        make_detector(DetrSettings(model=name, device="cpu"))


def test_missing_class_raises_an_error_with_the_classes(folder):
    with pytest.raises(ModelError, match=r"no class 'pedestrian', only bus, person"):
        make_detector(settings(folder, person_class="pedestrian"))


def test_model_of_another_family_is_refused(tmp_path):
    transformers.CLIPVisionConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"type 'clip_vision_model', expected rf_detr or d_fine"):
        make_detector(settings(tmp_path))


def test_weights_that_are_not_safetensors_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no weights as safetensors"):
        make_detector(settings(copy))


def test_incomplete_weights_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    missing = next(name for name in weights if "fc1.weight" in name)
    del weights[missing]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="its weights lack 1 tensors"):
        make_detector(settings(copy))

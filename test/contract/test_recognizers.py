"""The contract of `core.interfaces.Recognizer`, tested on every recognizer of the registry."""

import json
import os
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import pytest
from support import fake_server

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import ServerSettings, recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.io.image_decoding import decode_image
from emotion_perception.recognizers.registry import RECOGNIZERS, make_recognizer
from emotion_perception.testing.fakes import BlockingRecognizer, FakeRecognizer, noise_image

STAMP_NS = 1_003
ALICE = Track("p00001", Box(10, 10, 90, 118), 0.9)
BOB = Track("p00002", Box(100, 20, 150, 100), 0.8)
TINY = Track("p00003", Box(50, 60, 51, 63), 0.5)
CUT = Track("p00004", Box(-40, 30, 30, 200), 0.5)
PEOPLE = (ALICE, BOB, TINY, CUT)
OUTSIDE = Track("p00005", Box(5000, 5000, 6000, 6000), 0.5)


@dataclass(frozen=True)
class Case:
    """One recognizer and the settings to make it; values that name a checkpoint stand for it."""

    system: str
    settings: dict[str, object] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    """Libraries; the case is skipped where one is missing."""

    @property
    def model_setting(self):
        """The setting that names the folder of a model; empty if there is none."""
        return next((name for name in ("text_model", "model") if name in self.settings), "")


TORCH = ("torch", "transformers")
IMAGE = {"scene_size": 128, "device": "cpu"}
TEXT = {"text_model": "qwen3", "device": "cpu"}
CASES = {
    **{
        f"vlm-{family}": Case("vlm", {"model": family, "crop_size": 64, **IMAGE}, TORCH)
        for family in ("smolvlm", "qwen2_5_vl", "qwen3_vl", "gemma3", "qwen3_5")
    },
    **{
        family: Case("clip", {"model": family, "device": "cpu"}, TORCH)
        for family in ("clip", "siglip", "siglip2")
    },
    "narracap": Case("narracap", {"model": "clip", **TEXT}, TORCH),
    "caption": Case("caption", {"model": "blip", **TEXT}, TORCH),
    "llm": Case("llm", {"captions": "captions", **TEXT}, TORCH),
    "emotic-cnn": Case("emotic-cnn", {"model": "cnn", "device": "cpu"}, ("torch", "torchvision")),
    "two-stream": Case("two-stream", {"model": "bridgetower", **IMAGE}, TORCH),
    "single-stream": Case("single-stream", {"model": "vilt", **IMAGE}, TORCH),
    "face": Case(
        "face", {"device": "cpu"}, ("torch", "keras", "h5py", "facenet_pytorch", "ultralytics")
    ),
    "remote": Case("remote", {"model": "a-model", "crop_size": 64, "scene_size": 128}, ("openai",)),
    "majority": Case("majority", {"model": "frequencies"}),
    "rand6": Case("rand6"),
    "rand6-weighted": Case("rand6-weighted", {"model": "frequencies"}),
    "fake": Case("fake"),
    "blocking": Case("blocking"),
}
IGNORE_IMAGES = ("majority", "rand6", "rand6-weighted", "fake", "blocking")
"""Systems that give every person scores, wherever the box is."""


def params(condition=lambda case: True):
    """Return the cases that fulfil a condition; those with torch are marked `models`."""
    return [
        pytest.param(name, marks=[pytest.mark.models] if "torch" in case.needs else [])
        for name, case in CASES.items()
        if condition(case)
    ]


def save_cnn(folder):
    import torch

    from emotion_perception.recognizers.cnn import EmoticCnn

    torch.manual_seed(0)
    EmoticCnn(context_size=64, body_size=32).save(folder)


def save_frequencies(file):
    file.write_text(json.dumps({label: i + 1 for i, label in enumerate(EMOTIC_LABELS)}))


def save_captions(file):
    rows = [f"{person.person_id},This person waves {i} flags." for i, person in enumerate(PEOPLE)]
    file.write_text("\n".join(["key,caption", *rows]))


def builder(name):
    """Return the function that writes a file or folder of `Case.settings`; None: a plain value."""
    if name == "qwen3":
        from emotion_perception.testing.checkpoints.text import save_tiny_text

        return lambda folder: save_tiny_text(name, folder)
    if name in ("clip", "siglip", "siglip2", "blip"):
        from emotion_perception.testing.checkpoints import clip

        return getattr(clip, f"save_{name}")
    if name in ("bridgetower", "vilt"):
        from emotion_perception.testing.checkpoints import encoders

        return getattr(encoders, f"save_{name}")
    if any(case.system == "vlm" and case.settings["model"] == name for case in CASES.values()):
        from emotion_perception.testing.checkpoints.vlm import save_tiny

        return lambda folder: save_tiny(name, folder)
    return {"cnn": save_cnn, "frequencies": save_frequencies, "captions": save_captions}.get(name)


@pytest.fixture(scope="module")
def make(build_once):
    """A function that makes the recognizer of a case, with some settings changed."""
    with fake_server.running() as server, pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith("OPENAI_")]:
            patch.delenv(variable)
        patch.setenv("NO_PROXY", "127.0.0.1")

        def make(name, **changes):
            case = CASES[name]
            for library in case.needs:
                if find_spec(library) is None:  # an import of keras would choose its backend
                    pytest.skip(f"{library} is not installed")
            if case.system == "fake":
                return FakeRecognizer(lambda person: (0.9, 0.2))
            if case.system == "blocking":
                recognizer = BlockingRecognizer()
                for _ in range(100):
                    recognizer.release()
                return recognizer
            values = {**case.settings, **changes}
            for key, value in values.items():
                if value == case.settings.get(key) and (build := builder(value)):
                    values[key] = str(build_once(f"contract_{value}", build))
            if case.system == "remote":
                values["remote"] = ServerSettings(server.url, concurrency=8, retries=0)
            return make_recognizer(recognizer_settings(name=case.system, **values))

        yield make


@pytest.fixture(scope="module", params=params())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def recognizer(name, make):
    recognizer = make(name)
    yield recognizer
    recognizer.close()


@pytest.fixture
def scene(name):
    return scene_of(name)


def scene_of(name):
    if name != "face":
        return Scene(Frame(noise_image(160, 128), STAMP_NS, "camera"), PEOPLE)
    from emotion_perception.testing.checkpoints.yolo import PEOPLE_WITH_FACES, photograph

    boxes = [Box(*box) for box in PEOPLE_WITH_FACES["bus.jpg"]]
    people = [Track(f"p{i:05}", box, 0.9) for i, box in enumerate([*boxes, TINY.box, CUT.box], 1)]
    image = decode_image(np.fromfile(photograph("bus.jpg"), np.uint8))
    return Scene(Frame(image, STAMP_NS, "camera"), tuple(people))


def check(recognizer, people, assessments):
    """Check everything that holds for all assessments."""
    assert [a.person_id for a in assessments] == [p.person_id for p in people]
    for assessment in assessments:
        assert assessment.stamp_ns == STAMP_NS
        if assessment.scores is None:
            assert assessment.reason
        else:
            assert assessment.reason == ""
            assert np.shape(assessment.scores) == (len(recognizer.labels),)
            assert np.all((assessment.scores >= 0) & (assessment.scores <= 1))
        if assessment.vad is not None:
            assert len(assessment.vad) == 3
            assert all(-1 <= value <= 1 for value in assessment.vad)


def check_equal(first, second, tolerance):
    for a, b in zip(first, second, strict=True):
        assert (a.person_id, a.reason) == (b.person_id, b.reason)
        assert (a.scores is None, a.vad is None) == (b.scores is None, b.vad is None)
        if a.scores is not None:
            np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=tolerance)
        if a.vad is not None:
            np.testing.assert_allclose(a.vad, b.vad, rtol=0, atol=tolerance)


def test_every_system_of_the_registry_is_tested():
    assert set(RECOGNIZERS) == {case.system for case in CASES.values()} - {"fake", "blocking"}


def test_name_labels_and_thresholds_are_declared(recognizer):
    assert recognizer.name
    assert recognizer.calibration == ""
    assert isinstance(recognizer.labels, tuple)
    assert all(recognizer.labels)
    assert len(set(recognizer.labels)) == len(recognizer.labels)
    assert np.shape(recognizer.thresholds) == (len(recognizer.labels),)
    assert np.all((recognizer.thresholds > 0) & (recognizer.thresholds < 1))


def test_each_person_gets_one_assessment_in_order(recognizer, scene):
    for people in (scene.people, scene.people[::-1]):
        assessments = recognizer.assess(scene, people)
        check(recognizer, people, assessments)
        assert any(a.scores is not None for a in assessments)


def test_no_people_get_no_assessments(recognizer, scene):
    assert recognizer.assess(scene, ()) == []


def test_person_outside_the_image_gets_a_reason_and_changes_no_other_assessment(
    name, recognizer, scene
):
    alice = scene.people[0]
    outside, beside = recognizer.assess(scene, (OUTSIDE, alice))
    check(recognizer, (OUTSIDE, alice), (outside, beside))
    if name not in IGNORE_IMAGES:
        assert outside.scores is None
        assert recognizer.assess(scene, (OUTSIDE,))[0].reason == outside.reason
    check_equal([beside], recognizer.assess(scene, (alice,)), 1e-5)


def test_same_call_gives_the_same_bits(recognizer, scene):
    first, second = (recognizer.assess(scene, scene.people) for _ in range(2))
    check_equal(first, second, 0)


def test_assessments_do_not_depend_on_the_other_people_of_the_call(recognizer, scene):
    together = recognizer.assess(scene, scene.people)
    alone = [recognizer.assess(scene, (person,))[0] for person in scene.people]
    check_equal(together, alone, 1e-5)
    check_equal(together, recognizer.assess(scene, scene.people[::-1])[::-1], 1e-5)


def test_input_is_not_modified(recognizer, scene):
    image, people = scene.frame.image.copy(), list(scene.people)
    recognizer.assess(scene, people)
    np.testing.assert_array_equal(scene.frame.image, image)
    assert people == list(scene.people)


@pytest.mark.parametrize(
    "name",
    params(lambda c: c.system in ("vlm", "clip", "emotic-cnn", "two-stream", "single-stream")),
)
def test_scores_depend_on_the_person_and_on_the_scene(name, make):
    recognizer, scene = make(name), scene_of(name)
    alice, bob = (a.scores for a in recognizer.assess(scene, (ALICE, BOB)))
    assert np.abs(alice - bob).max() > 1e-4
    elsewhere = Scene(Frame(noise_image(160, 128, seed=1), STAMP_NS, "camera"), PEOPLE)
    elsewhere.frame.image[10:118, 10:90] = scene.frame.image[10:118, 10:90]
    assert np.abs(recognizer.assess(elsewhere, (ALICE,))[0].scores - alice).max() > 1e-6


@pytest.mark.parametrize("name", params(lambda c: "device" in c.settings and c.system != "face"))
@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_out_of_memory_fails_one_call_with_a_remedy(name, kind, make, monkeypatch):
    import torch

    recognizer, scene = make(name), scene_of(name)

    def run_out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory") if kind == "gpu" else MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", run_out_of_memory)
        with pytest.raises(RecognizerError, match=r"not enough memory.* 2 people.*max_people"):
            recognizer.assess(scene, (ALICE, BOB))
    check(recognizer, PEOPLE, recognizer.assess(scene, PEOPLE))


@pytest.mark.parametrize("name", params())
def test_recognizer_warms_up_works_and_releases_its_model(name, make):
    recognizer, scene = make(name), scene_of(name)
    recognizer.warm_up()
    check(recognizer, scene.people, recognizer.assess(scene, scene.people))
    recognizer.close()
    assert not list(models_of(recognizer))


def models_of(recognizer, seen=()):
    """Yield the torch models that an object of this package and its attributes hold."""
    for value in vars(recognizer).values():
        module = type(value).__module__
        if any(c.__module__ == "torch.nn.modules.module" for c in type(value).__mro__):
            yield value
        is_part = module.startswith("emotion_perception.") and hasattr(value, "__dict__")
        if is_part and all(value is not other for other in seen):  # parts may refer to the whole
            yield from models_of(value, (*seen, recognizer))


@pytest.mark.parametrize("name", params(lambda c: c.model_setting and c.system != "remote"))
def test_missing_model_is_an_error_with_its_name_and_a_remedy(name, make, tmp_path):
    missing = str(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"(recognizer\.\w*model|emotion-perception)\b") as error:
        make(name, **{CASES[name].model_setting: missing})
    assert missing in str(error.value)


@pytest.mark.parametrize("name", params(lambda c: c.needs == TORCH))
def test_unknown_device_is_an_error_with_a_remedy(name, make):
    with pytest.raises(ModelError, match=r"device 'cuda:77' cannot be used here .*set it to auto"):
        make(name, device="cuda:77")


@pytest.mark.parametrize("name", params(lambda c: c.needs == TORCH))
def test_model_that_was_not_fetched_is_an_error_with_the_command(name, make):
    with pytest.raises(ModelError, match="fetch it with `emotion-perception fetch a/b`"):
        make(name, **{CASES[name].model_setting: "a/b"})
    if CASES[name].model_setting == "text_model" and "model" in CASES[name].settings:
        with pytest.raises(ModelError, match="fetch it with `emotion-perception fetch a/b`"):
            make(name, model="a/b")

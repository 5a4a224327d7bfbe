"""Ablations: the part of an image that a recognizer is shown, with and without masks."""

import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy.io")

from support.emotic_files import ANN, BOB, write_images, write_mat
from support.evaluation import KeyedRecognizer

from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.evaluation import runner
from emotion_perception.evaluation.ablations import GREY, ablate
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.testing.fakes import noise_image

pytestmark = pytest.mark.command

MANIFEST = {"system": "function"}


@pytest.fixture
def unmasked(toy_emotic, tmp_path):
    """The same people without masks, as in EMOTIC."""
    root = shutil.copytree(toy_emotic, tmp_path / "unmasked")
    for mask in root.rglob("*.png"):
        mask.unlink()
    return emotic.load(root, "test")


def ablated(ablation, data, folder):
    """Return (image, person, mask, ablated image) for each person, as a recognizer gets them."""
    recognizer = KeyedRecognizer()
    run = runner.evaluate_recognizer(data, recognizer, folder, MANIFEST, ablation)
    assert run.assessed.all()
    people = [(image, person) for image in data.images for person in image.people]
    assert recognizer.keys == [person.key for _, person in people]
    assert all(len(scene.people) == 1 for scene in recognizer.scenes)
    return [
        (frame.image, person, person.read_mask(frame), scene.frame.image)
        for (image, person), scene in zip(people, recognizer.scenes, strict=True)
        for frame in [image.scene().frame]
    ]


def box_mask(person, image):
    mask = np.zeros(image.shape[:2], bool)
    mask[person.box.pixels(*image.shape[1::-1])] = True
    return mask


def test_full_input_assesses_all_people_of_an_image_in_one_call(data, tmp_path):
    recognizer = KeyedRecognizer()
    runner.evaluate_recognizer(data, recognizer, tmp_path, MANIFEST)
    assert [len(s.people) for s in recognizer.scenes] == [len(i.people) for i in data.images]
    for image, scene in zip(data.images, recognizer.scenes, strict=True):
        np.testing.assert_array_equal(scene.frame.image, image.scene().frame.image)


def test_ablation_person_shows_only_the_mask_or_the_box(data, unmasked, tmp_path):
    for image, person, mask, visible in ablated("person", data, tmp_path / "masked"):
        assert mask.any()
        assert not mask[box_mask(person, image)].all(), "the box holds more than the person"
        np.testing.assert_array_equal(visible[mask], image[mask])
        assert (visible[~mask] == GREY).all()
    for image, person, mask, visible in ablated("person", unmasked, tmp_path / "boxes"):
        assert mask is None
        box = box_mask(person, image)
        np.testing.assert_array_equal(visible[box], image[box])
        assert (visible[~box] == GREY).all()


def test_ablation_scene_hides_the_whole_box_with_and_without_a_mask(data, unmasked, tmp_path):
    masked = ablated("scene", data, tmp_path / "masked")
    boxes = ablated("scene", unmasked, tmp_path / "boxes")
    for (image, person, _, visible), (*_, same) in zip(masked, boxes, strict=True):
        box = box_mask(person, image)
        assert (visible[box] == GREY).all()
        np.testing.assert_array_equal(visible[~box], image[~box])
        np.testing.assert_array_equal(visible, same)


def test_ablation_text_shows_the_same_grey_image_for_each_person(data, tmp_path):
    images = [visible for *_, visible in ablated("text", data, tmp_path / "text")]
    assert all((image == GREY).all() for image in images)
    assert len({image.shape for image in images}) == 1


def test_ablation_swap_uses_the_image_half_the_data_set_away(data, unmasked, tmp_path):
    images = [image.scene().frame.image for image in data.images]
    numbers = [i for i, image in enumerate(data.images) for _ in image.people]
    for split, name in ((data, "masked"), (unmasked, "boxes")):
        cases = ablated("swap", split, tmp_path / name)
        for (image, person, mask, visible), number in zip(cases, numbers, strict=True):
            background = images[(number + len(images) // 2) % len(images)]
            shown = box_mask(person, image) if mask is None else mask
            np.testing.assert_array_equal(visible[shown], image[shown])
            np.testing.assert_array_equal(visible[~shown], background[~shown])


def test_ablation_swap_skips_unreadable_backgrounds_and_the_image_itself(tmp_path):
    names = [f"mscoco/images/{i}.jpg" for i in range(3)]
    write_mat(tmp_path, test={name: [ANN] for name in names})
    write_images(tmp_path, *names)
    data = emotic.load(tmp_path, "test")
    images = [image.scene().frame.image for image in data.images]
    data.images[1].path.write_bytes(b"not an image")
    recognizer = KeyedRecognizer()
    run = runner.evaluate_recognizer(data, recognizer, tmp_path / "run", MANIFEST, "swap")
    assert run.assessed.tolist() == [True, False, True]
    for scene, background in zip(recognizer.scenes, (images[2], images[0]), strict=True):
        np.testing.assert_array_equal(scene.frame.image[95:], background[95:])
    data.images[0].path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match="none of 3 people could be assessed: .* no other image"):
        runner.evaluate_recognizer(data, KeyedRecognizer(), tmp_path / "again", MANIFEST, "swap")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((3, 4), np.uint8), "it has 4 x 3 pixels and its image has 100 x 120"),
        (None, ": 9 bytes"),
    ],
)
def test_person_with_an_unusable_mask_is_not_assessed(tmp_path, mask, message):
    names = ["mscoco/images/0.jpg", "mscoco/images/1.jpg"]
    write_mat(tmp_path, test={name: [ANN] for name in names})
    write_images(tmp_path, *names)
    file = tmp_path / "emotic" / "mscoco" / "masks" / "0_0.png"
    file.parent.mkdir()
    file.write_bytes(b"no mask !" if mask is None else cv2.imencode(".png", mask)[1].tobytes())
    data = emotic.load(tmp_path, "test")
    run = runner.evaluate_recognizer(data, KeyedRecognizer(), tmp_path / "x", MANIFEST, "person")
    assert run.assessed.tolist() == [False, True]
    assert f"the mask {file}" in run.table["reason"][0]
    assert message in run.table["reason"][0]


SCENE = Scene(Frame(noise_image(64, 48), 0, ""), (Track("a", Box(8, 8, 24, 40), 1.0),))
PERSON = SCENE.people[0]


def test_smaller_background_is_resized_to_the_scene():
    small = Frame(np.full((10, 20, 3), 7, np.uint8), 0, "")
    image = ablate(SCENE, PERSON, "swap", small).frame.image
    assert image.shape == (48, 64, 3)
    assert (image[:, 30:] == 7).all()
    np.testing.assert_array_equal(image[8:40, 8:24], SCENE.frame.image[8:40, 8:24])


@pytest.mark.parametrize(
    ("ablation", "options", "message"),
    [
        ("face", {}, "ablation 'face': it does not exist; choose one of"),
        ("swap", {}, "pass another frame as `background`"),
        ("person", {"mask": np.ones((3, 3), bool)}, "a mask of shape"),
    ],
)
def test_impossible_ablation_is_an_error(ablation, options, message):
    with pytest.raises(ValueError, match=message):
        ablate(SCENE, PERSON, ablation, **options)


@pytest.mark.parametrize("ablation", ["scene+person", "person", "scene", "text", "swap"])
def test_cropped_image_is_counted_and_does_not_end_the_run(tmp_path, ablation):
    names = [f"mscoco/images/{number}.jpg" for number in range(3)]
    write_mat(tmp_path, test={name: [ANN, BOB] for name in names})
    write_images(tmp_path, *names)
    path = tmp_path / "emotic" / names[0]
    cv2.imwrite(str(path), cv2.imread(str(path))[:, :65])
    recognizer, data = KeyedRecognizer(), emotic.load(tmp_path, "test")
    run = runner.evaluate_recognizer(data, recognizer, tmp_path / "run", MANIFEST, ablation)
    assert run.assessed.tolist() == [False, False, True, True, True, True]
    assert "0.jpg has 65 x 120 pixels" in run.table["reason"][0]
    assert len(recognizer.scenes) == (2 if ablation == "scene+person" else 4)

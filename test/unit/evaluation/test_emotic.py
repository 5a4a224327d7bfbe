"""The EMOTIC reader, on files in the formats of the data set."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from emotion_perception.core.errors import FrameError
from emotion_perception.core.labels import (
    EMOTIC_LABELS,
    label_array,
    vad_from_emotic,
    vad_to_emotic,
)
from emotion_perception.evaluation.datasets import emotic

scipy_io = pytest.importorskip("scipy.io")
from support.emotic_files import (
    ANN,
    BOB,
    HEAD,
    LINE,
    NAN,
    with_orientation,
    write_images,
    write_mat,
)  # fmt: skip

pytestmark = pytest.mark.command

FOLDERS = [f"{name}/images" for name in ("ade20k", "emodb_small", "framesdb", "mscoco")]


@pytest.fixture
def root(tmp_path):
    images = {f"{folder}/a_{i}.jpg": [ANN, BOB] for i, folder in enumerate(FOLDERS)}
    images["mscoco/images/gone.jpg"] = [ANN]
    images["mscoco/images/nan.jpg"] = [NAN, ANN]
    write_mat(tmp_path, train=images, test=images)
    write_images(tmp_path, *(name for name in images if "gone" not in name))
    return tmp_path


def test_test_split_unites_annotators_and_train_has_one(root):
    ann = emotic.load(root, "test").people[0]
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(ann.labels)] == ["happiness", "peace"]
    assert ann.vad == (6, 4, 6)
    ann = emotic.load(root, "train").people[0]
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(ann.labels)] == ["peace"]
    assert ann.vad == (5, 4, 6)


def test_boxes_are_clipped_and_images_come_from_four_folders(root):
    data = emotic.load(root, "test")
    assert data.people[0].box == (0, 10, 60, 90)
    assert data.people[1].box == (70, 10, 100, 120)
    assert {p.path.parent.parent.name for p in data.images} == {f.split("/")[0] for f in FOLDERS}
    assert data.people[1].key == "ade20k/a_0_1.jpg"


def test_unusable_people_and_missing_images_are_counted(root):
    data = emotic.load(root, "test")
    assert dict(data.dropped) == {"valence, arousal or dominance is NaN": 1}
    assert data.missing == ("mscoco/images/gone.jpg",)
    assert data.people[-1].key == "mscoco/nan_1.jpg", "numbers include dropped people"
    assert data.truth.shape == (9, 26)


def rewrite(path, image, orientation=1):
    """Replace an image file by an image with an EXIF orientation."""
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    path.write_bytes(with_orientation(jpeg, orientation))


@pytest.mark.parametrize(
    ("shape", "orientation"),
    [((120, 100, 3), 1), ((120, 100, 3), 6), ((120, 100, 3), 3), ((100, 120, 3), 6)],
    ids=["stored", "stored, turned for viewers", "stored, upside down for viewers", "as viewed"],
)
def test_image_is_used_in_the_orientation_that_was_annotated(root, shape, orientation):
    data = emotic.load(root, "test")
    stored = np.zeros(shape, np.uint8)
    stored[:50, :30] = 255
    rewrite(data.images[0].path, stored, orientation)
    expected = stored if shape == (120, 100, 3) else np.rot90(stored, -1)
    image = data.images[0].scene().frame.image
    assert image.shape == (120, 100, 3)
    assert np.abs(image.astype(int) - expected).max() < 40


@pytest.mark.parametrize("shape", [(60, 50, 3), (100, 120, 3), (121, 100, 3)])
def test_image_of_another_size_than_annotated_is_refused(root, shape):
    image = emotic.load(root, "test").images[0]
    rewrite(image.path, np.zeros(shape, np.uint8))
    with pytest.raises(FrameError, match=rf"has {shape[1]} x {shape[0]} pixels .* 100 x 120, so"):
        image.scene()


def test_people_of_an_image_with_two_annotated_sizes_are_counted(tmp_path):
    other = LINE.replace("[100, 120]", "[50, 60]").replace("nan", "4.0")
    (tmp_path / "val.csv").write_text(HEAD + LINE.replace("nan", "4.0") + other)
    data = emotic.load(tmp_path, "val", require_images=False)
    assert (len(data.people), data.dropped.total()) == (1, 1)
    assert "another image size" in str(data.dropped)


@pytest.fixture
def shared_root(tmp_path):
    """A data set whose train split shares two images with val and one with test."""
    names = [f"framesdb/images/{letter}.jpg" for letter in "abcde"]
    splits = {"train": names, "val": names[:2], "test": [names[1], "mscoco/images/z.jpg"]}
    write_mat(tmp_path, **{s: {name: [ANN, BOB] for name in n} for s, n in splits.items()})
    write_images(tmp_path, *names, "mscoco/images/z.jpg")
    return tmp_path


def test_images_shared_with_val_and_test_are_counted_and_left_out(shared_root):
    data, lines = emotic.load(shared_root, "train"), []
    left = emotic.training_images(shared_root, data, False, lines.append)
    assert [image.path.stem for image in left.images] == ["c", "d", "e"]
    effect = "are also in train; they are left out of the training data"
    assert lines == [
        f"1 of the 2 images of test (2 people) {effect}",
        f"2 of the 2 images of val (4 people) {effect}",
    ]
    lines.clear()
    assert emotic.training_images(shared_root, data, True, lines.append).images == data.images
    assert [line.partition("; ")[2] for line in lines] == [
        "they stay in the training data, so that figures on test are too high",
        "they stay in the training data, so that figures on val are too high",
    ]
    assert left.fingerprint() != data.fingerprint()


def test_training_data_without_an_image_of_its_own_is_an_error(shared_root):
    images = emotic.load(shared_root, "train").images[:2]
    data = replace(emotic.load(shared_root, "train"), images=images)
    with pytest.raises(ValueError, match="all its images are also in val or test"):
        emotic.training_images(shared_root, data, False, print)


def test_split_that_does_not_exist_shares_no_image(shared_root):
    (shared_root / "Annotations" / "Annotations.mat").unlink()
    (shared_root / "train.csv").write_text(HEAD + LINE.replace("nan", "4.0"))
    data = emotic.load(shared_root, "train", require_images=False)
    assert emotic.shared_images(shared_root, data, emotic.SPLITS) == []


def test_scene_of_an_image_contains_its_people(root):
    scene = emotic.load(root, "test").images[0].scene()
    assert scene.frame.image.shape == (120, 100, 3)
    assert [t.person_id for t in scene.people] == ["ade20k/a_0_0.jpg", "ade20k/a_0_1.jpg"]


def test_corrupt_image_raises_frame_error(root):
    data = emotic.load(root, "test")
    data.images[0].path.write_bytes(b"not an image")
    with pytest.raises(FrameError):
        data.images[0].scene()


def test_public_csv_has_the_same_content(tmp_path):
    write_images(tmp_path, "mscoco/images/a.jpg")
    (tmp_path / "val.csv").write_text(HEAD + LINE + LINE.replace("nan", "4.0"))
    data = emotic.load(tmp_path, "val")
    assert data.dropped.total() == 1
    (person,) = data.people
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(person.labels)] == ["doubt/confusion", "fear"]
    assert (person.key, person.vad, person.box) == ("mscoco/a_1.jpg", (3, 4, 5), (5, 6, 50, 60))


@pytest.mark.parametrize(
    "name",
    ["../../secret/s.jpg", "{outside}/secret/s.jpg", "mscoco/../../../secret/s.jpg", "//s.jpg",
     "images/link.jpg", "linked/s.jpg"],
)  # fmt: skip
@pytest.mark.parametrize("annotations", ["mat", "csv"])
@pytest.mark.parametrize("require_images", [True, False])
def test_image_outside_the_data_set_is_refused(tmp_path, name, annotations, require_images):
    root, secret = tmp_path / "data", tmp_path / "secret"
    write_images(root, "images/a.jpg", "../../secret/s.jpg")
    (root / "emotic" / "images" / "link.jpg").symlink_to(secret / "s.jpg")
    (root / "emotic" / "linked").symlink_to(secret)
    name = name.format(outside=tmp_path)
    folder, _, file = name.rpartition("/")
    if annotations == "mat":
        write_mat(root, test={name: [ANN]})
    else:
        line = LINE.replace("mscoco/images", folder).replace("a.jpg", file)
        (root / "test.csv").write_text(HEAD + line)
    with pytest.raises(ValueError, match=r"cannot use the file .*, out of the folder"):
        emotic.load(root, "test", require_images)


def test_mask_outside_the_data_set_is_refused(tmp_path):
    root = tmp_path / "data"
    write_mat(root, test={"images/a.jpg": [ANN]})
    write_images(root, "images/a.jpg", "../../secret/s.png")
    (root / "emotic" / "masks").mkdir()
    (root / "emotic" / "masks" / "a_0.png").symlink_to(tmp_path / "secret" / "s.png")
    with pytest.raises(ValueError, match="out of the folder"):
        emotic.load(root, "test")


def test_link_inside_the_data_set_is_followed(tmp_path):
    root = tmp_path / "data"
    write_mat(root, test={"images/link.jpg": [ANN]})
    write_images(root, "images/a.jpg")
    (root / "emotic" / "images" / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "root").symlink_to(root)
    assert len(emotic.load(tmp_path / "root", "test").images) == 1


def test_truncated_csv_is_an_error_that_names_the_line(tmp_path):
    write_images(tmp_path, "mscoco/images/a.jpg")
    (tmp_path / "val.csv").write_text(HEAD + LINE + LINE[:70])
    with pytest.raises(ValueError, match=r"val.csv: line 3 is truncated or damaged"):
        emotic.load(tmp_path, "val")
    (tmp_path / "val.csv").write_text("Index,Folder\n")
    with pytest.raises(ValueError, match="lacks the columns Filename"):
        emotic.load(tmp_path, "val")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[5, 6, 50, 60]", "[5, 6, 50]", "[5, 6, 50] is not a box: expected 4 numbers"),
        ("[5, 6, 50, 60]", "['5', 6, 50, 60]", "['5', 6, 50, 60] is not a box"),
        ("['Fear', 'Doubt/Confusion']", "5", "5 is not a list of labels"),
        ("['Fear', 'Doubt/Confusion']", "[5]", "[5] is not a list of labels"),
        ("['Fear', 'Doubt/Confusion']", "'Fear'", "'Fear' is not a list of labels"),
        ("Fear", "Feard", "'Feard' is not an EMOTIC label"),
        (
            "nan, 5.0]",
            "4.0, 5.0, 6.0]",
            "[3.0, 4.0, 5.0, 6.0] is not a list of VAD ratings: expected 3 numbers",
        ),
        ("[100, 120]", "[100, 0]", "[100, 0] is not an image size"),
        ("[100, 120]", "100", "100 is not an image size"),
    ],
)
def test_damaged_value_is_an_error_that_names_the_line(tmp_path, old, new, message):
    write_images(tmp_path, "mscoco/images/a.jpg")
    (tmp_path / "val.csv").write_text(HEAD + LINE + LINE.replace(old, new))
    message = re.escape(f"val.csv: line 3 is truncated or damaged: {message}")
    with pytest.raises(ValueError, match=message):
        emotic.load(tmp_path, "val")


def test_invalid_utf_8_is_an_error_that_names_the_line(tmp_path):
    (tmp_path / "val.csv").write_bytes((HEAD + LINE).encode() + "é".encode("latin-1"))
    with pytest.raises(ValueError, match="val.csv: line 3 is not valid UTF-8"):
        emotic.load(tmp_path, "val")


def test_box_with_a_nan_is_counted(tmp_path):
    write_images(tmp_path, "mscoco/images/a.jpg")
    line = LINE.replace("[3.0, nan", "[3.0, 4.0")
    (tmp_path / "val.csv").write_text(HEAD + line + line.replace("[5, 6", "[nan, 6"))
    assert dict(emotic.load(tmp_path, "val").dropped) == {"the box is NaN": 1}


def test_damaged_mat_content_is_an_error_that_names_the_image(root):
    path = root / "Annotations" / "Annotations.mat"
    scipy_io.savemat(path, {"test": np.zeros(3)})
    with pytest.raises(ValueError, match=r"mat: image 1 of the split 'test' is damaged"):
        emotic.load(root, "test")
    write_mat(root, test={"mscoco/images/a_3.jpg": [{**ANN, "labels": [["Feard"]]}]})
    with pytest.raises(
        ValueError, match=r"mat: image 1 of .* damaged: 'Feard' is not an EMOTIC label"
    ):
        emotic.load(root, "test")


@pytest.mark.parametrize("other", ["mscoco/images/a.png", "mscoco/more/a.jpg"])
def test_images_whose_people_share_a_key_are_both_named(tmp_path, other):
    names = ("mscoco/images/a.jpg", other)
    write_mat(tmp_path, test={name: [ANN] for name in names})
    write_images(tmp_path, *names)
    with pytest.raises(ValueError, match=f"{names[0]} and {other} apart: .* 'mscoco/a_0.jpg'"):
        emotic.load(tmp_path, "test")


def test_wrong_root_or_split_is_an_error_that_names_the_expected_value(tmp_path, root):
    with pytest.raises(
        ValueError, match="split 'tset': it does not exist; choose one of train, val, test"
    ):
        emotic.load(root, "tset")
    with pytest.raises(ValueError, match="has no split 'val', only train, test"):
        emotic.load(root, "val")
    with pytest.raises(ValueError, match="is not a folder"):
        emotic.load(tmp_path / "nowhere", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither Annotations/Annotations.mat nor test.csv"):
        emotic.load(tmp_path / "empty", "test")


def test_unknown_label_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="'Happinesst' is not an EMOTIC label"):
        label_array(["Happinesst"])


@pytest.mark.parametrize("rest", [b"", bytes(100)], ids=["truncated", "overwritten"])
def test_damaged_mat_file_is_an_error(root, rest):
    path = root / "Annotations" / "Annotations.mat"
    scipy_io.savemat(path, {"test": np.arange(500.0)}, do_compression=True)
    path.write_bytes(path.read_bytes()[:150] + rest)
    with pytest.raises(ValueError, match="as a MATLAB file"):
        emotic.load(root, "test")


def test_vad_scales_are_inverse():
    assert vad_from_emotic((1.0, 5.5, 10.0)) == (-1, 0, 1)
    assert vad_to_emotic(vad_from_emotic((2.0, 7.0, 9.0))) == pytest.approx((2, 7, 9))


@pytest.mark.parametrize("place", [316, 336, 604])
def test_crash_of_the_matlab_reader_is_one_error(tmp_path, place):
    """SciPy 1.x ends the process for a matrix where a number should be."""
    write_mat(tmp_path, test={"images/a.jpg": [ANN]})
    path = tmp_path / "Annotations" / "Annotations.mat"
    content = bytearray(path.read_bytes())
    content[place : place + 4] = (14).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"cannot read {path}: the library .* crashed \(SIGSEGV"):
        emotic.load(tmp_path, "test")

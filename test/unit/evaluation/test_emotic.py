"""The data set in exactly its formats, made here."""

import re

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
from support.emotic_files import ANN, BOB, HEAD, LINE, NAN, write_mat, write_pictures

FOLDERS = [f"{name}/images" for name in ("ade20k", "emodb_small", "framesdb", "mscoco")]


@pytest.fixture
def root(tmp_path):
    pictures = {f"{folder}/a_{i}.jpg": [ANN, BOB] for i, folder in enumerate(FOLDERS)}
    pictures["mscoco/images/gone.jpg"] = [ANN]
    pictures["mscoco/images/nan.jpg"] = [NAN, ANN]
    write_mat(tmp_path, train=pictures, test=pictures)
    write_pictures(tmp_path, *(name for name in pictures if "gone" not in name))
    return tmp_path


def test_annotators_are_united_in_test_and_alone_in_train(root):
    ann = emotic.load(root, "test").people[0]
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(ann.labels)] == ["happiness", "peace"]
    assert ann.vad == (6, 4, 6)
    alone = emotic.load(root, "train").people[0]
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(alone.labels)] == ["peace"]
    assert alone.vad == (5, 4, 6)


def test_boxes_are_clipped_and_pictures_come_from_the_four_folders(root):
    found = emotic.load(root, "test")
    assert found.people[0].box == (0, 10, 60, 90)
    assert found.people[1].box == (70, 10, 100, 120)
    assert {p.path.parent.parent.name for p in found.images} == {f.split("/")[0] for f in FOLDERS}
    assert found.people[1].key == "ade20k/a_0_1.jpg"


def test_what_cannot_be_used_is_counted_and_named_not_fatal(root):
    found = emotic.load(root, "test")
    assert dict(found.dropped) == {"valence, arousal or dominance is NaN": 1}
    assert found.missing == ("mscoco/images/gone.jpg",)
    assert found.people[-1].key == "mscoco/nan_1.jpg", "numbers count those who were dropped"
    assert found.truth.shape == (9, 26)


def test_a_picture_becomes_a_scene_with_everybody_in_it(root):
    scene = emotic.load(root, "test").images[0].scene()
    assert scene.frame.image.shape == (120, 100, 3)
    assert [t.person_id for t in scene.people] == ["ade20k/a_0_0.jpg", "ade20k/a_0_1.jpg"]


def test_a_corrupt_picture_is_an_error_of_its_own(root):
    found = emotic.load(root, "test")
    found.images[0].path.write_bytes(b"no picture")
    with pytest.raises(FrameError):
        found.images[0].scene()


def test_the_public_csv_says_the_same(tmp_path):
    write_pictures(tmp_path, "mscoco/images/a.jpg")
    (tmp_path / "val.csv").write_text(HEAD + LINE + LINE.replace("nan", "4.0"))
    found = emotic.load(tmp_path, "val")
    assert found.dropped.total() == 1
    (one,) = found.people
    assert [EMOTIC_LABELS[i] for i in np.flatnonzero(one.labels)] == ["doubt/confusion", "fear"]
    assert (one.key, one.vad, one.box) == ("mscoco/a_1.jpg", (3, 4, 5), (5, 6, 50, 60))


def test_half_a_csv_is_named_with_its_line(tmp_path):
    write_pictures(tmp_path, "mscoco/images/a.jpg")
    (tmp_path / "val.csv").write_text(HEAD + LINE + LINE[:70])
    with pytest.raises(ValueError, match=r"val.csv, line 3 is truncated or damaged"):
        emotic.load(tmp_path, "val")
    (tmp_path / "val.csv").write_text("Index,Folder\n")
    with pytest.raises(ValueError, match="lacks the columns Filename"):
        emotic.load(tmp_path, "val")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
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
def test_a_damaged_value_is_named_with_its_line(tmp_path, old, new, complaint):
    write_pictures(tmp_path, "mscoco/images/a.jpg")
    (tmp_path / "val.csv").write_text(HEAD + LINE + LINE.replace(old, new))
    words = re.escape(f"val.csv, line 3 is truncated or damaged: {complaint}")
    with pytest.raises(ValueError, match=words):
        emotic.load(tmp_path, "val")


def test_bytes_that_are_no_utf_8_are_named_with_their_line(tmp_path):
    (tmp_path / "val.csv").write_bytes((HEAD + LINE).encode() + "é".encode("latin-1"))
    with pytest.raises(ValueError, match="val.csv, line 3 is not valid UTF-8"):
        emotic.load(tmp_path, "val")


def test_a_box_with_a_nan_is_counted(tmp_path):
    write_pictures(tmp_path, "mscoco/images/a.jpg")
    line = LINE.replace("[3.0, nan", "[3.0, 4.0")
    (tmp_path / "val.csv").write_text(HEAD + line + line.replace("[5, 6", "[nan, 6"))
    assert dict(emotic.load(tmp_path, "val").dropped) == {"the box is NaN": 1}


def test_a_mat_file_of_something_else_is_named_with_the_place(root):
    path = root / "Annotations" / "Annotations.mat"
    scipy_io.savemat(path, {"test": np.zeros(3)})
    with pytest.raises(ValueError, match=r"mat, image 1 of the split 'test' is damaged"):
        emotic.load(root, "test")
    write_mat(root, test={"mscoco/images/a_3.jpg": [{**ANN, "labels": [["Feard"]]}]})
    with pytest.raises(
        ValueError, match=r"mat, image 1 of .* damaged: 'Feard' is not an EMOTIC label"
    ):
        emotic.load(root, "test")


@pytest.mark.parametrize("other", ["mscoco/images/a.png", "mscoco/more/a.jpg"])
def test_two_pictures_whose_people_would_share_keys_are_both_named(tmp_path, other):
    names = ("mscoco/images/a.jpg", other)
    write_mat(tmp_path, test={name: [ANN] for name in names})
    write_pictures(tmp_path, *names)
    with pytest.raises(ValueError, match=f"{names[0]} and {other} apart: .* 'mscoco/a_0.jpg'"):
        emotic.load(tmp_path, "test")


def test_a_wrong_root_or_split_says_what_was_expected(tmp_path, root):
    with pytest.raises(
        ValueError, match="split 'tset' does not exist; choose one of train, val, test"
    ):
        emotic.load(root, "tset")
    with pytest.raises(ValueError, match="has no split 'val', only train, test"):
        emotic.load(root, "val")
    with pytest.raises(ValueError, match="is not a folder"):
        emotic.load(tmp_path / "nowhere", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither Annotations/Annotations.mat nor test.csv"):
        emotic.load(tmp_path / "empty", "test")


def test_an_unknown_label_is_refused_by_name():
    with pytest.raises(ValueError, match="'Happinesst' is not an EMOTIC label"):
        label_array(["Happinesst"])


@pytest.mark.parametrize("rest", [b"", bytes(100)], ids=["cut short", "overwritten"])
def test_a_damaged_mat_file_is_refused(root, rest):
    path = root / "Annotations" / "Annotations.mat"
    scipy_io.savemat(path, {"test": np.arange(500.0)}, do_compression=True)
    path.write_bytes(path.read_bytes()[:150] + rest)
    with pytest.raises(ValueError, match="as a MATLAB file"):
        emotic.load(root, "test")


def test_affect_scales_go_there_and_back():
    assert vad_from_emotic((1.0, 5.5, 10.0)) == (-1, 0, 1)
    assert vad_to_emotic(vad_from_emotic((2.0, 7.0, 9.0))) == pytest.approx((2, 7, 9))

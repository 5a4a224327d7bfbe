"""The data set in exactly its formats, made here."""

import re

import cv2
import numpy as np
import pytest

from emotion_perception.emotions import EMOTIC_LABELS
from emotion_perception.evaluation import emotic
from emotion_perception.frames import FrameError
from emotion_perception.testing import picture

scipy_io = pytest.importorskip("scipy.io")

ANN = {
    "box": [-5, 10, 60, 90],
    "labels": [["Peace"], ["Happiness", "Peace"]],
    "vad": [[5, 4, 6], [7, 4, 6]],
}
BOB = {"box": [70, 10, 200, 300], "labels": [["Doubt/Confusion"]], "vad": [[3, 5, 5]]}
NAN = {"box": [0, 0, 9, 9], "labels": [["Fear"]], "vad": [[np.nan, 5, 5]]}


def cell(*items):
    """A MATLAB cell row."""
    row = np.empty((1, len(items)), object)
    for i, item in enumerate(items):
        row[0, i] = item
    return row


def struct(**fields):
    made = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        made[name][0, 0] = value
    return made


def words(names):
    return cell(*(np.array([name]) for name in names))


def dimensions(vad):
    return struct(**dict(zip(("valence", "arousal", "dominance"), map(float, vad), strict=True)))


def person(one, split):
    each = [struct(categories=words(names)) for names in one["labels"]]
    rated = [dimensions(vad) for vad in one["vad"]]
    box = np.array([one["box"]], float)
    about = {"gender": "Male", "age": "Adult"}
    if split == "train":
        return struct(
            body_bbox=box, annotations_categories=each[0], annotations_continuous=rated[0], **about
        )
    union = sorted({name for names in one["labels"] for name in names})
    return struct(
        body_bbox=box,
        annotations_categories=np.concatenate(each, axis=1),
        combined_categories=words(union),
        annotations_continuous=np.concatenate(rated, axis=1),
        combined_continuous=dimensions(np.mean(one["vad"], axis=0)),
        **about,
    )


def write_mat(root, **splits):
    """Annotations.mat with the pictures {folder/name: people} of each split."""
    content = {}
    for split, pictures in splits.items():
        records = [
            struct(
                filename=np.array([name.rpartition("/")[2]]),
                folder=np.array([name.rpartition("/")[0]]),
                image_size=struct(n_col=100.0, n_row=120.0),
                original_database=struct(name="x"),
                person=np.concatenate([person(p, split) for p in people], axis=1),
            )
            for name, people in pictures.items()
        ]
        content[split] = np.concatenate(records, axis=1)
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(root / "Annotations" / "Annotations.mat", content)


def write_pictures(root, *names):
    for i, name in enumerate(names):
        path = root / "emotic" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture(100, 120, i))


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
    assert {p.path.parent.parent.name for p in found.pictures} == {f.split("/")[0] for f in FOLDERS}
    assert found.people[1].key == "ade20k/a_0_1.jpg"


def test_what_cannot_be_used_is_counted_and_named_not_fatal(root):
    found = emotic.load(root, "test")
    assert dict(found.dropped) == {"valence, arousal or dominance is NaN": 1}
    assert found.missing == ("mscoco/images/gone.jpg",)
    assert found.people[-1].key == "mscoco/nan_1.jpg", "numbers count those who were dropped"
    assert found.truth.shape == (9, 26)


def test_a_picture_becomes_a_scene_with_everybody_in_it(root):
    scene = emotic.load(root, "test").pictures[0].scene()
    assert scene.frame.image.shape == (120, 100, 3)
    assert [t.person_id for t in scene.people] == ["ade20k/a_0_0.jpg", "ade20k/a_0_1.jpg"]


def test_a_corrupt_picture_is_an_error_of_its_own(root):
    found = emotic.load(root, "test")
    found.pictures[0].path.write_bytes(b"no picture")
    with pytest.raises(FrameError):
        found.pictures[0].scene()


HEAD = "Index,Folder,Filename,Image Size,BBox,Categorical_Labels,Continuous_Labels,Gender,Age\n"
LINE = (
    '0,mscoco/images,a.jpg,"[100, 120]","[5, 6, 50, 60]",'
    "\"['Fear', 'Doubt/Confusion']\",\"[3.0, nan, 5.0]\",Male,Adult\n"
)


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
    with pytest.raises(ValueError, match=r"val.csv, line 3 is cut short or damaged"):
        emotic.load(tmp_path, "val")
    (tmp_path / "val.csv").write_text("Index,Folder\n")
    with pytest.raises(ValueError, match="lacks the columns Filename"):
        emotic.load(tmp_path, "val")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[5, 6, 50, 60]", "[5, 6, 50]", "[5, 6, 50] is no box: expected 4 numbers"),
        ("[5, 6, 50, 60]", "['5', 6, 50, 60]", "['5', 6, 50, 60] is no box"),
        ("['Fear', 'Doubt/Confusion']", "5", "5 is no list of labels"),
        ("['Fear', 'Doubt/Confusion']", "[5]", "[5] is no list of labels"),
        ("['Fear', 'Doubt/Confusion']", "'Fear'", "'Fear' is no list of labels"),
        ("Fear", "Feard", "'Feard' is no label of EMOTIC"),
        (
            "nan, 5.0]",
            "4.0, 5.0, 6.0]",
            "[3.0, 4.0, 5.0, 6.0] is no list of ratings: expected 3 numbers",
        ),
        ("[100, 120]", "[100, 0]", "[100, 0] is no size"),
        ("[100, 120]", "100", "100 is no size"),
    ],
)
def test_a_damaged_value_is_named_with_its_line(tmp_path, old, new, complaint):
    write_pictures(tmp_path, "mscoco/images/a.jpg")
    (tmp_path / "val.csv").write_text(HEAD + LINE + LINE.replace(old, new))
    words = re.escape(f"val.csv, line 3 is cut short or damaged: {complaint}")
    with pytest.raises(ValueError, match=words):
        emotic.load(tmp_path, "val")


def test_bytes_that_are_no_utf_8_are_named_with_their_line(tmp_path):
    (tmp_path / "val.csv").write_bytes((HEAD + LINE).encode() + "é".encode("latin-1"))
    with pytest.raises(ValueError, match="val.csv, line 3 is no UTF-8"):
        emotic.load(tmp_path, "val")


def test_a_box_with_a_nan_is_counted(tmp_path):
    write_pictures(tmp_path, "mscoco/images/a.jpg")
    line = LINE.replace("[3.0, nan", "[3.0, 4.0")
    (tmp_path / "val.csv").write_text(HEAD + line + line.replace("[5, 6", "[nan, 6"))
    assert dict(emotic.load(tmp_path, "val").dropped) == {"the box is NaN": 1}


def test_a_mat_file_of_something_else_is_named_with_the_place(root):
    path = root / "Annotations" / "Annotations.mat"
    scipy_io.savemat(path, {"test": np.zeros(3)})
    with pytest.raises(ValueError, match=r"mat, picture 1 of the part 'test' is damaged"):
        emotic.load(root, "test")
    write_mat(root, test={"mscoco/images/a_3.jpg": [{**ANN, "labels": [["Feard"]]}]})
    with pytest.raises(ValueError, match=r"mat, picture 1 of .* damaged: 'Feard' is no label"):
        emotic.load(root, "test")


@pytest.mark.parametrize("other", ["mscoco/images/a.png", "mscoco/more/a.jpg"])
def test_two_pictures_whose_people_would_share_keys_are_both_named(tmp_path, other):
    names = ("mscoco/images/a.jpg", other)
    write_mat(tmp_path, test={name: [ANN] for name in names})
    write_pictures(tmp_path, *names)
    with pytest.raises(ValueError, match=f"{names[0]} and {other} both have .* 'mscoco/a_0.jpg'"):
        emotic.load(tmp_path, "test")


def test_a_wrong_root_or_split_says_what_was_expected(tmp_path, root):
    with pytest.raises(ValueError, match="no split 'tset': choose one of train, val, test"):
        emotic.load(root, "tset")
    with pytest.raises(ValueError, match="has no part 'val', only train, test"):
        emotic.load(root, "val")
    with pytest.raises(ValueError, match="is no folder"):
        emotic.load(tmp_path / "nowhere", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither Annotations/Annotations.mat nor test.csv"):
        emotic.load(tmp_path / "empty", "test")


def test_an_unknown_label_is_refused_by_name():
    with pytest.raises(ValueError, match="'Happinesst' is no label of EMOTIC"):
        emotic.label_array(["Happinesst"])


@pytest.mark.parametrize("rest", [b"", bytes(100)], ids=["cut short", "overwritten"])
def test_a_damaged_mat_file_is_refused(root, rest):
    path = root / "Annotations" / "Annotations.mat"
    scipy_io.savemat(path, {"test": np.arange(500.0)}, do_compression=True)
    path.write_bytes(path.read_bytes()[:150] + rest)
    with pytest.raises(ValueError, match="cannot be read as a MATLAB file"):
        emotic.load(root, "test")


def test_affect_scales_go_there_and_back():
    assert emotic.from_vad((1.0, 5.5, 10.0)) == (-1, 0, 1)
    assert emotic.to_vad(emotic.from_vad((2.0, 7.0, 9.0))) == pytest.approx((2, 7, 9))

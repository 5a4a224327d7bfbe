"""Write EMOTIC annotations in the formats of the data set."""

import cv2
import numpy as np
import pytest

from emotion_perception.testing.fakes import picture

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


HEAD = "Index,Folder,Filename,Image Size,BBox,Categorical_Labels,Continuous_Labels,Gender,Age\n"


LINE = (
    '0,mscoco/images,a.jpg,"[100, 120]","[5, 6, 50, 60]",'
    "\"['Fear', 'Doubt/Confusion']\",\"[3.0, nan, 5.0]\",Male,Adult\n"
)

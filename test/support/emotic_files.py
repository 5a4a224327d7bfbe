"""Write EMOTIC annotations and images in the formats of the data set."""

import struct as struct_format

import cv2
import numpy as np
import pytest

from emotion_perception.testing.fakes import noise_image

scipy_io = pytest.importorskip("scipy.io")

# People for `write_mat`: the labels and VAD ratings have an entry per annotator.
ANN = {
    "box": [-5, 10, 60, 90],
    "labels": [["Peace"], ["Happiness", "Peace"]],
    "vad": [[5, 4, 6], [7, 4, 6]],
}
BOB = {"box": [70, 10, 200, 300], "labels": [["Doubt/Confusion"]], "vad": [[3, 5, 5]]}
NAN = {"box": [0, 0, 9, 9], "labels": [["Fear"]], "vad": [[np.nan, 5, 5]]}


def cell(*items):
    """Return a row of MATLAB cells."""
    row = np.empty((1, len(items)), object)
    for i, item in enumerate(items):
        row[0, i] = item
    return row


def struct(**fields):
    """Return a MATLAB structure."""
    array = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        array[name][0, 0] = value
    return array


def strings(names):
    return cell(*(np.array([name]) for name in names))


def vad_struct(vad):
    return struct(**dict(zip(("valence", "arousal", "dominance"), map(float, vad), strict=True)))


def person_struct(person, split):
    """Return a person in the format of a split."""
    categories = [struct(categories=strings(names)) for names in person["labels"]]
    ratings = [vad_struct(vad) for vad in person["vad"]]
    box = np.array([person["box"]], float)
    others = {"gender": "Male", "age": "Adult"}
    if split == "train":
        return struct(
            body_bbox=box,
            annotations_categories=categories[0],
            annotations_continuous=ratings[0],
            **others,
        )
    union = sorted({name for names in person["labels"] for name in names})
    return struct(
        body_bbox=box,
        annotations_categories=np.concatenate(categories, axis=1),
        combined_categories=strings(union),
        annotations_continuous=np.concatenate(ratings, axis=1),
        combined_continuous=vad_struct(np.mean(person["vad"], axis=0)),
        **others,
    )


def write_mat(root, **splits):
    """Write Annotations.mat with the images of each split: {folder/name: people}."""
    content = {}
    for split, images in splits.items():
        records = [
            struct(
                filename=np.array([name.rpartition("/")[2]]),
                folder=np.array([name.rpartition("/")[0]]),
                image_size=struct(n_col=100.0, n_row=120.0),
                original_database=struct(name="x"),
                person=np.concatenate([person_struct(p, split) for p in people], axis=1),
            )
            for name, people in images.items()
        ]
        content[split] = np.concatenate(records, axis=1)
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(root / "Annotations" / "Annotations.mat", content)


def write_images(root, *names):
    """Write an image of 100 x 120 pixels for each folder/name."""
    for i, name in enumerate(names):
        path = root / "emotic" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), noise_image(100, 120, i))


def with_orientation(jpeg, orientation):
    """Return a JPEG with an EXIF orientation; 6: viewers turn it clockwise by 90 degrees."""
    entry = struct_format.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    content = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


HEAD = "Index,Folder,Filename,Image Size,BBox,Categorical_Labels,Continuous_Labels,Gender,Age\n"

LINE = (
    '0,mscoco/images,a.jpg,"[100, 120]","[5, 6, 50, 60]",'
    "\"['Fear', 'Doubt/Confusion']\",\"[3.0, nan, 5.0]\",Male,Adult\n"
)

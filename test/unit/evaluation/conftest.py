"""Data sets for the tests of evaluation."""

import pytest

from emotion_perception.evaluation.datasets import emotic


@pytest.fixture(scope="package")
def toy_emotic(tmp_path_factory):
    """The root of a small data set of the toy world. Tests do not change it."""
    pytest.importorskip("scipy.io")
    from support.evaluation import write_toy_emotic

    return write_toy_emotic(tmp_path_factory.mktemp("emotic"))


@pytest.fixture
def data(toy_emotic):
    """The test split of the toy data set."""
    return emotic.load(toy_emotic, "test")


@pytest.fixture
def damaged_emotic(tmp_path):
    """A data set with a missing image, a corrupt image, and a person whose VAD has a NaN."""
    from support.emotic_files import ANN, BOB, NAN, write_images, write_mat

    names = [f"mscoco/images/{name}.jpg" for name in ("a", "broken", "gone", "nan")]
    people = dict(zip(names, ([ANN, BOB], [ANN], [ANN], [NAN, BOB]), strict=True))
    write_mat(tmp_path, test=people, train=people)
    write_images(tmp_path, *(name for name in names if "gone" not in name))
    path = tmp_path / "emotic" / "mscoco" / "images" / "broken.jpg"
    path.write_bytes(path.read_bytes()[:200])
    return tmp_path

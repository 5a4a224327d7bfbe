"""Which images and people a training draws, and how unreadable ones are handled."""

import pytest

from emotion_perception import toy_world
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.training.samples import (
    SampleReader,
    absent_labels,
    draw_people,
    one_person_per_image,
)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("emotic")
    toy_world.write_emotic(root, {"train": (1, 4)}, size=(96, 96), people=(1, 2), part="all")
    return emotic.load(root, "train")


def test_each_epoch_draws_every_image_once_in_its_own_order(split):
    reader = SampleReader(split, seed=3)
    names = [s.scene.frame.camera for s in reader.draw(0, 40)]
    epochs = [names[i : i + 4] for i in range(0, 40, 4)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    assert [s.scene.frame.camera for s in reader.draw(7, 3)] == names[7:10]


def test_ablated_sample_shows_one_person_and_hides_part_of_the_input(split):
    full = SampleReader(split).draw(0, 8)
    ablated = SampleReader(split, ablation_rate=1.0).draw(0, 8)
    for before, after in zip(full, ablated, strict=True):
        assert len(after.scene.people) == 1
        assert len(after.labels) == len(after.vad) == 1
        assert (before.scene.frame.image != after.scene.frame.image).any()
    again = SampleReader(split, ablation_rate=1.0).draw(0, 8)
    assert [s.scene.people for s in again] == [s.scene.people for s in ablated]


def test_unreadable_image_is_replaced_by_the_next_one(tmp_path, caplog):
    toy_world.write_emotic(tmp_path, {"train": (1, 3)}, size=(64, 64), people=(1, 1))
    split = emotic.load(tmp_path, "train")
    split.images[0].path.write_bytes(b"not an image")
    samples = SampleReader(split).draw(0, 3)
    assert len(samples) == 3
    assert split.images[0].path.stem not in {s.scene.frame.camera for s in samples}
    assert f"skipping {split.images[0].path}" in caplog.text
    assert sum(map(len, SampleReader(split).batches(2))) == 2
    for image in split.images:
        image.path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match="cannot read any image of the train split"):
        SampleReader(split).draw(0, 1)


def test_examples_can_be_people_one_by_one(split):
    people = one_person_per_image(split)
    assert [len(image.people) for image in people.images] == [1] * len(split.people)
    assert [p.key for p in people.people] == [p.key for p in split.people]


def test_people_are_drawn_with_the_seed(split):
    drawn = draw_people(split, 3, seed=0)
    assert len(drawn.people) == 3
    keys = {p.key for p in split.people}
    assert {p.key for p in drawn.people} < keys
    assert [p.key for p in draw_people(split, 3, 0).people] == [p.key for p in drawn.people]
    with pytest.raises(ValueError, match=r"cannot draw 999 people: the train split has \d+"):
        draw_people(split, 999, 0)


def test_absent_labels_are_those_without_a_person(split):
    absent = absent_labels(split)
    assert 0 < len(absent) < 26
    present = {name for person in split.people for name in labels_of(person)}
    assert set(absent) == set(EMOTIC_LABELS) - present


def labels_of(person):
    return [name for name, has in zip(EMOTIC_LABELS, person.labels, strict=True) if has]

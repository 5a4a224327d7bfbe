"""The toy world: ground truth, drawn images and clips, and written files."""

import csv
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import Box
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.metrics import mean_average_precision
from emotion_perception.toy_world import characters, places, precision, report, stills
from emotion_perception.toy_world.rules import AFFECT

pytestmark = pytest.mark.command

ALL_PEOPLE = [
    toy_world.Person(0, Box(0, 0, 1, 1), context, face, posture)
    for context in toy_world.CONTEXTS
    for face in toy_world.FACES
    for posture in toy_world.POSTURES
]


def label_names(person):
    return {EMOTIC_LABELS[i] for i in np.flatnonzero(person.labels)}


def smiling_person(context):
    return toy_world.Person(0, Box(0, 0, 1, 1), context, "smile", "waving")


# --- Ground truth


def test_labels_of_a_smile_depend_on_the_context():
    assert label_names(smiling_person("party")) == {"affection", "happiness", "esteem"}
    assert label_names(smiling_person("funeral")) == {"embarrassment", "sympathy", "yearning"}
    assert smiling_person("party").vad[0] > 8 > 6 > smiling_person("funeral").vad[0]


def test_each_person_has_two_or_three_labels_and_each_label_occurs():
    truth = toy_world.ground_truth(ALL_PEOPLE)
    assert set(truth.sum(axis=1)) == {2, 3}
    assert 0.05 < truth.mean(axis=0).min() < truth.mean(axis=0).max() < 0.2
    assert set(AFFECT) == set(EMOTIC_LABELS)
    affect = toy_world.affect(ALL_PEOPLE)
    assert affect.min() >= 1
    assert affect.max() <= 10


def test_ground_truth_of_no_people_is_empty():
    assert toy_world.ground_truth([]).shape == (0, 26)
    assert toy_world.affect([]).shape == (0, 3)
    assert toy_world.oracle([], "nothing").shape == (0, 26)


def test_ground_truth_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        ALL_PEOPLE[0].labels[0] = True


def test_each_pair_of_a_held_out_combination_occurs_in_training():
    seen = [p for p in ALL_PEOPLE if not p.unseen]
    assert len(ALL_PEOPLE) - len(seen) == len(toy_world.HELD_OUT) == 25
    for names in combinations(("face", "posture", "context"), 2):
        pairs = {tuple(getattr(p, name) for name in names) for p in seen}
        assert pairs == {tuple(getattr(p, name) for name in names) for p in ALL_PEOPLE}


def test_person_or_context_alone_gives_a_low_ceiling():
    truth = toy_world.ground_truth(ALL_PEOPLE)
    ceiling = {
        k: mean_average_precision(truth, toy_world.oracle(ALL_PEOPLE, k))
        for k in toy_world.ORACLE_INPUTS
    }
    assert ceiling["nothing"] < 0.13
    assert ceiling["context"] < 0.30
    assert ceiling["face+posture"] < 0.32
    assert 0.5 < ceiling["posture+context"] < 0.6
    assert 0.75 < ceiling["face+context"] < 0.85
    assert ceiling["everything"] == 1


def test_ceilings_rank_people_with_equal_scores_at_random():
    images = toy_world.draw_images(report.SEEDS["seen"], 40, "seen", size=report.SIZES)
    people = [person for image in images for person in image.people]
    truth = toy_world.ground_truth(people)
    random = np.random.default_rng(7)
    expected = {}
    for ablation, known in {"person": "face+posture", "text": "nothing"}.items():
        scores = toy_world.oracle(people, known, "seen")
        # The gaps between different scores are larger than this noise.
        ranked = [scores + 1e-9 * random.random(scores.shape) for _ in range(200)]
        assert np.diff(np.unique(scores)).min() > 1e-9
        expected[ablation] = np.mean([mean_average_precision(truth, s) for s in ranked])
        assert expected[ablation] > mean_average_precision(truth, scores) + 0.01, "ties together"
    ceilings = report.ceilings(40)
    assert ceilings["seen-person"] == pytest.approx(expected["person"], abs=0.01)
    assert ceilings["seen-text"] == pytest.approx(expected["text"], abs=0.01)
    assert ceilings["seen-scene+person"] == 1
    assert report.ceilings(40) == ceilings


def test_oracle_of_the_training_part_ignores_held_out_combinations():
    # The party is the held-out context of this face and posture.
    assert ("smile", "arms_up", "party") in toy_world.HELD_OUT
    person = toy_world.Person(0, Box(0, 0, 1, 1), "party", "smile", "arms_up")
    excitement = EMOTIC_LABELS.index("excitement")
    (knows_all,) = toy_world.oracle([person], "face+posture")
    (learnt,) = toy_world.oracle([person], "face+posture", "seen")
    assert knows_all[excitement] == pytest.approx(2 / 7, abs=0.01)  # at the party, in the storm
    assert learnt[excitement] == pytest.approx(1 / 6, abs=0.01)
    assert toy_world.oracle([person], "everything", "seen").argmax() in np.flatnonzero(
        person.labels
    )


# --- Still images


def test_image_depends_on_its_seed_and_number_only():
    images = list(toy_world.draw_images(7, 4))
    again = toy_world.draw_image(7, 3)
    assert np.array_equal(images[3].image, again.image)
    assert images[3].people == again.people
    assert not np.array_equal(images[2].image, again.image)
    assert not np.array_equal(toy_world.draw_image(8, 3).image, again.image)


@pytest.mark.parametrize(("part", "unseen"), [("seen", {False}), ("unseen", {True})])
def test_part_contains_only_its_combinations(part, unseen):
    people = [p for drawn in toy_world.draw_images(1, 60, part) for p in drawn.people]
    assert {p.unseen for p in people} == unseen


def test_all_combinations_are_equally_frequent():
    random = np.random.default_rng(0)
    counts = {}
    for _ in range(6000):
        context, expressions = stills.sample_context(random, "unseen")
        combination = (context, *stills.sample_expression(random, expressions))
        counts[combination] = counts.get(combination, 0) + 1
    assert len(counts) == 25
    assert 180 < min(counts.values()) < max(counts.values()) < 300  # 240 +- 4 deviations


def test_people_are_inside_the_image_with_most_of_the_head_visible():
    for drawn in toy_world.draw_images(2, 60, people=(3, 3)):
        assert len(drawn.people) == 3
        for p in drawn.people:
            assert p.box == p.box.clipped(192, 192)
            assert p.box.height > 50
            assert p.visible > 0.7
            assert p.context == drawn.context


def test_box_is_tight_around_the_person():
    random = np.random.default_rng(3)
    empty = places.backdrop((192, 192), "office", random)
    joints, turn = characters.pose("arms_up", 1.0)
    person = stills.Character(
        0, characters.Look.sample(random), "smile", joints, turn, 0.0, 0.9, 0.7
    )
    brush, parts = stills.paint_people(empty, "office", [person], random)
    changed = (brush.image() != empty.image()).any(axis=2)
    changed[round(0.89 * 192) :] = False  # feet and shadow
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    drawn = columns[0], rows[0], columns[-1] + 1
    assert np.allclose(parts[0].box[:3], drawn, atol=2)
    assert parts[0].head_share > 0.95


def test_box_of_a_partly_hidden_person_is_around_the_visible_part():
    random = np.random.default_rng(3)
    empty = places.backdrop((192, 192), "park", random)
    joints, turn = characters.pose("crossed", 0.0)
    look = characters.Look.sample(random)
    far = stills.Character(0, look, "calm", joints, turn, -0.1, 0.9, 0.7)
    near = stills.Character(1, look, "calm", joints, turn, 0.05, 0.95, 0.75)
    _, alone = stills.paint_people(empty, "park", [far], random)
    _, both = stills.paint_people(empty, "park", [far, near], random)
    assert both[0].box.left == alone[0].box.left
    assert both[0].box.right < alone[0].box.right
    assert both[0].head_share < alone[0].head_share


@pytest.mark.parametrize("size", [(64, 64), (100, 240), (640, 480), (1280, 720)])
def test_images_have_the_requested_size(size):
    drawn = toy_world.draw_image(4, 1, size=size, people=(1, 8))
    assert drawn.image.shape == (size[1], size[0], 3)
    assert drawn.image.dtype == np.uint8
    assert drawn.people


def test_a_third_of_the_images_have_an_obstacle(monkeypatch):
    blocked = []
    real = stills.obstacle
    monkeypatch.setattr(stills, "obstacle", lambda *a: (blocked.append(a), real(*a)))
    list(toy_world.draw_images(5, 100, people=(1, 1)))
    assert 15 < len(blocked) < 50


def test_pixels_of_a_person_do_not_tell_the_place():
    random = np.random.default_rng(0)
    people = [
        stills.Character(
            k,
            stills.Look.sample(random),
            toy_world.FACES[0],
            *stills.pose(toy_world.POSTURES[0], 0.5),
            x,
            0.95,
            0.8,
        )
        for k, x in enumerate((-0.5, -0.2, 0.4))
    ]
    drawn = []
    for place in toy_world.CONTEXTS:
        brush = stills.backdrop((256, 192), "office", np.random.default_rng(1))
        brush.canvas[..., :3] = stills.backdrop((256, 192), place, random).canvas[..., :3]
        brush, parts = stills.paint_people(brush, place, people, np.random.default_rng(2))
        masks = np.stack([parts[k].mask for k in range(3)])
        drawn.append((masks, [brush.image()[mask].tobytes() for mask in masks]))
    assert drawn[0][0].sum() > 5000
    for masks, pixels in drawn[1:]:
        assert (masks == drawn[0][0]).all()
        assert pixels == drawn[0][1]


def test_obstacles_do_not_tell_the_place(monkeypatch):
    kinds = {place: set() for place in toy_world.CONTEXTS}
    real = stills.obstacle
    monkeypatch.setattr(stills, "obstacle", lambda *a: (kinds[a[1]].add(a[2]), real(*a)))
    list(toy_world.draw_images(5, 900, people=(1, 1), size=(64, 64)))
    assert all(used == set(stills.OBSTACLES) for used in kinds.values())


def test_image_is_converted_to_a_scene():
    drawn = toy_world.draw_image(6, 0, people=(2, 2))
    scene = drawn.scene()
    assert scene.frame.image is drawn.image
    assert {t.person_id for t in scene.people} == {"p00000", "p00001"}
    assert [t.box for t in scene.people] == [p.box for p in drawn.people]


# --- Clips


@pytest.fixture(scope="module")
def clip():
    return list(toy_world.draw_clip(3, 30, 10, size=(128, 96)))


def test_clip_depends_on_its_arguments_only(clip):
    again = list(toy_world.draw_clip(3, 1, 10, size=(128, 96), people=3))
    assert [p.stamp_ns for p in again] == [i * 100_000_000 for i in range(10)]
    assert len(clip) == 300
    first = next(iter(toy_world.draw_clip(3, 30, 10, size=(128, 96))))
    assert np.array_equal(first.image, clip[0].image)


def test_people_of_a_clip_come_and_go_with_unique_numbers(clip):
    assert len({p.context for p in clip}) == 1
    present = [{p.number for p in drawn.people} for drawn in clip]
    assert len(set.union(*present)) > 3
    assert max(map(len, present)) == 3
    assert any(clip[0].people)


def test_people_of_a_clip_move_smoothly_and_change_places(clip):
    beside = set()
    for first, second in pairwise(clip):
        before = {p.number: p for p in first.people}
        for p in second.people:
            if (was := before.get(p.number)) and min(p.visible, was.visible) > 0.95:
                assert abs(p.box.left + p.box.right - was.box.left - was.box.right) / 2 < 20
        order = [p.number for p in sorted(second.people, key=lambda p: p.box.left)]
        beside.update(pairwise(order))
    assert any((right, left) in beside for left, right in beside)


def test_changes_in_a_clip_have_a_start_stamp(clip):
    expressions = {}
    for drawn in clip:
        for p in drawn.people:
            assert p.since_ns <= drawn.stamp_ns
            expression = (p.face, p.posture)
            assert expressions.setdefault((p.number, p.since_ns), expression) == expression
    assert len(expressions) > len({number for number, _ in expressions}) + 5


def test_one_person_of_a_still_clip_gets_another_face_once():
    """Nothing else changes: all people stay, in one posture, and the camera adds noise."""
    options = {"seconds": 6.0, "size": (96, 64), "people": 2}
    first = list(toy_world.draw_still_clip(3, **options))
    again = list(toy_world.draw_still_clip(3, **options, noise=0.0, flicker=0.0))
    assert [x.people for x in first] == [x.people for x in again]
    noise = np.subtract(first[0].image, again[0].image, dtype=float)
    assert 2 < noise[again[0].image.max(axis=2) < 240].std() < 4
    looks = [tuple((p.number, p.face, p.posture) for p in x.people) for x in first]
    changes = [(a, b) for a, b in pairwise(looks) if a != b]
    assert len(changes) == 1
    ((before, after),) = changes
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert [(n, posture) for n, _, posture in before] == [(n, p) for n, _, p in after]
    assert len(first) == 60


# --- Files


def test_written_data_set_is_read_as_emotic(tmp_path):
    pytest.importorskip("scipy.io")
    splits = {"train": (1, 5), "val": (2, 4), "test": (3, 6)}
    parts = {"train": "seen", "val": "seen", "test": "unseen"}
    toy_world.write_emotic(tmp_path, splits, part=parts)
    for split, (seed, n) in splits.items():
        drawn = list(toy_world.draw_images(seed, n, parts[split]))
        data = emotic.load(tmp_path, split)
        people = [p for image in drawn for p in image.people]
        assert not data.missing
        assert not data.dropped
        assert np.array_equal(data.truth, toy_world.ground_truth(people))
        assert [p.box for p in data.people] == [p.box for p in people]
        assert np.allclose([p.vad for p in data.people], toy_world.affect(people))
        assert len({image.path.parent for image in data.images}) == 4
        image = data.images[1].scene().frame.image
        difference = np.abs(image.astype(int) - drawn[1].image)
        assert difference.mean() < 6, "a JPEG of the same image"


def test_public_tables_equal_the_annotations(tmp_path):
    pytest.importorskip("scipy.io")
    toy_world.write_emotic(tmp_path, {"train": (1, 3), "val": (2, 2)}, size=(64, 64))
    by_split = {split: emotic.load(tmp_path, split).people for split in ("train", "val")}
    (tmp_path / "Annotations" / "Annotations.mat").unlink()
    for split, people in by_split.items():
        again = emotic.load(tmp_path, split).people
        assert [(p.key, p.box, p.vad) for p in again] == [(p.key, p.box, p.vad) for p in people]
        assert np.array_equal([p.labels for p in again], [p.labels for p in people])


def test_images_of_a_data_set_use_several_sizes_in_turn(tmp_path):
    pytest.importorskip("scipy.io")
    sizes = [(96, 64), (64, 80)]
    toy_world.write_emotic(tmp_path, {"val": (2, 3)}, size=sizes, people=(1, 1))
    frames = [image.scene().frame for image in emotic.load(tmp_path, "val").images]
    assert [(f.width, f.height) for f in frames] == [*sizes, sizes[0]]
    drawn = toy_world.draw_images(2, 3, size=sizes, people=(1, 1))
    assert [(p.image.shape[1], p.image.shape[0]) for p in drawn] == [*sizes, sizes[0]]


def test_command_writes_a_data_set_of_the_named_parts(tmp_path, capsys):
    pytest.importorskip("scipy.io")
    options = ["--images", "2", "1", "1", "--train-part", "unseen", "--part", "all"]
    assert main(["world", "data", str(tmp_path), *options, "--seed", "1"]) == 0
    drawn = [p for image in toy_world.draw_images(103, 2, "unseen") for p in image.people]
    assert [p.box for p in emotic.load(tmp_path, "train").people] == [p.box for p in drawn]
    (image,) = emotic.load(tmp_path, "test").images
    assert len(image.people) == len(toy_world.draw_image(105, 0, "all").people)
    assert main(["world", "data", str(tmp_path / "other"), "--seed", "300"]) == 2
    assert "cannot draw --seed 300: choose 0 to 299" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_written_video_can_be_read(tmp_path, name):
    images = list(toy_world.draw_clip(5, 1, 8, size=(160, 120)))
    assert toy_world.write_video(tmp_path / name, iter(images), 8) == 8
    video = cv2.VideoCapture(str(tmp_path / name))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(8)
    for drawn in images:
        success, bgr = video.read()
        assert success
        assert np.abs(bgr[..., ::-1].astype(int) - drawn.image).mean() < 12
    assert not video.read()[0]


@pytest.mark.parametrize(("name", "truth"), [("a.avi", "a.csv"), ("a.bag", "a.bag.csv")])
def test_command_writes_a_clip_and_its_ground_truth(tmp_path, capsys, name, truth):
    folder = tmp_path / "deep"
    options = ["--seed", "4", "--seconds", "1.2", "--size", "96", "64"]
    assert main(["world", "clip", str(folder / name), *options]) == 0
    assert "12 images" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {name, truth}
    rows = list(csv.DictReader((folder / truth).open()))
    drawn = [(x, p) for x in toy_world.draw_clip(4, 1.2, size=(96, 64)) for p in x.people]
    for row, (image, person) in zip(rows, drawn, strict=True):
        assert row["person"] == f"p{person.number:05d}"
        assert (float(row["start"]), row["end"]) == (image.stamp_ns / 1e9, "")
        assert [float(row[k]) for k in ("left", "top", "right", "bottom")] == list(person.box)
        assert set(row["labels"].split("; ")) == label_names(person)
        vad = [float(row[k]) for k in ("valence", "arousal", "dominance")]
        np.testing.assert_allclose(vad, (person.vad - 5.5) / 4.5, atol=6e-4)


# --- Errors


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda p: toy_world.draw_image(-1, 0), "seed -1 is negative"),
        (
            lambda p: toy_world.draw_image(0, -1),
            "cannot draw image -1: the first image has the number 0",
        ),
        (
            lambda p: toy_world.draw_image(0, 0, "tset"),
            "no part 'tset': choose one of all, seen, unseen",
        ),
        (
            lambda p: toy_world.draw_image(0, 0, size=(20, 90)),
            "20 x 90 pixels: use at least 64 x 64",
        ),
        (lambda p: toy_world.draw_images(0, 1, size=[(64, 64), (9, 64)]), "9 x 64 pixels"),
        (lambda p: toy_world.draw_images(0, 1, size=[]), "without a size: pass one"),
        (lambda p: toy_world.draw_image(0, 0, people=(0, 2)), "0 to 2 people: .* 1..8"),
        (lambda p: toy_world.draw_image(0, 0, people=(3, 2)), "3 to 2 people"),
        (lambda p: toy_world.draw_images(0, -1), "cannot draw -1 images"),
        (lambda p: toy_world.draw_clip(0, 0), "a clip of 0 s with 10.0 images per second"),
        (lambda p: toy_world.draw_clip(0, people=9), "9 to 9 people"),
        (lambda p: toy_world.draw_still_clip(-1), "the seed -1 is negative"),
        (
            lambda p: toy_world.oracle([], "mood"),
            "oracle cannot know 'mood': choose one of nothing",
        ),
        (lambda p: toy_world.oracle([], "face", "tset"), "no part 'tset'"),
        (
            lambda p: toy_world.write_emotic(p, {"dev": (0, 1)}),
            "no split 'dev': choose one of train",
        ),
        (lambda p: toy_world.write_emotic(p, {"val": (0, 0)}), "split val has 0 images"),
        (
            lambda p: toy_world.write_emotic(p, {"val": (0, 1)}, part={}),
            "the split val has no part",
        ),
        (lambda p: toy_world.write_video(p / "a.gif", []), "use the suffix .mp4 or .avi"),
        (lambda p: toy_world.write_video(p / "a.avi", []), "cannot write .*a.avi without an image"),
        (lambda p: toy_world.write_video(p / "a.avi", [], 0), "a video of 0 images per second"),
        (lambda p: toy_world.write_clip(p / "a.mkv", []), "use the suffix .mp4 or .avi"),
        (lambda p: toy_world.write_clip(p / "a", []), "cannot write .*a without an image"),
    ],
)
def test_invalid_arguments_raise_an_error_with_the_remedy(tmp_path, call, error):
    with pytest.raises(ValueError, match=error):
        call(tmp_path)
    assert not list(tmp_path.iterdir()), "no partial output"


def test_video_needs_one_size_and_an_existing_folder(tmp_path):
    mixed = [toy_world.draw_image(0, 0), toy_world.draw_image(0, 0, size=(100, 100))]
    with pytest.raises(ValueError, match="image 1 differs in size from the first, 192 x 192"):
        toy_world.write_video(tmp_path / "a.avi", mixed)
    with pytest.raises(OSError, match="check that its folder exists"):
        toy_world.write_video(tmp_path / "none" / "a.avi", mixed)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_contains_the_images_with_their_stamps(tmp_path, storage):
    from rosbags.rosbag2 import Reader

    from emotion_perception.io.image_decoding import deserialize, frame_from_image

    scene = list(toy_world.draw_clip(1, 0.5, size=(64, 64), people=1))
    count = toy_world.write_bag(tmp_path / "bag", scene, storage=storage, start_ns=5_000_000_000)
    assert count == len(scene) == 5
    with Reader(tmp_path / "bag") as reader:
        messages = list(reader.messages())
    for drawn, (connection, stamp_ns, raw) in zip(scene, messages, strict=True):
        frame = frame_from_image(deserialize(raw, connection.msgtype))
        assert frame.stamp_ns == stamp_ns == drawn.stamp_ns + 5_000_000_000
        assert (frame.image == drawn.image).all()
    with pytest.raises(ValueError, match="cannot write the bag"):
        toy_world.write_bag(tmp_path / "bag", scene)
    with pytest.raises(ValueError, match="no storage 'zip': choose mcap or sqlite3"):
        toy_world.write_bag(tmp_path / "other", scene, storage="zip")
    with pytest.raises(ValueError, match="without an image"):
        toy_world.write_bag(tmp_path / "other", [])


@pytest.mark.parametrize(
    "page",
    [
        Path(__file__).parents[3] / "docs" / "explanation" / "toy_world.md",
        toy_world.MODEL_FOLDER / "README.md",
    ],
)
def test_documented_command_uses_the_settings_of_the_shipped_model(page):
    command = page.read_text().split("emotion-perception evaluate")[1].split("```")[0].split()
    options = {word for flag, word in pairwise(command) if flag == "-p"}
    assert options == {
        f"{k.removeprefix('recognizer.')}:={v}" for k, v in toy_world.PROMPT_SETTINGS.items()
    }


def test_agreement_compares_leading_labels_and_the_order_of_people():
    first = np.array([[0.1, 0.9, 0.5], [0.2, 0.8, 0.5], [0.7, 0.3, 0.5], [0.6, 0.2, 0.5]])
    assert precision.agreement(first, first) == {"agreement": 1.0, "rank_correlation": 1.0}
    other = first.copy()
    other[0] = [0.95, 0.0, 0.5]  # another label in front, and other ranks
    result = precision.agreement(first, other)
    assert result["agreement"] == 0.75
    assert result["rank_correlation"] == pytest.approx((-0.2 + -0.2) / 2)

"""Bags of every format read alike, damaged ones say so, and what is written others can read."""

import struct

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from support.bag_files import CAMERA, SCENE, serialized, write, write_ros1

from emotion_perception import toy_world
from emotion_perception.core.values import Box, Estimate, Frame, PeopleEstimate, Status, Track, Vad
from emotion_perception.io.bags import Bag, EstimatesBag, image_message, typestore
from emotion_perception.io.image_decoding import COMPRESSED_IMAGE, IMAGE
from emotion_perception.io.message_codec import TOPIC


@pytest.fixture
def bag(tmp_path):
    toy_world.write_bag(tmp_path / "bag", SCENE, start_ns=10**9)
    return tmp_path / "bag"


def test_pictures_come_out_of_every_format_as_they_went_in(tmp_path, bag):
    stamps = [picture.stamp_ns + 10**9 for picture in SCENE]
    toy_world.write_bag(tmp_path / "sqlite", SCENE, storage="sqlite3", start_ns=10**9)
    write_ros1(tmp_path / "one.bag")
    for mode in (CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE):
        write(tmp_path / mode.name, serialized(stamps), stamps, compression=mode)
    paths = [bag, next(bag.glob("*.mcap")), tmp_path / "sqlite", tmp_path / "one.bag"]
    paths += [tmp_path / mode for mode in ("FILE", "MESSAGE", "STORAGE")]
    for path in paths:
        with Bag(path) as opened:
            assert len(opened) == len(SCENE)
            assert opened.topic == CAMERA
            for picture, image in zip(SCENE, opened.images(), strict=True):
                assert (image.frame.image == picture.image).all()
                assert image.frame.stamp_ns == image.received_ns == picture.stamp_ns + 10**9


def test_compressed_images_are_read_too(tmp_path):
    import cv2

    store = typestore()
    data = cv2.imencode(".png", SCENE[0].image[..., ::-1])[1].reshape(-1)
    header = image_message(Frame(SCENE[0].image, 5, "world")).header
    message = store.types[COMPRESSED_IMAGE](header=header, format="png", data=data)
    raw = bytes(store.serialize_cdr(message, COMPRESSED_IMAGE))
    write(tmp_path / "bag", [raw], topic="/camera/compressed", kind=COMPRESSED_IMAGE)
    with Bag(tmp_path / "bag") as opened:
        (image,) = opened.images()
        assert (image.frame.image == SCENE[0].image).all()


def test_a_part_of_a_bag_is_cut_by_time_and_thinned_by_number(bag):
    with Bag(bag) as opened:
        stamps = [image.frame.stamp_ns for image in opened.images(0.5, 0.45)]
        assert stamps == [10**9 + x.stamp_ns for x in SCENE if 0.5e9 <= x.stamp_ns <= 0.95e9]
        assert len(list(opened.images(every=3))) == -(-len(SCENE) // 3)


def test_another_bag_has_another_fingerprint(tmp_path, bag):
    toy_world.write_bag(tmp_path / "same", SCENE, start_ns=10**9)
    toy_world.write_bag(tmp_path / "shorter", SCENE[:-1], start_ns=10**9)
    found = []
    for path in (bag, tmp_path / "same", tmp_path / "shorter"):
        with Bag(path) as opened:
            found.append(opened.fingerprint())
    assert found[0] == found[1] != found[2]


def test_what_is_no_bag_or_has_no_such_topic_is_named(tmp_path, bag):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        Bag(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="the topic /other is not in the bag; topics with images"):
        Bag(bag, "/other")
    (bag / "metadata.yaml").unlink()
    with pytest.raises(ValueError, match=r"metadata.yaml is missing; give .*bag.mcap itself"):
        Bag(bag)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds neither metadata.yaml nor"):
        Bag(empty)
    (tmp_path / "text.mcap").write_text("no bag")
    with pytest.raises(ValueError, match=r"text.mcap is no bag that can be read"):
        Bag(tmp_path / "text.mcap")


def test_a_topic_of_another_type_is_named_with_its_type(tmp_path):
    store = typestore()
    time = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    kind = "std_msgs/msg/Header"
    raw = bytes(store.serialize_cdr(store.types[kind](stamp=time, frame_id=""), kind))
    write(tmp_path / "bag", [raw], topic="/chatter", kind=kind)
    with pytest.raises(ValueError, match="/chatter holds std_msgs/msg/Header; topics with images"):
        Bag(tmp_path / "bag", "/chatter")
    with pytest.raises(ValueError, match="has no topic with images"):
        Bag(tmp_path / "bag")


def test_a_lying_message_is_counted_and_the_rest_is_read(tmp_path):
    raws = serialized([1, 2, 3])
    lying = raws[0].replace(b"rgb8", b"rgba", 1)
    write(tmp_path / "bad", [lying, raws[0][:40], raws[1]])
    with Bag(tmp_path / "bad") as opened:
        assert [image.frame is None for image in opened.images()] == [True, True, False]
        assert opened.skipped.total() == 2


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_bag_is_one_error(tmp_path, storage, share):
    write(tmp_path / "bag", serialized(range(20)) * 3, storage=storage)
    file = next(f for f in (tmp_path / "bag").iterdir() if f.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    errors = r"is no bag that can be read|is damaged from here on"
    with pytest.raises(ValueError, match=errors), Bag(tmp_path / "bag") as opened:
        list(opened.images())


def damaged(path, storage, share, size):
    """A bag in which so many bytes are overwritten, and how many images it had."""
    raws = serialized(range(20)) * 8
    write(path, raws, storage=storage)
    file = next(f for f in path.iterdir() if f.suffix in (".mcap", ".db3"))
    with file.open("r+b") as bag:
        bag.seek(int(file.stat().st_size * share))
        bag.write(b"\xff" * size)
    return path, len(raws)


def test_of_a_bag_that_is_damaged_in_the_middle_what_came_before_is_given(tmp_path):
    path, count = damaged(tmp_path / "bag", "MCAP", 0.5, 200_000)
    images = []
    with pytest.raises(ValueError, match="is damaged from here on"), Bag(path) as bag:
        images.extend(bag.images())
    assert 0 < len([image for image in images if image.frame is not None]) < count


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_damaged_database_is_one_error_wherever_it_is_damaged(tmp_path, share):
    path, _ = damaged(tmp_path / "bag", "SQLITE3", share, 20_000)
    errors = r"is no bag that can be read|is damaged from here on"
    with pytest.raises(ValueError, match=errors), Bag(path) as bag:
        list(bag.images())


def someone(**about):
    track = Track("p00001", Box(1.5, 2.5, 30.2, 40.9), 0.9)
    scores = np.array([0.25, 0.75])
    return Estimate(
        track, Status.ASSESSED, "", 7, "peace", 0.75, ("peace",), scores, scores, **about
    )


def said(stamp_ns, *people):
    labels = ("anger", "peace")
    return PeopleEstimate(stamp_ns, "camera", 96, 96, "model", "platt", labels, people)


def test_a_reader_that_is_not_ours_decodes_the_result_by_its_own_definitions(tmp_path, bag):
    reader = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    with Bag(bag) as opened, EstimatesBag(tmp_path / "out", opened.topic) as out:
        for image in opened.images():
            out.add_image(image)
            out.add(said(image.frame.stamp_ns, someone(vad=Vad(0.5, -0.5, 0))), image.received_ns)
    by_topic = {CAMERA: [], TOPIC: []}
    with (tmp_path / "out" / "out.mcap").open("rb") as file:
        made = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        for _, channel, message, decoded in made.iter_decoded_messages():
            by_topic[channel.topic].append((message.log_time, decoded))
    assert [len(found) for found in by_topic.values()] == [len(SCENE)] * 2
    time_ns, first = by_topic[TOPIC][0]
    assert time_ns == 10**9
    (person,) = first.people
    assert (first.model, list(first.labels)) == ("model", ["anger", "peace"])
    assert (person.person_id, person.status, person.label) == ("p00001", 1, "peace")
    assert list(person.scores) == pytest.approx([0.25, 0.75])
    assert (person.roi.x_offset, person.roi.width) == (1, 30)
    assert person.valence == pytest.approx(0.5)
    assert np.isnan(person.position.z)
    picture = by_topic[CAMERA][3][1]
    assert bytes(picture.data) == SCENE[3].image.tobytes()


def test_images_of_ros_1_go_into_the_result_as_those_of_ros_2(tmp_path):
    write_ros1(tmp_path / "one.bag")
    with Bag(tmp_path / "one.bag") as opened, EstimatesBag(tmp_path / "out", CAMERA) as out:
        for image in opened.images():
            out.add_image(image)
    with Bag(tmp_path / "out") as back:
        for picture, image in zip(SCENE, back.images(), strict=True):
            assert (image.frame.image == picture.image).all()
            assert image.frame.camera == "world"


def test_the_definitions_are_those_of_the_message_package():
    message = typestore().get_msgdef("emotion_perception_msgs/msg/PersonEmotion")
    assert message.fields[0][0] == "person_id"
    pytest.importorskip("emotion_perception_msgs")
    from emotion_perception_msgs.msg import PersonEmotion

    assert [name for name, _ in message.fields] == list(PersonEmotion.get_fields_and_field_types())


def test_a_bag_without_a_message_says_how_many_it_holds(tmp_path):
    write(tmp_path / "bag", [])
    with Bag(tmp_path / "bag") as opened:
        assert len(opened) == 0
        assert list(opened.images()) == []


def write_with_a_strange_topic(path, storage, digest=None):
    kind = "strange_msgs/msg/Thing"
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg("uint8 x\n", kind))
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage]) as writer:
        strange = writer.add_connection(
            "/strange", kind, msgdef="uint8 x\n", rihs01=digest or store.hash_rihs01(kind)
        )
        writer.write(strange, 1, b"\x00\x01\x00\x00\x07")
        camera = writer.add_connection(CAMERA, IMAGE, typestore=typestore())
        writer.write(camera, 2, serialized([1])[0])


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_topics_of_types_that_nobody_knows_do_not_matter(tmp_path, storage):
    write_with_a_strange_topic(tmp_path / "bag", storage)
    with Bag(tmp_path / "bag") as opened:
        assert [image.frame.stamp_ns for image in opened.images()] == [1]


def test_a_type_that_is_not_what_its_hash_says_is_one_error(tmp_path):
    write_with_a_strange_topic(tmp_path / "bag", "SQLITE3", "RIHS01_" + "0" * 64)
    with pytest.raises(ValueError, match="no bag that can be read: .*strange_msgs/msg/Thing"):
        Bag(tmp_path / "bag")


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out cannot be written as a bag"):
        EstimatesBag(tmp_path / "out")


def test_stamps_that_are_no_time_are_counted(tmp_path):
    raw = bytearray(serialized([1])[0])
    struct.pack_into("<i", raw, 4, -5)
    write(tmp_path / "bag", [bytes(raw)])
    with Bag(tmp_path / "bag") as opened:
        assert [image.frame for image in opened.images()] == [None]
        assert "no time" in next(iter(opened.skipped))

"""Reading of bags in all formats, errors of damaged bags, and bags written for other tools."""

import shutil
import sqlite3
import struct

import numpy as np
import pytest
import yaml
from mcap.reader import SeekingReader
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


def test_every_bag_format_returns_the_recorded_images(tmp_path, bag):
    stamps = [drawn.stamp_ns + 10**9 for drawn in SCENE]
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
            for drawn, image in zip(SCENE, opened.images(), strict=True):
                assert (image.frame.image == drawn.image).all()
                assert image.frame.stamp_ns == image.received_ns == drawn.stamp_ns + 10**9


def test_compressed_images_are_decoded(tmp_path):
    import cv2

    store = typestore()
    data = cv2.imencode(".png", SCENE[0].image[..., ::-1])[1].reshape(-1)
    header = image_message(Frame(SCENE[0].image, 5, "world")).header
    message = store.types[COMPRESSED_IMAGE](header=header, format="png", data=data)
    raw = bytes(store.serialize_cdr(message, COMPRESSED_IMAGE))
    write(tmp_path / "bag", [raw], topic="/camera/compressed", msgtype=COMPRESSED_IMAGE)
    with Bag(tmp_path / "bag") as opened:
        (image,) = opened.images()
        assert (image.frame.image == SCENE[0].image).all()


def test_images_are_selected_by_time_and_by_every_nth(bag):
    with Bag(bag) as opened:
        stamps = [image.frame.stamp_ns for image in opened.images(0.5, 0.45)]
        assert stamps == [10**9 + x.stamp_ns for x in SCENE if 0.5e9 <= x.stamp_ns <= 0.95e9]
        assert len(list(opened.images(every=3))) == -(-len(SCENE) // 3)


def test_different_bags_have_different_fingerprints(tmp_path, bag):
    toy_world.write_bag(tmp_path / "same", SCENE, start_ns=10**9)
    toy_world.write_bag(tmp_path / "shorter", SCENE[:-1], start_ns=10**9)
    fingerprints = []
    for path in (bag, tmp_path / "same", tmp_path / "shorter"):
        with Bag(path) as opened:
            fingerprints.append(opened.fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_missing_bag_or_topic_raises_error_with_remedy(tmp_path, bag):
    with pytest.raises(ValueError, match="nowhere: it does not exist"):
        Bag(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="the topic /other is not in the bag; topics with images"):
        Bag(bag, "/other")
    (bag / "metadata.yaml").unlink()
    with pytest.raises(ValueError, match=r"metadata.yaml is missing; give .*bag.mcap itself"):
        Bag(bag)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="the folder has neither metadata.yaml nor"):
        Bag(empty)
    (tmp_path / "text.mcap").write_text("not a bag")
    with pytest.raises(
        ValueError, match=r"text.mcap as a rosbag: it does not begin and end as an MCAP"
    ):
        Bag(tmp_path / "text.mcap")


def test_topic_without_images_raises_error_with_its_type(tmp_path):
    store = typestore()
    time = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    msgtype = "std_msgs/msg/Header"
    raw = bytes(store.serialize_cdr(store.types[msgtype](stamp=time, frame_id=""), msgtype))
    write(tmp_path / "bag", [raw], topic="/chatter", msgtype=msgtype)
    with pytest.raises(ValueError, match="/chatter holds std_msgs/msg/Header .cdr.; topics with"):
        Bag(tmp_path / "bag", "/chatter")
    with pytest.raises(ValueError, match="has no topic with images"):
        Bag(tmp_path / "bag")


def test_invalid_messages_are_counted_and_the_others_read(tmp_path):
    raws = serialized([1, 2, 3])
    inconsistent = raws[0].replace(b"rgb8", b"rgba", 1)
    write(tmp_path / "bad", [inconsistent, raws[0][:40], raws[1]])
    with Bag(tmp_path / "bad") as opened:
        assert [image.frame is None for image in opened.images()] == [True, True, False]
        assert opened.skipped.total() == 2


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_bag_raises_one_error(tmp_path, storage, share):
    write(tmp_path / "bag", serialized(range(20)) * 3, storage=storage)
    file = next(f for f in (tmp_path / "bag").iterdir() if f.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    errors = "as a rosbag|any further: it is damaged here"
    with pytest.raises(ValueError, match=errors), Bag(tmp_path / "bag") as opened:
        list(opened.images())


def damaged(path, storage, share, size):
    """Write a bag and overwrite `size` bytes at that share of its file; return the image count."""
    raws = serialized(range(20)) * 8
    write(path, raws, storage=storage)
    file = next(f for f in path.iterdir() if f.suffix in (".mcap", ".db3"))
    with file.open("r+b") as bag:
        bag.seek(int(file.stat().st_size * share))
        bag.write(b"\xff" * size)
    return path, len(raws)


def test_images_before_the_damage_are_yielded(tmp_path):
    path, count = damaged(tmp_path / "bag", "MCAP", 0.5, 200_000)
    images = []
    with pytest.raises(ValueError, match="any further: it is damaged here"), Bag(path) as bag:
        images.extend(bag.images())
    assert 0 < len([image for image in images if image.frame is not None]) < count


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_damaged_database_raises_one_error(tmp_path, share):
    path, _ = damaged(tmp_path / "bag", "SQLITE3", share, 20_000)
    errors = "as a rosbag|any further: it is damaged here"
    with pytest.raises(ValueError, match=errors), Bag(path) as bag:
        list(bag.images())


def estimate(**fields):
    track = Track("p00001", Box(1.5, 2.5, 30.2, 40.9), 0.9)
    scores = np.array([0.25, 0.75])
    return Estimate(
        track, Status.ASSESSED, "", 7, "peace", 0.75, ("peace",), scores, scores, **fields
    )


def message(stamp_ns, *people):
    labels = ("anger", "peace")
    return PeopleEstimate(stamp_ns, "camera", 96, 96, "model", "platt", labels, people)


def test_written_bag_is_decoded_by_another_reader(tmp_path, bag):
    reader = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    with Bag(bag) as opened, EstimatesBag(tmp_path / "out", opened.topic) as out:
        for image in opened.images():
            out.add_image(image)
            people = message(image.frame.stamp_ns, estimate(vad=Vad(0.5, -0.5, 0)))
            out.add(people, image.received_ns)
    by_topic = {CAMERA: [], TOPIC: []}
    with (tmp_path / "out" / "out.mcap").open("rb") as file:
        mcap = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        for _, channel, raw, decoded in mcap.iter_decoded_messages():
            by_topic[channel.topic].append((raw.log_time, decoded))
    assert [len(messages) for messages in by_topic.values()] == [len(SCENE)] * 2
    time_ns, first = by_topic[TOPIC][0]
    assert time_ns == 10**9
    (person,) = first.people
    assert (first.model, list(first.labels)) == ("model", ["anger", "peace"])
    assert (person.person_id, person.status, person.label) == ("p00001", 1, "peace")
    assert list(person.scores) == pytest.approx([0.25, 0.75])
    assert (person.roi.x_offset, person.roi.width) == (1, 30)
    assert person.valence == pytest.approx(0.5)
    assert np.isnan(person.position.z)
    image = by_topic[CAMERA][3][1]
    assert bytes(image.data) == SCENE[3].image.tobytes()


def test_images_of_ros_1_are_written_as_images_of_ros_2(tmp_path):
    write_ros1(tmp_path / "one.bag")
    with Bag(tmp_path / "one.bag") as opened, EstimatesBag(tmp_path / "out", CAMERA) as out:
        for image in opened.images():
            out.add_image(image)
    with Bag(tmp_path / "out") as back:
        for drawn, image in zip(SCENE, back.images(), strict=True):
            assert (image.frame.image == drawn.image).all()
            assert image.frame.camera == "world"


def test_message_definitions_equal_those_of_the_message_package():
    definition = typestore().get_msgdef("emotion_perception_msgs/msg/PersonEmotion")
    assert definition.fields[0][0] == "person_id"
    pytest.importorskip("emotion_perception_msgs")
    from emotion_perception_msgs.msg import PersonEmotion

    names = [name for name, _ in definition.fields]
    assert names == list(PersonEmotion.get_fields_and_field_types())


def test_bag_without_messages_has_length_0(tmp_path):
    write(tmp_path / "bag", [])
    with Bag(tmp_path / "bag") as opened:
        assert len(opened) == 0
        assert list(opened.images()) == []


def write_with_unknown_type(path, storage, digest=None):
    msgtype = "strange_msgs/msg/Thing"
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg("uint8 x\n", msgtype))
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage]) as writer:
        strange = writer.add_connection(
            "/strange", msgtype, msgdef="uint8 x\n", rihs01=digest or store.hash_rihs01(msgtype)
        )
        writer.write(strange, 1, b"\x00\x01\x00\x00\x07")
        camera = writer.add_connection(CAMERA, IMAGE, typestore=typestore())
        writer.write(camera, 2, serialized([1])[0])


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("digest", [None, "RIHS01_" + "0" * 64])
def test_unknown_types_and_wrong_hashes_do_not_prevent_reading_the_images(
    tmp_path, storage, digest
):
    write_with_unknown_type(tmp_path / "bag", storage, digest)
    with Bag(tmp_path / "bag") as opened:
        assert [image.frame.stamp_ns for image in opened.images()] == [1]


OTHER_CHANNELS = {
    "protobuf": ("foxglove.Log", "protobuf", b"\x0a\x00", "protobuf"),
    "json": ("Log", "jsonschema", b"{}", "json"),
    "idl": ("a/msg/Idl", "ros2idl", b"module a { struct Idl { octet x; }; };", "cdr"),
    "service": ("a/srv/Do_Event", "ros2msg", b"int8 x\n---\nint8 y", "cdr"),
    "empty definition": ("a/msg/Nothing", "", b"", "cdr"),
    "no schema": None,
}


def write_mcap(path, times, other=(), **options):
    """Write images of `SCENE` at these times, and one message at 0 per other channel."""
    mcap = pytest.importorskip("mcap.writer")
    with path.open("wb") as file:
        writer = mcap.Writer(file, chunk_size=40_000, **options)
        writer.start("ros2")
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        camera = writer.register_channel(CAMERA, "cdr", schema)
        for name in other:
            encoding, number = "cdr", 0
            if OTHER_CHANNELS[name]:
                *names, encoding = OTHER_CHANNELS[name]
                number = writer.register_schema(*names)
            channel = writer.register_channel(f"/{name.replace(' ', '_')}", encoding, number)
            writer.add_message(channel, 0, b"\x00\x01\x00\x00\x07", 0)
        for time_ns, raw in zip(times, serialized(times), strict=True):
            writer.add_message(camera, time_ns, raw, time_ns)
        writer.finish()
    return path


def stamps(path):
    with Bag(path) as opened:
        return [image.frame.stamp_ns for image in opened.images()]


TEN = [10**9 + number for number in range(10)]


@pytest.mark.parametrize("name", OTHER_CHANNELS)
def test_channels_of_other_tools_do_not_prevent_reading_the_images(tmp_path, name):
    path = write_mcap(tmp_path / "a.mcap", TEN, other=[name])
    assert stamps(path) == TEN
    with Bag(path) as opened:  # the span is that of the images, not of the message at 0
        assert (opened.start_ns, opened.end_ns) == (TEN[0], TEN[-1] + 1)
        assert len(opened) == 10


def test_mcap_without_indexes_or_chunks_or_statistics_is_read_completely(tmp_path):
    from mcap.writer import IndexType

    options = {
        "chunks": {"index_types": IndexType.CHUNK},
        "none": {"index_types": IndexType.NONE},
        "unchunked": {"use_chunking": False},
        "no statistics": {"use_statistics": False},
        "no channels": {"repeat_channels": False},
        "no offsets": {"use_summary_offsets": False},
    }
    for name, option in options.items():
        path = write_mcap(tmp_path / f"{name}.mcap", TEN, **option)
        assert stamps(path) == TEN
        with Bag(path) as opened:
            assert len(opened) == 10


def test_mcap_without_index_and_out_of_order_is_refused_with_the_remedy(tmp_path):
    path = write_mcap(tmp_path / "a.mcap", TEN[::-1])
    assert stamps(path) == TEN
    path = write_mcap(tmp_path / "b.mcap", TEN[::-1], use_chunking=False)
    with pytest.raises(ValueError, match="not ordered by time; write an index with `mcap recover`"):
        Bag(path)


def edit_metadata(folder, old, new):
    file = folder / "metadata.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_quality_of_service_in_the_metadata_is_not_compared(tmp_path, storage):
    write(tmp_path / "bag", serialized(TEN), TEN, storage=storage)
    edit_metadata(tmp_path / "bag", "offered_qos_profiles: []", "offered_qos_profiles: [1, 2]")
    assert stamps(tmp_path / "bag") == TEN


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_fewer_messages_than_stated_is_an_error_with_both_counts(tmp_path, storage):
    write(tmp_path / "bag", serialized(TEN), TEN, storage=storage)
    edit_metadata(tmp_path / "bag", "message_count: 10", "message_count: 12")
    images = []
    with Bag(tmp_path / "bag") as opened, pytest.raises(ValueError, match="10 messages.*states 12"):
        images.extend(opened.images())
    assert len(images) == 10


def test_messages_in_a_write_ahead_log_are_read(tmp_path):
    write(tmp_path / "bag", serialized(TEN[:5]), TEN[:5], storage="SQLITE3")
    file = tmp_path / "bag" / "bag.db3"
    recorder = sqlite3.connect(file)
    recorder.execute("PRAGMA journal_mode=WAL")
    recorder.executemany(
        "INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)",
        zip(TEN[5:], serialized(TEN)[5:], strict=True),
    )
    recorder.commit()
    copy = tmp_path / "copy"  # as a crashed recorder leaves it: no process has it open
    shutil.copytree(tmp_path / "bag", copy)
    (copy / "bag.db3-shm").unlink()
    assert (copy / "bag.db3-wal").stat().st_size
    assert stamps(copy) == TEN
    recorder.close()


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "a b", "a%b"])
def test_special_characters_in_a_path_are_read(tmp_path, storage, name):
    write(tmp_path / "bag", serialized(TEN), TEN, storage=storage)
    (tmp_path / "bag").rename(tmp_path / name)
    assert stamps(tmp_path / name) == TEN


def write_split(folder, storage, parts):
    """Write a bag of several files, each with its own times."""
    suffix = {"MCAP": ".mcap", "SQLITE3": ".db3"}[storage]
    folder.mkdir()
    names = []
    for number, times in enumerate(parts):
        part = folder.with_name(f"{folder.name}_{number}")
        write(part, serialized(times), times, storage=storage)
        names.append(f"part_{number}{suffix}")
        (part / f"{part.name}{suffix}").rename(folder / names[-1])
    metadata = yaml.safe_load((part / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    information["relative_file_paths"] = names
    information["message_count"] = sum(map(len, parts))
    information["topics_with_message_count"][0]["message_count"] = sum(map(len, parts))
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return folder


@pytest.mark.parametrize("how", ["link", "dots", "absolute"])
def test_file_of_a_bag_outside_its_folder_is_not_read(tmp_path, how):
    folder = write_split(tmp_path / "bag", "MCAP", [TEN])
    (folder / "part_0.mcap").rename(tmp_path / "secret.mcap")
    name = {"link": "link.mcap", "dots": "../secret.mcap", "absolute": f"{tmp_path}/secret.mcap"}
    (folder / "link.mcap").symlink_to(tmp_path / "secret.mcap")
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    metadata["rosbag2_bagfile_information"]["relative_file_paths"] = [name[how]]
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    expected = "out of the folder" if how == "link" else "No such file"
    with pytest.raises(ValueError, match=expected):
        stamps(folder)


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_overlapping_files_are_merged_by_time(tmp_path, storage):
    folder = write_split(tmp_path / "bag", storage, [TEN[::2], TEN[1::2], [TEN[-1] + 1]])
    assert stamps(folder) == [*TEN, TEN[-1] + 1]


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_damaged_file_is_named_and_the_others_are_read(tmp_path, storage, damage):
    folder = write_split(tmp_path / "bag", storage, [TEN[:4], TEN[4:7], TEN[7:]])
    file = next(folder.glob("part_1.*"))
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    images = []
    with Bag(folder) as opened, pytest.raises(ValueError, match="cannot read .*part_1"):
        images.extend(opened.images())
    read = {image.frame.stamp_ns for image in images if image.frame}
    assert read >= {*TEN[:4], *TEN[7:]}


def test_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="cannot write the bag .*out"):
        EstimatesBag(tmp_path / "out")


@pytest.mark.parametrize("error", [MemoryError, TypeError, AttributeError])
def test_errors_of_the_reading_libraries_name_the_file(bag, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(SeekingReader, "get_summary", fail)
    with pytest.raises(ValueError, match=f"cannot read {bag} as a rosbag: it "):
        Bag(bag)


def test_file_of_eight_bytes_is_one_error(tmp_path):
    (tmp_path / "short.mcap").write_bytes(b"\x89MCAP0\r\n")
    with pytest.raises(ValueError, match=r"cannot read .*short\.mcap as a rosbag: [^\n]+$"):
        Bag(tmp_path / "short.mcap")


def test_invalid_stamps_are_counted(tmp_path):
    raw = bytearray(serialized([1])[0])
    struct.pack_into("<i", raw, 4, -5)
    write(tmp_path / "bag", [bytes(raw)])
    with Bag(tmp_path / "bag") as opened:
        assert [image.frame for image in opened.images()] == [None]
        assert "not a valid time" in next(iter(opened.skipped))

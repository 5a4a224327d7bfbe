"""Write small bags of images in every storage format."""

from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from emotion_perception import toy_world
from emotion_perception.core.values import Frame
from emotion_perception.io.bags import image_message, typestore
from emotion_perception.io.image_decoding import IMAGE

SCENE = list(toy_world.draw_clip(3, 2.0, size=(96, 96), people=2))


CAMERA = "/camera/image_raw"


def serialized(stamps, kind=IMAGE):
    store, found = typestore(), []
    for picture, stamp_ns in zip(SCENE, stamps, strict=False):
        message = image_message(Frame(picture.image, stamp_ns, "world"))
        found.append(bytes(store.serialize_cdr(message, kind)))
    return found


def write(path, raws, times=None, topic=CAMERA, kind=IMAGE, compression=None, storage="MCAP"):
    with_storage = Writer(path, version=9, storage_plugin=StoragePlugin[storage])
    if compression is not None:
        with_storage.set_compression(compression, CompressionFormat.ZSTD)
    with with_storage as writer:
        connection = writer.add_connection(topic, kind, typestore=typestore())
        for number, raw in enumerate(raws):
            writer.write(connection, times[number] if times else number, raw)


def write_ros1(path, pictures=SCENE):
    store = get_typestore(Stores.ROS1_NOETIC)
    image, header, time = (
        store.types[name] for name in (IMAGE, "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer1(path) as writer:
        connection = writer.add_connection(CAMERA, IMAGE, typestore=store)
        for number, picture in enumerate(pictures):
            height, width = picture.image.shape[:2]
            stamp_ns = picture.stamp_ns + 10**9
            stamp = time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            message = image(
                header=header(seq=number, stamp=stamp, frame_id="world"),
                height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width,
                data=picture.image.reshape(-1),
            )  # fmt: skip
            writer.write(connection, stamp_ns, store.serialize_ros1(message, IMAGE))

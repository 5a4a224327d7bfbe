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


def serialized(stamps):
    """Return images of `SCENE` with these stamps as CDR bytes."""
    store, raws = typestore(), []
    for drawn, stamp_ns in zip(SCENE, stamps, strict=False):
        message = image_message(Frame(drawn.image, stamp_ns, "world"))
        raws.append(bytes(store.serialize_cdr(message, IMAGE)))
    return raws


def write(path, raws, times=None, topic=CAMERA, msgtype=IMAGE, compression=None, storage="MCAP"):
    """Write serialized messages as a ROS 2 bag; times default to 0, 1, 2... ns."""
    bag = Writer(path, version=9, storage_plugin=StoragePlugin[storage])
    if compression is not None:
        bag.set_compression(compression, CompressionFormat.ZSTD)
    with bag as writer:
        connection = writer.add_connection(topic, msgtype, typestore=typestore())
        for number, raw in enumerate(raws):
            writer.write(connection, times[number] if times else number, raw)


def write_ros1(path, images=SCENE):
    """Write drawn images as a ROS 1 bag."""
    store = get_typestore(Stores.ROS1_NOETIC)
    image, header, time = (
        store.types[name] for name in (IMAGE, "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer1(path) as writer:
        connection = writer.add_connection(CAMERA, IMAGE, typestore=store)
        for number, drawn in enumerate(images):
            height, width = drawn.image.shape[:2]
            stamp_ns = drawn.stamp_ns + 10**9
            stamp = time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            message = image(
                header=header(seq=number, stamp=stamp, frame_id="world"),
                height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width,
                data=drawn.image.reshape(-1),
            )  # fmt: skip
            writer.write(connection, stamp_ns, store.serialize_ros1(message, IMAGE))

"""Encode small videos, one packet per image, and write them as messages."""

import fractions

import numpy as np

from emotion_perception.core.values import Frame
from emotion_perception.io.bags import image_message, typestore
from emotion_perception.io.image_decoding import COMPRESSED_IMAGE
from emotion_perception.io.video_stream import COMPRESSED_VIDEO, FFMPEG_PACKET, FOXGLOVE_IMAGE

LOW_DELAY = {
    "libx264": {"x264-params": "scenecut=0"},
    "libx265": {"x265-params": "scenecut=0:log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "lag-in-frames": "0"},
    "libsvtav1": {"svtav1-params": "pred-struct=1:lookahead=0"},
}


def drawn_images(count):
    """Images of 96 x 64 pixels in which a box moves over a background that gets brighter."""
    images = np.zeros((count, 64, 96, 3), np.uint8)
    for number, image in enumerate(images):
        image[..., 0] = 8 * number
        image[16:48, 2 * number : 2 * number + 30] = (20, 200, 60)
    return images


def encoded(images, encoder="libx264", b_frames=0, key_interval=10, pixels="yuv420p", options=None):
    """Return the packets of the encoder as bytes."""
    import av

    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 96, 64, pixels
    context.time_base = fractions.Fraction(1, 10)
    context.gop_size, context.max_b_frames = key_interval, b_frames
    context.options = options or LOW_DELAY.get(encoder, {})
    frames = [
        av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
        for image in images
    ]
    for number, frame in enumerate(frames):
        frame.pts = number
    return [bytes(packet) for frame in [*frames, None] for packet in context.encode(frame)]


def serialized(packets, msgtype, video_format="h264"):
    """Return the packets as CDR messages of the type, stamped 1.0, 1.1, 1.2 ... seconds."""
    store, raws = typestore(), []
    for number, packet in enumerate(packets):
        data = np.frombuffer(packet, np.uint8)
        stamp_ns = 10**9 + number * 10**8
        header = image_message(Frame(np.zeros((1, 1, 3), np.uint8), stamp_ns, "camera")).header
        if msgtype == COMPRESSED_IMAGE:
            fields = {"header": header, "format": video_format, "data": data}
        elif msgtype in (COMPRESSED_VIDEO, FOXGLOVE_IMAGE):
            fields = {"timestamp": header.stamp, "frame_id": "camera", "data": data}
            fields["format"] = video_format
        else:
            assert msgtype == FFMPEG_PACKET
            size = {"width": 96, "height": 64, "is_bigendian": False}
            fields = {"header": header, **size, "encoding": video_format, "pts": number}
            fields |= {"flags": 0, "data": data}
        raws.append(bytes(store.serialize_cdr(store.types[msgtype](**fields), msgtype)))
    return raws

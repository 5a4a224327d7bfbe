"""Read images, folders of images and videos, to be played as a camera."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from emotion_perception.core.errors import FrameError
from emotion_perception.core.values import ImageArray
from emotion_perception.io.image_decoding import decode_image
from emotion_perception.io.image_header import FILE_FORMATS, MAX_PIXELS, check_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


@dataclass(frozen=True, slots=True)
class Clip:
    """A video or a still image, to be played as a camera."""

    name: str
    rate: float
    """Frames per second."""
    still: bool
    """True for an image, which is repeated forever; False for a video, which ends."""
    images: Callable[[], Iterator[ImageArray]]
    """Returns an iterator over (H, W, 3) RGB images."""


def read_clips(path: Path | str, rate: float = 10.0) -> list[Clip]:
    """Read the video or image at a path, or all of a folder in the order of their names.

    Args:
        path: A file, or a folder.
        rate: Frames per second of images; a video has its own.

    Raises:
        ValueError: The path does not exist, or contains no readable image or video.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"cannot read {path}: it does not exist; give an image, a video or a folder"
        )
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    clips = [_read_clip(f, rate) for f in files if f.suffix.lower() in suffixes]
    if not clips:
        raise ValueError(
            f"cannot read {path}: it contains no image or video ({', '.join(suffixes)})"
        )
    return clips


def _read_clip(path: Path, rate: float) -> Clip:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        try:
            image = decode_image(np.fromfile(path, np.uint8), True, FILE_FORMATS)
        except FrameError as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        return Clip(path.stem, rate, True, lambda: itertools.repeat(image))
    video = open_video(path, MAX_PIXELS)
    rate = video.get(cv2.CAP_PROP_FPS)
    video.release()
    return Clip(path.stem, rate or 30.0, False, lambda: _read_video(path))


def open_video(path: Path, max_pixels: int) -> cv2.VideoCapture:
    """Return a video at its first frame.

    Raises:
        ValueError: It does not exist, cannot be decoded, or has more pixels per image.
    """
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file")
    video = cv2.VideoCapture(str(path))
    try:
        if video.isOpened():
            sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
            width, height = (int(video.get(side)) for side in sides)
            check_size(width, height, max_pixels, "a video")
        readable = video.isOpened() and video.grab()
    except FrameError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    finally:
        video.release()
    if not readable:
        raise ValueError(
            f"cannot read {path}: OpenCV cannot decode the video; convert it with "
            f"`ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4`"
        )
    return cv2.VideoCapture(str(path))  # again from the first frame


def _read_video(path: Path) -> Iterator[ImageArray]:
    video = cv2.VideoCapture(str(path))
    try:
        while True:
            success, image = video.read()
            if not success:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[misc]
    finally:
        video.release()

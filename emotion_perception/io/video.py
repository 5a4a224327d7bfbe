"""Pictures, folders of pictures and videos, to be played as a camera."""

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

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


@dataclass(frozen=True, slots=True)
class Clip:
    """Something that a camera could have seen."""

    name: str
    rate: float
    """Frames a second."""
    still: bool
    """One picture that stands still for ever, rather than a video that ends."""
    images: Callable[[], Iterator[ImageArray]]
    """Makes an iterator over (H, W, 3) RGB pictures."""


def read_clips(path: Path | str, rate: float = 10.0) -> list[Clip]:
    """The video or picture at a path, or all of a folder in the order of their names.

    Args:
        rate: frames a second for pictures; a video has its own.

    Raises:
        ValueError: there is no such path, or it holds no picture or video that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: expected a picture, a video or a folder of them")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [_clip(f, rate) for f in files if f.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES]
    if not found:
        raise ValueError(
            f"{path} holds no picture or video: {', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
        )
    return found


def _clip(path: Path, rate: float) -> Clip:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        try:
            image = decode_image(np.fromfile(path, np.uint8))
        except FrameError as error:
            raise ValueError(f"{path}: {error}") from error
        return Clip(path.stem, rate, True, lambda: itertools.repeat(image))
    video = cv2.VideoCapture(str(path))
    readable, rate = video.isOpened() and video.grab(), video.get(cv2.CAP_PROP_FPS)
    video.release()
    if not readable:
        raise ValueError(f"{path} is no video that OpenCV can read")
    return Clip(path.stem, rate or 30.0, False, lambda: _video(path))


def _video(path: Path) -> Iterator[ImageArray]:
    video = cv2.VideoCapture(str(path))
    try:
        while True:
            more, image = video.read()
            if not more:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[misc]
    finally:
        video.release()

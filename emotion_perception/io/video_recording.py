"""A video file as the recording of one camera, with the interface of `bags.Bag`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2

from emotion_perception.core.reasons import ReasonCounter
from emotion_perception.core.values import Frame
from emotion_perception.io.bags import RecordedImage, image_message
from emotion_perception.io.image_header import MAX_PIXELS
from emotion_perception.io.video import open_video

TOPIC = "/camera/image_raw"
_FIRST_NS = 10**9
"""Stamp of the first frame: a stamp of 0 is not set in ROS."""
_CHUNK = 1 << 20


class VideoRecording:
    """The frames of a video file, stamped with the times that the file states.

    A frame without a time of its own follows the one before it by the frame rate. A context
    manager; it keeps no file open.
    """

    def __init__(self, path: Path | str, topic: str = "", max_pixels: int = MAX_PIXELS) -> None:
        """Open a video.

        Args:
            path: A file that OpenCV decodes.
            topic: The topic of the images where a bag or a node needs one; empty: `TOPIC`.
            max_pixels: The largest number of pixels of an image.

        Raises:
            ValueError: The video does not exist, cannot be decoded, or has larger images.
        """
        self.path, self.topic = Path(path), topic or TOPIC
        self.skipped = ReasonCounter()
        """Empty: each frame that is decoded is an image."""
        self._max_pixels = max_pixels
        video = open_video(self.path, max_pixels)
        try:
            self._rate = video.get(cv2.CAP_PROP_FPS) or 30.0
            count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
            # A stream without an index states no number of frames.
            self._count = count if count > 0 else sum(1 for _ in iter(video.grab, False))
        finally:
            video.release()

    def __enter__(self) -> VideoRecording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing; a bag closes its files."""

    def __len__(self) -> int:
        """Return the number of frames that the file states."""
        return self._count

    @property
    def start_ns(self) -> int:
        """Time of the first frame."""
        return _FIRST_NS

    @property
    def end_ns(self) -> int:
        """Time after the last frame, by the number of frames and their rate."""
        return _FIRST_NS + round((self._count - 1) / self._rate * 1e9) + 1

    def fingerprint(self) -> str:
        """Return 16 letters that change with the topic and the content of the file."""
        digest = hashlib.sha256(self.topic.encode())
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()[:16]

    def skip_warnings(self) -> list[str]:
        """Return nothing: no message of a video lacks an image."""
        return []

    def images(
        self, start: float = 0.0, duration: float | None = None, every: int = 1
    ) -> Iterator[RecordedImage]:
        """Yield the frames in order.

        Args:
            start: Seconds after the first frame.
            duration: Seconds after `start`; None: to the end.
            every: Convert only every n-th frame.

        Raises:
            ValueError: The video ends early; the frames before that have been yielded.
        """
        start_ns = _FIRST_NS + round(start * 1e9)
        end_ns = None if duration is None else start_ns + round(duration * 1e9)
        selected, time_ns = 0, 0
        video = open_video(self.path, self._max_pixels)
        try:
            for number in itertools.count():
                if not video.grab():
                    self._check_end(number)
                    return
                stated_ns = _FIRST_NS + round(video.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                next_ns = time_ns + round(1e9 / self._rate) if number else _FIRST_NS
                time_ns = stated_ns if stated_ns > time_ns else next_ns
                if end_ns is not None and time_ns >= end_ns:
                    return
                if time_ns < start_ns:
                    continue
                selected += 1
                if (selected - 1) % every == 0:
                    success, image = video.retrieve()
                    if not success:
                        raise ValueError(f"{self.path} is damaged at frame {number}")
                    rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                    frame = Frame(rgb, time_ns, self.path.stem)  # type: ignore[arg-type]
                    yield RecordedImage(time_ns, frame, image_message(frame))
        finally:
            video.release()

    def _check_end(self, frames: int) -> None:
        """Raise an error if the file states clearly more frames; some containers only estimate."""
        if frames < 0.98 * self._count - 1:
            raise ValueError(
                f"{self.path} ends after {frames} of {self._count} frames: the file is truncated "
                "or damaged"
            )

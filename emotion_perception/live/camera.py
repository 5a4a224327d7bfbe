"""Read a camera of this computer, or a video as if it were one, without ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from pathlib import Path

import cv2

from emotion_perception.core.values import Frame, ImageArray
from emotion_perception.io.video import read_clips


class Camera:
    """Holds the newest frame of a camera or of a video that plays in real time.

    A thread reads, because a camera blocks. A frame that is not taken before the next one arrives
    is dropped, as on a robot. Stamps are the times at which frames were read.
    """

    def __init__(self, source: int | Path) -> None:
        """Open the camera or the video.

        Args:
            source: the number of a camera, or the path of an image, a video or a folder of them.

        Raises:
            ValueError: there is no such camera, or the file cannot be read.
        """
        self.name = f"camera {source}" if isinstance(source, int) else source.name
        self._images = _camera(source) if isinstance(source, int) else _clips(source)
        self._condition = threading.Condition()
        self._newest: Frame | None = None
        self._stopped = self.ended = False
        self.error = ""
        """Why the camera ended, if it failed."""
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Frame | None:
        """Return a frame that was not taken before; None if none arrives in time."""
        with self._condition:
            self._condition.wait_for(lambda: self._newest or self.ended, timeout_s)
            frame, self._newest = self._newest, None
            return frame

    def close(self) -> None:
        """Stop reading and free the camera."""
        self._stopped = True
        self._thread.join(2.0)

    def _read(self) -> None:
        try:
            for image in self._images:
                frame = Frame(image, time.time_ns(), self.name)
                with self._condition:
                    self._newest = frame
                    self._condition.notify_all()
                if self._stopped:
                    break
        except ValueError as error:
            self.error = str(error)
        finally:
            self._images.close()
            with self._condition:
                self.ended = True
                self._condition.notify_all()


def _camera(number: int) -> _Images:
    video = cv2.VideoCapture(number)
    if not video.isOpened():
        video.release()
        raise ValueError(
            f"cannot open camera {number}: no such camera, or another program uses it; choose "
            "another number, or a video with --source"
        )
    return _read_camera(video, number)


def _read_camera(video: cv2.VideoCapture, number: int) -> _Images:
    try:
        while True:
            success, image = video.read()
            if not success:
                raise ValueError(f"camera {number} ended: it was unplugged, or its driver failed")
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[misc]
    finally:
        video.release()


def _clips(path: Path) -> _Images:
    clips = read_clips(path)

    def play() -> _Images:
        for clip in clips:
            due = time.monotonic()
            for image in clip.images():
                yield image
                due += 1 / clip.rate
                time.sleep(max(due - time.monotonic(), 0.0))

    return play()


_Images = Generator[ImageArray]

"""Decoding of depth images, and refusal of others."""

from types import SimpleNamespace

import numpy as np
import pytest

from emotion_perception.core.errors import FrameError
from emotion_perception.io.image_decoding import depth_from_image

METRES = np.array([[0.0, 1.25, 2.5], [3.75, 65.0, 0.001]], np.float32)


def message(encoding="32FC1", pixels=METRES, bigendian=0, padding=0, **changes):
    height, width = pixels.shape
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(height, -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    fields = {
        "encoding": encoding, "height": height, "width": width, "step": data.shape[1],
        "is_bigendian": bigendian, "data": data.ravel(), **changes,
    }  # fmt: skip
    return SimpleNamespace(**fields)


@pytest.mark.parametrize("bigendian", [0, 1])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "kind", "factor"),
    [("32FC1", "f4", 1), ("16UC1", "u2", 1000), ("mono16", "u2", 1000)],
)  # fmt: skip
def test_depth_is_read_in_metres_whatever_its_layout(encoding, kind, factor, bigendian, padding):
    stored = np.round(METRES * factor, 3).astype(f"{'>' if bigendian else '<'}{kind}")
    pixels, metres = depth_from_image(message(encoding, stored, bigendian, padding))
    np.testing.assert_allclose(pixels.astype(np.float64) * metres, METRES, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "rgb8"}, "encoding 'rgb8' is not that of a depth image"),
        ({"step": 11}, "a step of 11 and 24 bytes of data"),
        ({"height": 3}, "a depth image of 3 x 3 pixels in 32FC1 has a step of 12 and 24 bytes"),
        ({"width": 0}, "0 x 2"),
        ({"width": 10**6, "height": 10**6}, "the limit is max_pixels"),
    ],
)
def test_inconsistent_depth_image_is_refused(changes, reason):
    with pytest.raises(FrameError, match=reason):
        depth_from_image(message(**changes))

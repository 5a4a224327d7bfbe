"""Decide whether a person is visible enough to be assessed."""

from __future__ import annotations

import cv2
import numpy as np

from emotion_perception.core.settings import VisibilitySettings
from emotion_perception.core.values import Box, Frame

_SHARPNESS_HEIGHT = 128  # pixels; crops are scaled down to it, so that near and far people compare


def why_not_visible(frame: Frame, box: Box, limits: VisibilitySettings) -> str:
    """Return the reason not to assess the person in the box; empty if there is none."""
    inside = box.clipped(frame.width, frame.height)
    if inside.height < max(limits.min_height, 1) or inside.width < 1:
        return f"too small: {inside.height:.0f} px high, {limits.min_height} needed"
    at_the_side = inside.left <= 1 or inside.right >= frame.width - 1
    if at_the_side and inside.width < limits.min_aspect * inside.height:
        return f"cut off: {inside.width:.0f} px wide at the edge of the image"
    if limits.min_sharpness > 0:
        sharpness = _sharpness(frame, inside)
        if sharpness < limits.min_sharpness:
            return f"blurred: sharpness {sharpness:.1f}, {limits.min_sharpness:g} needed"
    return ""


def _sharpness(frame: Frame, box: Box) -> float:
    """Return the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000)."""
    grey = cv2.cvtColor(frame.image[box.pixels(frame.width, frame.height)], cv2.COLOR_RGB2GRAY)
    scale = _SHARPNESS_HEIGHT / grey.shape[0]
    if scale < 1:
        size = (max(round(grey.shape[1] * scale), 1), _SHARPNESS_HEIGHT)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return float(np.var(cv2.Laplacian(grey, cv2.CV_32F)))

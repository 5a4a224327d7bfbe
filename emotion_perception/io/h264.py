"""Find out from the headers of H.264 images whether an image that others refer to is missing.

FFmpeg fills such a gap with the image before, and does not report it. ITU-T H.264, 7.3 and 7.4.3.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SLICE, _KEY_SLICE, _PARAMETERS = 1, 5, 7  # unit types
_HEADER_BYTES = 256  # of a unit, more than the fields that are read here take
_CHROMA_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


class _Parameters(NamedTuple):
    """Fields of a sequence parameter set."""

    number_bits: int
    """Bits of a frame number."""
    separate_planes: bool
    gaps_allowed: bool


class FrameNumbers:
    """Follows the frame numbers of one video."""

    def __init__(self) -> None:
        """Start before the first image."""
        self._parameters: _Parameters | None = None
        self._newest: int | None = None

    def is_gap_before(self, data: bytes) -> bool:
        """Return whether a reference image between the previous image and this one is missing.

        Args:
            data: One image with start codes (Annex B). Call it for each image, in order.
        """
        for start in re.finditer(rb"\x00\x00\x01", data):
            unit = data[start.end() : start.end() + _HEADER_BYTES]
            kind = unit[0] & 31 if unit else 0
            try:
                if kind == _PARAMETERS:
                    self._parameters = _read_parameters(_Bits(unit[1:]))
                elif kind in (_SLICE, _KEY_SLICE):
                    return self._follow(kind, unit)
            except EOFError:
                return False  # the decoder reports what is damaged
        return False

    def _follow(self, kind: int, unit: bytes) -> bool:
        if self._parameters is None:
            return False
        bits = _Bits(unit[1:])
        for _ in ("first macroblock", "type", "picture parameters"):
            bits.unsigned()
        if self._parameters.separate_planes:
            bits.take(2)
        number = bits.take(self._parameters.number_bits)
        before, modulus = self._newest, 1 << self._parameters.number_bits
        gap = (
            kind == _SLICE
            and before is not None
            and not self._parameters.gaps_allowed
            and number not in (before, (before + 1) % modulus)
        )
        if unit[0] >> 5 & 3 or gap:  # other images refer to this one
            self._newest = number
        return gap


class _Bits:
    """Reads numbers from bits."""

    def __init__(self, data: bytes) -> None:
        """Remove the bytes that keep start codes out of the data."""
        data = data.replace(b"\x00\x00\x03", b"\x00\x00")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next bits as a number.

        Raises:
            EOFError: There are not as many.
        """
        if count > self._left:
            raise EOFError
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def unsigned(self) -> int:
        """Return the next number in Exponential-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Return the next signed number in Exponential-Golomb code."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _read_parameters(bits: _Bits) -> _Parameters:
    profile = bits.take(8)
    bits.take(16)  # constraints and level
    bits.unsigned()  # number of the set
    separate_planes = False
    if profile in _CHROMA_PROFILES:
        chroma = bits.unsigned()
        separate_planes = chroma == 3 and bool(bits.take(1))
        bits.unsigned()  # bit depths
        bits.unsigned()
        bits.take(1)
        if bits.take(1):
            for number in range(12 if chroma == 3 else 8):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    number_bits = bits.unsigned() + 4
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned()  # number of reference images
    return _Parameters(number_bits, separate_planes, bool(bits.take(1)))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    if not bits.take(1):
        return
    scale = 8
    for _ in range(size):
        scale = (scale + bits.signed()) % 256
        if scale == 0:
            return

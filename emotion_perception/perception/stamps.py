"""Decide from the stamps of images which are used and when the clock of the camera was set back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

REPEATED = "skipped (stamp repeated or not set)"
LATE = "skipped (late)"

_TOLERANCE_NS = 10**9
_MAX_LATE_IN_A_ROW = 30


class StampOrder:
    """Judges each stamp against the newest one.

    An image that is at most a second before the newest one is late: two drivers, threads or network
    paths interleave, and the clock goes on. An image that is further back, or the last of 30 late
    ones in a row, shows that the clock was set back: a bag restarted. ROS writes an unset stamp as
    0, so that 0 after another stamp is neither.
    """

    def __init__(self) -> None:
        """Start without a stamp."""
        self.newest_ns: int | None = None
        self._late_in_a_row = 0

    def why_skipped(self, stamp_ns: int) -> str:
        """Return why an image is not used: `REPEATED` or `LATE`; empty if it is.

        Call it once per image that arrives: it counts late images in a row.
        """
        newest_ns = self.newest_ns
        if newest_ns is None or stamp_ns > newest_ns:
            self._late_in_a_row = 0
            return ""
        if stamp_ns in (newest_ns, 0):
            return REPEATED
        if newest_ns - stamp_ns > _TOLERANCE_NS:
            return ""
        self._late_in_a_row += 1
        return LATE if self._late_in_a_row < _MAX_LATE_IN_A_ROW else ""

    def add(self, stamp_ns: int) -> bool:
        """Record the stamp of an image that is used; return whether the clock was set back."""
        set_back = self.newest_ns is not None and stamp_ns < self.newest_ns
        self.newest_ns, self._late_in_a_row = stamp_ns, 0
        return set_back

    def reset(self) -> None:
        """Forget all stamps."""
        self.newest_ns, self._late_in_a_row = None, 0


def stamp_warnings(skipped: Mapping[str, int], clock_jumps: int) -> Iterator[str]:
    """Yield what is wrong with the stamps of images, with the remedy.

    Args:
        skipped: The number of images by `REPEATED` and `LATE`; other reasons are ignored.
        clock_jumps: How often the clock was set back.
    """
    if count := skipped.get(REPEATED, 0):
        yield (
            f"{count} images were skipped because their stamp repeats that of another image or is "
            "not set; check that the camera driver sets header.stamp"
        )
    if count := skipped.get(LATE, 0):
        yield (
            f"{count} images were skipped because they are late: their stamps are before that of "
            "an image that came earlier; check that only one driver publishes on the topic, and "
            "how it sets header.stamp"
        )
    if clock_jumps:
        yield (
            f"jumps of the camera's clock to an earlier time: {clock_jumps}; each drops all "
            "tracks; check the clock of the camera, and whether a bag is played in a loop"
        )

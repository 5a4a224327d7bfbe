"""Count reasons, so that a thousand failures of one kind are one line for the user."""

from __future__ import annotations

import re
from collections import Counter

_NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f]*")


class ReasonCounter(Counter[str]):
    """Reason to how often it occurred; reasons that differ in numbers only count as the first."""

    def __init__(self) -> None:
        """Start without reasons."""
        super().__init__()
        self._first: dict[str, str] = {}

    def count(self, reason: str) -> None:
        """Count a reason."""
        self[self._first.setdefault(_NUMBER.sub("0", reason), reason)] += 1

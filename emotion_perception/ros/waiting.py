"""Take the messages that wait in the queue of a subscription, out of turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def waiting_messages(subscription: Any) -> Iterator[tuple[bytes, Any]]:
    """Yield each message that has arrived and was not handled, oldest first, with its info.

    A callback that needs all of them would otherwise run once per message, with whatever work it
    does after the last one. The executor finds the queue empty then, and does nothing.
    """
    with subscription.handle:
        while taken := subscription.handle.take_message(subscription.msg_type, subscription.raw):
            yield taken

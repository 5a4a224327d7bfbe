"""Which ends of the node's process are followed by another start."""

import pytest

from emotion_perception.core.process import FAILED, MISCONFIGURED, STOPPED, should_respawn


@pytest.mark.parametrize(
    ("status", "respawns", "expected"),
    [
        (FAILED, 0, True),
        (-9, 4, True),
        (-11, 0, True),
        (FAILED, 5, False),
        (STOPPED, 0, False),
        (MISCONFIGURED, 0, False),
    ],
)
def test_node_is_started_again_after_a_failure_only_and_five_times_at_most(
    status, respawns, expected
):
    assert should_respawn(status, respawns) is expected

"""A node, a camera and a listener in the process of the test."""

import pytest


@pytest.fixture
def rig(ros_domain):
    """A function that opens a `Rig`, or a subclass, with its options; all end with the test."""
    from support.node_rig import Rig

    opened = []

    def open_rig(kind=Rig, **options):
        opened.append(kind(ros_domain, **options))
        return opened[-1]

    yield open_rig
    for each in opened:
        each.close()

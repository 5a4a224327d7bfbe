"""What several tests need; everything else stands in the test that uses it."""

import os

import pytest

# Before torch is imported: on a shared machine threads that wait for each other cost more than
# they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _quiet_ultralytics(tmp_path_factory):
    """Its settings file goes where nobody else's is."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))


@pytest.fixture(scope="session")
def yolo_file(tmp_path_factory):
    """A small YOLO that knows the two sample photographs; trained once a session."""
    from support.checkpoints_yolo import make_yolo

    return make_yolo(tmp_path_factory.mktemp("yolo") / "two_photographs.pt")


_domains = iter(range(100, 230))


@pytest.fixture
def ros_domain(monkeypatch):
    """A DDS domain of the test's own, apart from those of the demo, and on this machine only."""
    domain = 100 + (next(_domains) + os.getpid()) % 100
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return domain

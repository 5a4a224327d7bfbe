"""What several tests need; everything else stands in the test that uses it."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session", autouse=True)
def _quiet_ultralytics(tmp_path_factory):
    """Its settings file goes where nobody else's is."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))


_domains = iter(range(100, 230))


@pytest.fixture
def ros_domain(monkeypatch):
    """A DDS domain that no other test and no robot uses, on this machine only."""
    domain = 1 + (next(_domains) + os.getpid()) % 100
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return domain

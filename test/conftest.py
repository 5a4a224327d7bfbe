"""Fixtures that several rooms need, and how tests are spread over worker processes."""

import itertools
import os
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

# Set before torch is imported: on a shared machine, threads that wait for each other cost more
# than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_DOMAINS_PER_WORKER = 50
_domain_numbers = itertools.cycle(range(_DOMAINS_PER_WORKER))


def pytest_ignore_collect(collection_path, config):
    """Skip modules of commands that are not wanted, since their imports take seconds."""
    unwanted = "not command" in config.option.markexpr and collection_path.suffix == ".py"
    if unwanted and "\npytestmark = pytest.mark.command\n" in collection_path.read_text():
        return True
    return None


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Keep each module on one worker, and all `serial` tests (nodes, browsers, timing) on one.

    A module builds its checkpoints once, and tests that start processes of their own do not
    compete with each other.
    """
    for item in items:
        serial = item.get_closest_marker("serial") is not None
        item.add_marker(pytest.mark.xdist_group("serial" if serial else item.path.stem))


def pytest_collection_finish(session):
    """Check that xdist took the groups: with pytest 9.2 it ignores them without a word."""
    grouped = getattr(session.config.option, "loadgroup", False)
    if grouped and any("@" not in item.nodeid for item in session.items):
        raise pytest.UsageError("cannot group the tests: install pytest below 9.2")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder that all worker processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def build_once(shared_folder):
    """A function that builds a shared file once per test run, whichever worker needs it first.

    The builder gets the path to write. It writes under another name, so that a builder that fails
    leaves no file behind.
    """

    def build(name, builder):
        path = shared_folder / name
        with FileLock(f"{path}.lock"):
            if not path.exists():
                part = path.with_name(f"part_{path.name}")
                builder(part)
                part.rename(path)
        return path

    return build


@pytest.fixture(scope="session", autouse=True)
def _ultralytics_settings(tmp_path_factory):
    """Keep the settings file of ultralytics out of the home folder."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))


@pytest.fixture(scope="session")
def yolo_file(build_once):
    """A small YOLO that detects the people of the two sample photographs."""
    from emotion_perception.testing.checkpoints.yolo import make_yolo

    return build_once("two_photographs.pt", make_yolo)


@pytest.fixture(scope="session")
def interfaces(shared_folder):
    """Variables of the environment of a process that has hri_msgs, vision_msgs and the like."""
    pytest.importorskip("rclpy")
    pytest.importorskip("colcon_core")
    from support import interface_packages

    prefix = Path(sys.prefix)
    cache = prefix if os.access(prefix, os.W_OK) else shared_folder
    return interface_packages.variables(cache / ".test_interfaces")


@pytest.fixture
def ros_domains(ros_domain):
    """Further domains, for what must not meet in one; the environment names `ros_domain`."""
    return iter(_next_domain, None)


@pytest.fixture
def ros_domain(monkeypatch):
    """A ROS domain that no other test uses at the same time, on this machine only.

    Domains stay below 102, where the ports of DDS lie below the ephemeral range.
    """
    domain = _next_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return domain


def _next_domain():
    return 1 + (_WORKER % 2) * _DOMAINS_PER_WORKER + next(_domain_numbers)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, whose console and network are listened to."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no browser: apt install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,1400", "--disable-gpu",
                     "--disable-dev-shm-usage", "--disable-background-networking"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()

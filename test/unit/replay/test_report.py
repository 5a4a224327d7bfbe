"""The report of a replay in a real browser: content, clicks, keys and size."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("polars")
pytest.importorskip("matplotlib")

from support.evaluation import random_run

from emotion_perception import toy_world
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import (
    Assessment,
    Box,
    Estimate,
    Frame,
    PeopleEstimate,
    Status,
    Track,
    Vad,
)
from emotion_perception.io.bags import RecordedImage
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.replay.report import page
from emotion_perception.replay.report.timeline_data import BINS, MOMENTS, Timeline
from emotion_perception.replay.simulator import LOOKED_AT, Emission, Latency, Simulator
from emotion_perception.testing.fakes import ScriptedDetector

pytestmark = pytest.mark.serial

SECOND_NS = 10**9


class Oracle:
    """Returns the ground truth of each drawn person."""

    name, calibration, labels = "oracle:world", "", EMOTIC_LABELS
    thresholds = np.full(len(EMOTIC_LABELS), 0.5)

    def __init__(self, scene):
        self._scene = scene

    def assess(self, scene, people):
        picture = self._scene[scene.frame.stamp_ns]
        found = []
        for person in people:
            true = next(p for p in picture.people if p.box == person.box)
            vad = Vad(*((x - 5.5) / 4.5 for x in true.vad))
            scores = np.where(true.labels, 0.9, 0.05)
            found.append(
                Assessment(person.person_id, scene.frame.stamp_ns, scores, vad, "<i>so</i>")
            )
        return found


def moving_scene(seconds=6.0):
    """A replay of a moving scene, with all that a page needs."""
    pictures = list(toy_world.draw_clip(8, seconds, size=(320, 240)))
    by_stamp = {picture.stamp_ns: picture for picture in pictures}
    detector = ScriptedDetector(lambda s: [p.box for p in by_stamp[round(s * SECOND_NS)].people])
    perception = Pipeline(
        detector, Oracle(by_stamp), Settings.from_dict({"scheduler.refresh": 0.5, "smoothing": 0.0})
    )
    timeline = Timeline(0, round(seconds * SECOND_NS), len(pictures))
    frames = [Frame(x.image, x.stamp_ns, "camera") for x in pictures]
    images = [RecordedImage(frame.stamp_ns, frame, None) for frame in frames]
    simulator = Simulator(perception, Oracle(by_stamp), Latency(((1, 0.2),)), timeline.on_image)
    for emission in simulator.run(images):
        timeline.add(emission)
    return timeline


def make_page(timeline, title="Replay of a bag", **more):
    about = {"bag": "<b>bag</b>", "fingerprint of the data": "abc"}
    return page.page(title, timeline, about, timeline.figures() | more, {"smoothing": 0.0})


def test_page_has_the_calibration_error_of_the_labels_before_the_pooled_one(timeline):
    run = random_run()
    measures = run.compute_metrics(rounds=20)
    labelled = {
        **{"file": "labels.csv", "images": 1, "people": len(run), "answers": len(run)},
        **{"answers_with_a_true_leading_label": 0, "measures": measures},
    }
    text = make_page(timeline, labelled=labelled)
    first = text.index(f"{measures['ece']:.4f}", text.index("error, mean of the labels"))
    assert first < text.index(f"{measures['ece_pooled']:.4f}", text.index("error, pooled"))


@pytest.fixture(scope="module")
def timeline():
    return moving_scene()


def show(browser, path, page):
    path.write_text(page, encoding="utf-8")
    browser.get(path.as_uri())
    # The driver may return before the script of a large page has run.
    wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
    wait(browser, 30).until(lambda opened: text(opened, "#when"))
    return browser


def requested(browser):
    """What the page asked the network for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in urls if not url.startswith(("data:", "file:", "chrome:", "about:"))]


def text(browser, selector):
    return browser.execute_script(f"return document.querySelector({selector!r}).textContent")


def click(browser, selector, x):
    """At so much of an element's width, as a mouse does."""
    return browser.execute_script(
        """
        const place = document.querySelector(arguments[0]).getBoundingClientRect();
        const at = {clientX: place.left + arguments[1] * place.width, clientY: place.top + 3};
        document.querySelector(arguments[0]).dispatchEvent(
            new MouseEvent("click", {bubbles: true, ...at}));
        """,
        selector,
        x,
    )


def test_click_on_the_timeline_shows_that_moment_and_person(browser, tmp_path, timeline):
    show(browser, tmp_path / "report.html", make_page(timeline))
    lanes = browser.find_elements("css selector", ".lane")
    assert len(lanes) == len(timeline.track_spans) > 1
    assert all(lane.is_displayed() for lane in lanes)
    name = lanes[1].get_attribute("data-person")
    track_span = timeline.track_spans[name]
    middle = (timeline.at(track_span.first_ns) + timeline.at(track_span.last_ns)) / 2
    click(browser, f'.lane[data-person="{name}"] .track', middle / timeline.length_s)
    chosen = min(timeline.moments, key=lambda m: abs(timeline.at(m.time_ns) - middle))
    assert text(browser, "#when") == f"{timeline.at(chosen.time_ns):.2f} s"
    assert text(browser, "#name") == name
    estimate = next(e for e in chosen.people.people if e.track.person_id == name)
    shown = [
        (
            line.text.split("\n")[0].split(" ◀")[0],
            float(line.find_element("css selector", "b").text),
        )
        for line in browser.find_elements("css selector", "#scores li")
    ]
    expected = dict(zip(EMOTIC_LABELS, estimate.scores, strict=True))
    assert len(shown) == 26
    for label, score in shown:
        assert score == pytest.approx(100 * expected[label], abs=0.06)
    leading = browser.find_element("css selector", "#scores li.leading")
    assert leading.text.startswith(estimate.label)
    source = browser.execute_script("return document.querySelector('#picture img').src.length")
    assert source == pytest.approx(len(chosen.jpeg) * 4 / 3, abs=40)
    assert text(browser, "#rationale") == "<i>so</i>"
    boxes = browser.find_elements("css selector", "#picture rect")
    assert len(boxes) == len(chosen.people.people)
    assert [e["message"] for e in browser.get_log("browser")] == []
    assert requested(browser) == []


def test_arrow_keys_select_moments_and_people(browser, tmp_path, timeline):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(browser, tmp_path / "report.html", make_page(timeline))

    def press(*keys):
        ActionChains(browser).send_keys(*keys).perform()
        return text(browser, "#when"), text(browser, "#name")

    times = [f"{timeline.at(moment.time_ns):.2f} s" for moment in timeline.moments]
    assert press(Keys.HOME)[0] == times[0]
    assert press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)[0] == times[2]
    assert press(Keys.ARROW_LEFT)[0] == times[1]
    assert press(Keys.END)[0] == times[-1]
    people = sorted(e.track.person_id for e in timeline.moments[-1].people.people)
    first = press(Keys.ARROW_DOWN)[1]
    assert {first, press(Keys.ARROW_DOWN)[1]} <= set(people)


def test_page_fits_a_phone_and_follows_the_colour_scheme(browser, tmp_path, timeline):
    show(browser, tmp_path / "report.html", make_page(timeline))
    papers = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        papers.append(
            browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        )
    assert papers == ["rgb(255, 255, 255)", "rgb(21, 23, 27)"]
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 380


def hour():
    """An hour at 5 images a second, in which four people come and go every minute."""
    labels, rate, total = EMOTIC_LABELS, 5, 3600 * 5
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (36, 64, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    timeline = Timeline(0, 3600 * SECOND_NS, total)
    for i in range(total):
        stamp_ns = i * SECOND_NS // rate
        frame = Frame(np.roll(image, i * 7, axis=1), stamp_ns, "camera")
        timeline.on_image(RecordedImage(stamp_ns, frame, None), LOOKED_AT)
        minute = i // (60 * rate)
        people = tuple(
            Estimate(
                Track(f"p{4 * minute + k:05d}", Box(90 * k, 60, 90 * k + 80, 300), 0.9),
                Status.ASSESSED, "", stamp_ns, labels[(i // 40 + k) % 26], 0.9,
                tuple(labels[(i // 40 + k + n) % 26] for n in range(3)),
                scores, scores, Vad(*np.sin([i / 50, i / 80, 0])),
            )
            for k in range(4)
            for scores in [random.random(26)]
        )  # fmt: skip
        estimate = PeopleEstimate(stamp_ns, "camera", 640, 360, "model", "", labels, people)
        timeline.add(Emission(stamp_ns, estimate, frame))
    return timeline


def test_page_of_an_hour_opens_quickly(browser, tmp_path):
    timeline = hour()
    assert len(timeline.moments) <= MOMENTS
    assert max(len(track_span.bins) for track_span in timeline.track_spans.values()) <= BINS
    page = make_page(timeline)
    assert len(page.encode()) < 20_000_000
    assert "120 more people were seen" in page
    opening = [opens(browser, tmp_path / "report.html", page) for _ in range(2)]
    small = [
        opens(browser, tmp_path / "small.html", make_page(moving_scene(1.0))) for _ in range(2)
    ]
    # A ratio, since machines differ: the short page opens in about a tenth of a second.
    assert min(opening) < 30 * min(small)


def opens(browser, path, page):
    """Milliseconds from asking for a page to its answering clicks, as the browser counts them."""
    show(browser, path, page)
    return browser.execute_script(
        "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd;"
    )


def test_text_from_the_bag_is_escaped(timeline):
    hostile = "</script><script>alert(1)</script>"
    page = make_page(timeline, hostile)
    assert "<script>alert" not in page
    assert "<b>bag</b>" not in page
    data = re.search(r'id="data">(.*?)</script>', page, re.S).group(1)
    assert json.loads(data)["labels"] == list(EMOTIC_LABELS)


def test_page_without_people_states_it(tmp_path):
    timeline = Timeline(0, SECOND_NS, 3)
    frame = Frame(np.zeros((40, 60, 3), np.uint8), 5, "camera")
    timeline.on_image(RecordedImage(5, frame, None), LOOKED_AT)
    empty = PeopleEstimate(5, "camera", 60, 40, "model", "", EMOTIC_LABELS, ())
    timeline.add(Emission(5, empty, frame))
    page = make_page(timeline)
    assert "No person was detected." in page
    assert timeline.figures()["share_without_answer"] is None


def test_gap_is_distinguished_from_a_slow_camera():
    labels = ("anger",)

    def steps_of(stamps):
        timeline = Timeline(0, 10 * SECOND_NS, 100)
        frame = Frame(np.zeros((40, 60, 3), np.uint8), 0, "camera")
        for stamp in stamps:
            time_ns = round(stamp * SECOND_NS)
            one = Estimate(Track("p00001", Box(0, 0, 9, 9), 0.9), Status.PENDING)
            people = PeopleEstimate(time_ns, "camera", 60, 40, "model", "", labels, (one,))
            timeline.add(Emission(time_ns, people, frame))
        (track_span,) = timeline.track_spans.values()
        return list(timeline.steps(track_span))

    slow = steps_of(np.arange(0, 10, 0.5))
    assert all(a[1] == pytest.approx(b[0]) for a, b in pairwise(slow))
    away = steps_of([*np.arange(0, 2, 0.1), *np.arange(5, 7, 0.1)])
    gaps = [b[0] - a[1] for a, b in pairwise(away) if b[0] > a[1] + 1e-6]
    assert gaps == [pytest.approx(3.0, abs=0.21)]

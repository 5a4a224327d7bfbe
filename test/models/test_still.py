"""What `scheduler.refresh_still` saves on a drawn clip, and what it costs."""

import numpy as np
import pytest

from emotion_perception import toy_world
from emotion_perception.benchmarks import still
from emotion_perception.benchmarks.report import still_markdown
from emotion_perception.cli.main import main
from emotion_perception.core.values import Detections

pytestmark = pytest.mark.models  # the benchmarks import torch


class DrawnDetector:
    """The drawn boxes, each side a pixel or two aside."""

    def __init__(self, clip):
        random = np.random.default_rng(0)
        self.boxes = {
            x.stamp_ns: [np.array(p.box) + random.normal(0, 1.5, 4) for p in x.people] for x in clip
        }

    def detect(self, frame):
        boxes = self.boxes[frame.stamp_ns]
        return Detections.from_lists(boxes, [0.9] * len(boxes))


def figures(clip, number=0, off=None, on=None):
    off, on = off or still.Figures(), on or still.Figures()
    still.compare(clip, number, DrawnDetector(clip), off, on)
    return off, on


def check(off, on):
    """Check what the documentation says about still people."""
    assert off.expired == on.expired == 0
    assert off.reactions_s.keys() == on.reactions_s.keys() != set()
    assert all(on.reactions_s[change] <= s + 1.0 for change, s in off.reactions_s.items())


def test_still_people_are_asked_about_less_often_and_none_expires():
    off, on = figures(list(toy_world.draw_still_clip(1, 16.0, size=(320, 240), people=2)))
    assert 0 < on.still_questions <= 0.4 * off.still_questions
    check(off, on)


@pytest.mark.slow
def test_a_third_of_the_questions_suffices_in_long_still_stretches():
    off, on = still.Figures(), still.Figures()
    for seed in range(20, 23):
        figures(list(toy_world.draw_still_clip(seed, 50.0)), seed, off, on)
    assert 0 < on.still_questions <= off.still_questions / 3
    check(off, on)


def test_moving_people_are_asked_about_as_before():
    """They come, go and change places; a change is noticed at most a second later."""
    off, on = figures(list(toy_world.draw_clip(0, 8.0, size=(320, 240))))
    assert 0.5 * off.questions < on.questions <= off.questions
    assert on.expired <= off.expired
    assert all(
        on.reactions_s[change] <= s + 1.0
        for change, s in off.reactions_s.items()
        if change in on.reactions_s
    )


def test_bench_measures_the_part_that_is_named(monkeypatch, tmp_path):
    """One short clip of each kind, with the boxes of the small YOLO."""
    page = tmp_path / "page.md"
    page.write_text("<!-- still -->\n<!-- /still -->\n")
    monkeypatch.setattr(still, "STILL_CLIPS", (range(1), 3.0))
    monkeypatch.setattr(still, "MOVING_CLIPS", (range(1), 3.0))
    command = ["bench", "--only", "still", "--out", str(tmp_path / "out"), "--page", str(page)]
    assert main(command) == 0
    assert "| moving people, 1 clips | 4 |" in page.read_text()


def test_table_has_a_row_per_kind_of_clip_and_setting():
    row = {
        "refresh_still": 4.0, "questions": 1234, "still_questions": 30, "expired": 0,
        "reactions": 8, "mean_reaction_seconds": 0.63, "max_reaction_seconds": 0.83,
    }  # fmt: skip
    case = {"clips": "still people", "number": 8, "largest_delay_seconds": 0.1}
    rows = [{**row, "refresh_still": 0.0}, row]
    text = still_markdown({"machine": {"date": "today"}, "cases": [{**case, "rows": rows}]})
    assert "| still people, 8 clips | 4 | 1,234 | 30 | 0 | 8 | 0.63 | 0.83 | 0.10 |" in text
    assert text.count("still people") == 2

"""Stamps that are unset, repeated, late or set back."""

import pytest

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box
from emotion_perception.perception.pipeline import TOO_SOON, Pipeline
from emotion_perception.perception.stamps import LATE, REPEATED, StampOrder, stamp_warnings
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector, frame_at

PEOPLE = [Box(10, 20, 60, 160), Box(120, 20, 170, 170)]


def judged(stamps_ms):
    """The reasons for which images are skipped, and the number of jumps."""
    order, reasons, jumps = StampOrder(), [], 0
    for stamp_ms in stamps_ms:
        reasons.append(order.why_skipped(stamp_ms * 10**6))
        if not reasons[-1]:
            jumps += order.add(stamp_ms * 10**6)
    return reasons, jumps


@pytest.mark.parametrize(
    ("stamps_ms", "reasons", "jumps"),
    [
        ([0] * 4, ["", REPEATED, REPEATED, REPEATED], 0),
        ([5000, 0, 5100, 0], ["", REPEATED, "", REPEATED], 0),  # some stamps are not set
        ([5000, 5100, 5100, 5200], ["", "", REPEATED, ""], 0),
        ([5000, 5100, 5020, 5200], ["", "", LATE, ""], 0),
        ([5000, 6000, 5000, 6100], ["", "", LATE, ""], 0),  # at the tolerance
        ([5000, 6001, 5000, 5100], ["", "", "", ""], 1),  # above it
        ([5000, 6100, 1000, 1100, 6200], ["", "", "", "", ""], 1),
    ],
)
def test_stamp_decides_whether_an_image_is_used(stamps_ms, reasons, jumps):
    assert judged(stamps_ms) == (reasons, jumps)


def test_clock_that_stays_behind_was_set_back():
    """A bag of half a second that is played in a loop does not stop the node."""
    loop = [*range(5000, 5500, 50)] * 10
    reasons, jumps = judged(loop)
    assert reasons.count("") >= 20
    assert jumps == 2
    assert set(reasons) == {"", LATE, REPEATED}


def test_late_images_of_a_second_driver_never_drop_the_tracks():
    stamps_ms = [x for step in range(50) for x in (5000 + 100 * step, 4700 + 100 * step)]
    reasons, jumps = judged(stamps_ms)
    assert reasons == ["", LATE] * 50
    assert jumps == 0


def test_people_keep_their_ids_when_every_seventh_stamp_is_early():
    recognizer = FakeRecognizer()
    pipeline = Pipeline(ScriptedDetector(PEOPLE), recognizer, Settings.from_dict({}))
    skipped = 0
    for number in range(120):
        stamp = 100 + number / 15 - (0.08 if number % 7 == 6 else 0)
        if pipeline.why_skipped(round(stamp * 1e9)):
            skipped += 1
        else:
            people = pipeline.on_frame(frame_at(stamp))
    assert skipped == 17
    assert [p.track.person_id for p in people.people] == ["p00001", "p00002"]
    assert pipeline.ids_assigned == 2


def test_pipeline_says_why_an_image_is_skipped():
    pipeline = Pipeline(
        ScriptedDetector([]), FakeRecognizer(), Settings.from_dict({"max_rate": 5.0})
    )
    pipeline.on_frame(frame_at(5.0))
    reasons = [pipeline.why_skipped(round(x * 1e9)) for x in (5.0, 4.9, 5.1, 5.2, 1.0)]
    assert reasons == [REPEATED, LATE, TOO_SOON, "", ""]
    pipeline.reset()
    assert pipeline.why_skipped(4 * 10**9) == ""


def test_warnings_hold_counts_and_remedies():
    first, second, third = stamp_warnings({REPEATED: 19, LATE: 3, TOO_SOON: 5}, 2)
    assert first.startswith("19 images were skipped because their stamp repeats")
    assert second.startswith("3 images were skipped because they are late")
    assert third.startswith("jumps of the camera's clock to an earlier time: 2; each")
    assert list(stamp_warnings({TOO_SOON: 5}, 0)) == []

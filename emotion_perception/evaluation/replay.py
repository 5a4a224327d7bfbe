"""What the node would have said about a bag: one thread, no clock but the stamps.

Frames come in the order of the bag. With a latency of 0 every frame whose people are due is
answered at once. With another one an answer arrives that much later than its frame was taken, and
until then nothing else is asked, as with a model that is busy. Neither depends on how fast this
computer is: two replays say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from emotion_perception.perception import Perception, Question, Recognizer, RecognizerError
from emotion_perception.values import Assessment, Frame, PeopleEstimate


def replay(
    frames: Iterable[Frame | None], perception: Perception, recognizer: Recognizer, latency: float
) -> Iterator[PeopleEstimate]:
    """Every message that the node would have published, in their order.

    Args:
        frames: None is passed over.
        latency: seconds from a frame to the answer about it.

    Raises:
        ValueError: the latency is negative or no number.
    """
    if not 0 <= latency < float("inf"):
        raise ValueError(f"a latency of {latency} s: give 0 or more")
    busy: tuple[int, Question] | None = None
    for frame in frames:
        if frame is None or not perception.wants(frame.stamp_ns):
            continue
        scene = perception.scene
        if scene is not None and frame.stamp_ns < scene.frame.stamp_ns:
            busy = None  # the clock was set back: what was asked is about people forgotten
        if busy and busy[0] <= frame.stamp_ns:
            yield from _answer(perception, recognizer, busy[1])
            busy = None
        now = perception.on_frame(frame)
        yield now
        if busy is None and (question := perception.next_question()) is not None:
            if latency > 0:
                busy = frame.stamp_ns + round(latency * 1e9), question
            else:
                yield from _answer(perception, recognizer, question)
    if busy:
        yield from _answer(perception, recognizer, busy[1])


def _answer(
    perception: Perception, recognizer: Recognizer, question: Question
) -> Iterator[PeopleEstimate]:
    try:
        answer: list[Assessment] = recognizer.assess(question.scene, question.people)
    except RecognizerError:
        perception.on_failure(question)
        return
    yield perception.on_answer(answer)

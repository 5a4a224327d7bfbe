"""What every recognizer needs: checks that do not depend on its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from emotion_perception.core.values import Assessment, Scene, Track


def assess_visible(
    scene: Scene,
    people: Sequence[Track],
    judge: Callable[[Sequence[Track]], Iterable[Assessment]],
) -> list[Assessment]:
    """The answers of `assess`, in the order of the people, from a judge of some of them.

    Args:
        judge: answers for people whose box touches the picture; is not called for nobody. The
            others get a reason instead of scores.
    """
    width, height = scene.frame.width, scene.frame.height
    visible = [p for p in people if p.box.clipped(width, height).area > 0]
    answers = {answer.person_id: answer for answer in judge(visible)} if visible else {}
    return [
        answers.get(p.person_id)
        or Assessment(p.person_id, scene.frame.stamp_ns, None, reason="outside the picture")
        for p in people
    ]

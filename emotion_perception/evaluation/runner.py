"""Evaluate a recognizer on a data set, one image at a time, resuming an interrupted run."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from emotion_perception.core.documents import are_numbers
from emotion_perception.core.errors import FrameError, IncompleteRunError, RecognizerError
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.labels import EMOTIC_LABELS, VAD, vad_to_emotic
from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.core.values import Assessment, FloatArray, Frame, Scene
from emotion_perception.evaluation.ablations import ablate
from emotion_perception.evaluation.datasets.emotic import AnnotatedImage, EmoticSplit
from emotion_perception.evaluation.run import RESULTS, Run, people_table
from emotion_perception.evaluation.systems import FULL_INPUT
from emotion_perception.io import atomic
from emotion_perception.io.run_folder import AppendLog, RunFolder, fingerprint_files

MAX_CONSECUTIVE_FAILURES = 5
"""After this many images in a row without an answer the remaining images are skipped."""

UNREADABLE = "cannot read the image: "
"""Prefix of the reason of people whose image cannot be used."""

NO_ANSWER = "no answer: "
"""Prefix of the reason of people without an answer in a run with `give_up`."""

Progress = Callable[[int, int], None]
"""Callback that receives the number of images done and the number of images."""


@atomic.private()
def evaluate_recognizer(
    data: EmoticSplit,
    recognizer: Recognizer,
    folder: Path | str,
    manifest: dict[str, Any],
    ablation: str = FULL_INPUT,
    progress: Progress = lambda done, total: None,
    give_up: bool = False,
) -> Run:
    """Evaluate a recognizer on every annotated person, resuming an interrupted run.

    Args:
        data: The images with their annotated people.
        recognizer: The system to evaluate.
        folder: The run folder.
        manifest: What identifies this run, ready for JSON. The run is refused if the folder
            contains a run with another manifest.
        ablation: The part of the images that is shown, a name in `systems.ABLATIONS`.
        progress: Called before each image and at the end.
        give_up: Count people without an answer as not assessed. The next start of the run asks
            about them again.

    Raises:
        ValueError: The folder contains another run, no person could be assessed, or "swap" has no
            second image.
        IncompleteRunError: The recognizer has no answer for some people, and `give_up` is not set.
    """
    if ablation == "swap" and len(data.images) < 2:
        raise ValueError("cannot swap the background: the data has only one image; use two or more")
    manifest = {**manifest, **_describe(data, recognizer, ablation)}
    with RunFolder.claim(folder, manifest, results=RESULTS) as target:
        if data.missing:
            target.write({"missing.txt": ("\n".join(data.missing) + "\n").encode()})
        answers = _Answers(target.log("answers.jsonl"))
        failures = _assess_images(data, recognizer, ablation, answers, progress, give_up)
        if failures:
            raise IncompleteRunError(
                f"cannot complete the run: {len(data.people) - len(answers)} of "
                f"{len(data.people)} people have no answer yet ({failures[0]}); {folder} keeps the "
                "answers so far: start the same command again, or add --give-up to count people "
                "without an answer as not assessed"
            )
        run = Run(manifest, _people_table(data, answers))
        run.write(folder)
    return run


def _assess_images(
    data: EmoticSplit,
    recognizer: Recognizer,
    ablation: str,
    answers: _Answers,
    progress: Progress,
    give_up: bool,
) -> list[str]:
    """Add the answers about all images that have none yet; return the failures."""
    failures: list[str] = []
    consecutive = 0
    for number, image in enumerate(data.images):
        progress(number, len(data.images))
        if all(person.key in answers for person in image.people):
            continue
        try:
            scenes = _scenes(data, number, ablation)
        except (FrameError, OSError) as error:
            answers.skip(image, f"{UNREADABLE}{error}")
            continue
        try:
            answers.add(image, [row for scene in scenes for row in _assess(recognizer, scene)])
            consecutive = 0
        except RecognizerError as error:
            if give_up:
                answers.skip(image, f"{NO_ANSWER}{error}")
                continue
            failures.append(f"{image.path.name}: {error}")
            consecutive += 1
            if consecutive == MAX_CONSECUTIVE_FAILURES:
                break
    progress(len(data.images), len(data.images))
    return failures


def model_fingerprint(settings: RecognizerSettings, *others: str) -> str:
    """Return 16 letters that change with the model files that the settings name.

    Args:
        settings: Their folders of models, adapter and words, and their file of captions are read.
        others: More files to include; an empty name is ignored.
    """
    names = ("model", "text_model", "adapter", "words")
    folders = [getattr(settings, name, "") for name in names]
    files = [
        file
        for name in folders
        if name
        for pattern in ("*.safetensors", "*.txt")
        for file in sorted(Path(name).expanduser().glob(pattern))
    ]
    files += [
        Path(name).expanduser() for name in (getattr(settings, "captions", ""), *others) if name
    ]
    return fingerprint_files(files)


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the named libraries; those that are not installed are left out."""
    versions = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def ground_truth(data: EmoticSplit) -> dict[str, dict[str, Any]]:
    """Return the key of each person to the columns of a run that hold the ground truth."""
    return {
        person.key: {
            "truth": person.labels.tolist(),
            "vad_truth": list(person.vad),
            "people": len(image.people),
            "height": person.box.height,
        }
        for image in data.images
        for person in image.people
    }


def _describe(data: EmoticSplit, recognizer: Recognizer, ablation: str) -> dict[str, Any]:
    """Return the part of the manifest that follows from the data and the recognizer."""
    return {
        "input": ablation,
        "split": data.split,
        "data": data.fingerprint(),
        "recognizer": recognizer.name,
        "calibration": recognizer.calibration,
        "labels": list(recognizer.labels),
        "known": [label for label in EMOTIC_LABELS if label in recognizer.labels],
        "thresholds": _in_emotic_order(recognizer, recognizer.thresholds, None),
        "dropped": dict(data.dropped),
        "missing": len(data.missing),
    }


class _Answers:
    """The answers so far, written to a log as soon as they exist: key to columns per image."""

    def __init__(self, log: AppendLog) -> None:
        self._log = log
        self._rows: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(log.rows, 1):
            if not isinstance(line, dict) or not all(map(_is_answer, line.values())):
                raise ValueError(
                    f"cannot resume: {log.path}, line {number} is not an object with the answer "
                    "about each person of an image; remove the line"
                )
            self._rows |= line

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._rows[key]

    def add(self, image: AnnotatedImage, rows: Sequence[dict[str, Any]]) -> None:
        line = {p.key: row for p, row in zip(image.people, rows, strict=True)}
        self._rows |= line
        self._log.append(line)

    def skip(self, image: AnnotatedImage, reason: str) -> None:
        """Add a reason instead of answers, in memory only: the next start tries the image again."""
        row = {"scores": None, "vad": None, "words": "", "reason": reason}
        self._rows.update((person.key, row) for person in image.people)


def _is_answer(row: Any) -> bool:
    """Return whether a stored value has the columns of `_row`, with values that make sense."""
    return (
        isinstance(row, dict)
        and row.keys() == {"scores", "vad", "words", "reason"}
        and (
            row["scores"] is None or are_numbers(row["scores"], 0, 1, len(EMOTIC_LABELS), nan=False)
        )
        and (row["vad"] is None or are_numbers(row["vad"], -1, 1, len(VAD), nan=False))
        and all(isinstance(row[name], str) for name in ("words", "reason"))
    )


def _scenes(data: EmoticSplit, number: int, ablation: str) -> list[Scene]:
    """Return the scenes that together contain all people of an image, in order."""
    image = data.images[number]
    scene = image.scene()
    if ablation == FULL_INPUT:
        return [scene]
    background = _background(data, number) if ablation == "swap" else None
    return [
        ablate(scene, track, ablation, background, person.read_mask(scene.frame))
        for person, track in zip(image.people, scene.people, strict=True)
    ]


def _background(data: EmoticSplit, number: int) -> Frame:
    """Return the image half the data set away, or the next other one that can be read."""
    count = len(data.images)
    for step in range(count):
        other = (number + count // 2 + step) % count
        if other == number:
            continue
        try:
            return data.images[other].scene().frame
        except (FrameError, OSError):
            continue
    raise OSError("no other image can be read as its background")


def _assess(recognizer: Recognizer, scene: Scene) -> list[dict[str, Any]]:
    return [_row(recognizer, a) for a in recognizer.assess(scene, scene.people)]


def _row(recognizer: Recognizer, assessment: Assessment) -> dict[str, Any]:
    scores, vad = assessment.scores, assessment.vad
    return {
        "scores": None if scores is None else _in_emotic_order(recognizer, scores, 0.0),
        "vad": None if vad is None else list(vad),
        "words": assessment.rationale or "",
        "reason": assessment.reason,
    }


def _in_emotic_order(
    recognizer: Recognizer, values: FloatArray, default: float | None
) -> list[float | None]:
    """Return a value per EMOTIC label from values per label of the recognizer."""
    by_label = dict(zip(recognizer.labels, np.asarray(values, float).tolist(), strict=True))
    return [by_label.get(label, default) for label in EMOTIC_LABELS]


def _people_table(data: EmoticSplit, answers: _Answers) -> Any:
    rows = []
    for key, columns in ground_truth(data).items():
        vad = answers[key]["vad"]
        emotic_vad = None if vad is None else list(vad_to_emotic(vad))
        rows.append({"key": key, **columns, **answers[key], "vad": emotic_vad})
    return people_table(rows)

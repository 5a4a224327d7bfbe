"""A run: one system asked about everybody of a data set, its answers kept as a table.

    RUN/run.json        what was asked of whom, and how complete it is
    RUN/missing.txt     the pictures that are annotated but not there, if any
    RUN/answers.jsonl   a line a picture, while it runs: what a killed run goes on from
    RUN/people.parquet  a row a person: truth, scores, words
    RUN/metrics.json    the figures, which can be computed again from the other two

The figures are written when everybody has an answer, or a reason why there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from emotion_perception.core.errors import FrameError, RecognizerError
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.labels import EMOTIC_LABELS, VAD, named_in_as_in_paper
from emotion_perception.core.logits import logit
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, FloatArray, Frame, Scene, Vad
from emotion_perception.evaluation import metrics, summary
from emotion_perception.evaluation.ablations import WHOLE, show_only
from emotion_perception.evaluation.datasets.emotic import Emotic, Picture, to_vad
from emotion_perception.io import atomic

GIVE_UP_AFTER = 5
"""Pictures in a row without an answer, after which the rest is not asked about."""

NO_ANSWER = "no answer: "
"""How the reason of people begins whose answer was given up."""

Progress = Callable[[int, int], None]
"""Told how many of how many pictures are done."""


class Incomplete(Exception):
    """Somebody has no answer yet; what was computed is kept and the same command goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Everybody's truth and answers."""

    about: dict[str, Any]
    """What was asked of whom: run.json."""
    table: pl.DataFrame
    """A row a person: key, truth, vad_truth, scores, vad, words, reason, people, height."""

    @classmethod
    def read(cls, folder: Path | str) -> Run:
        """
        Raises:
            ValueError: the folder holds no run, or one that is not complete.
        """
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            raise ValueError(f"{folder} holds no run: give a folder that `evaluate` wrote")
        if (folder / "emotions.jsonl").is_file():
            raise ValueError(
                f"{folder} holds a replay: give {folder / 'labelled'}, which --labels writes"
            )
        if not (folder / "people.parquet").is_file():
            raise ValueError(f"the run in {folder} is not complete: start the same command again")
        try:
            return cls(_about(folder), pl.read_parquet(folder / "people.parquet"))
        except pl.exceptions.PolarsError as error:
            raise ValueError(
                f"the run in {folder} is damaged ({error}): start the same command again"
            ) from error

    def write(self, folder: Path | str) -> dict[str, Any]:
        """Keep the run with its figures, which are returned.

        Raises:
            ValueError: the folder holds another run, or nobody could be judged.
        """
        folder = Path(folder)
        if not self.judged.any():
            reasons = ", ".join(sorted(set(self.table["reason"].drop_nulls().to_list())))
            raise ValueError(f"nobody of {len(self)} people could be judged: {reasons}")
        claim(folder, self.about)
        found = self.measured()
        self.table.write_parquet(folder / "people.parquet.part")
        os.replace(folder / "people.parquet.part", folder / "people.parquet")
        _write_json(folder / "metrics.json", found)
        return found

    def __len__(self) -> int:
        return len(self.table)

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """(N, 26)."""
        return _matrix(self.table["truth"], bool)

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """(N,): who got scores."""
        return self.table["scores"].is_not_null().to_numpy()

    @property
    def scores(self) -> FloatArray:
        """(N, 26); 0 for labels that the system does not know and people it could not judge."""
        nothing = [0.0] * len(EMOTIC_LABELS)
        return _matrix([row or nothing for row in self.table["scores"].to_list()], float)

    @property
    def chosen(self) -> npt.NDArray[np.bool_]:
        """(N, 26): the labels given, which are those above their thresholds."""
        thresholds = np.array([np.inf if x is None else x for x in self.about["thresholds"]])
        return self.scores > thresholds

    @property
    def chosen_as_in_paper(self) -> npt.NDArray[np.bool_]:
        """(N, 26): the labels whose letters stand in what the system wrote.

        Raises:
            ValueError: the system wrote nothing.
        """
        words = self.table["words"].to_list()
        if not any(words):
            raise ValueError(
                "the paper's extraction of labels reads what a system wrote, and this one wrote "
                "nothing: run it with recognizer.scoring = generate"
            )
        named = [named_in_as_in_paper(text or "") for text in words]
        return np.array([[label in found for label in EMOTIC_LABELS] for found in named])

    def measured(self, rounds: int = metrics.ROUNDS) -> dict[str, Any]:
        """All figures, ready for JSON."""
        truth, scores, chosen = self.truth, self.scores, self.chosen
        found: dict[str, Any] = {
            "people": len(self),
            "judged": int(self.judged.sum()),
            "decisions": summary.decisions(truth, chosen, rounds),
        }
        if self.about.get("writes"):
            found["decisions_as_in_paper"] = summary.decisions(
                truth, self.chosen_as_in_paper, rounds
            )
        found |= summary.of_scores(truth, scores)
        found["vad_error"] = self._affect()
        found["labels"] = summary.by_label(truth, scores, chosen)
        frequency = truth.mean(axis=0)
        recalls = np.array([row["recall"] for row in found["labels"].values()])
        found["frequency_against_recall"] = summary.rank_correlation(frequency, recalls)
        found["by_height"] = summary.by_group(
            truth, scores, chosen, summary.thirds(self.table["height"])
        )
        found["by_people"] = summary.by_group(
            truth, scores, chosen, summary.crowds(self.table["people"])
        )
        return found

    def _affect(self) -> dict[str, float] | None:
        rows = [
            (true, told)
            for true, told in zip(self.table["vad_truth"], self.table["vad"], strict=True)
            if true is not None and told is not None
        ]
        if not rows:
            return None
        true, told = (np.array([list(row[i]) for row in rows]) for i in range(2))
        errors = metrics.affect_error(true, told)
        named = {name: float(error) for name, error in zip(VAD, errors, strict=True)}
        return {**named, "mean": float(errors.mean()), "people": len(rows)}


def evaluate(
    data: Emotic,
    recognizer: Recognizer,
    folder: Path | str,
    about: dict[str, Any],
    part: str = WHOLE,
    progress: Progress = lambda done, total: None,
    give_up: bool = False,
) -> Run:
    """Ask a recognizer about everybody of a data set; goes on where a killed run stopped.

    Args:
        about: what tells this run from others, ready for JSON; a folder with another one is left
            alone.
        part: of the pictures that is shown, see `inputs.INPUTS`.
        give_up: count people of whom the recognizer has no answer as not judged; they are asked
            about again if the run is started again.

    Raises:
        ValueError: the folder holds another run, nobody could be judged, or there is no other
            picture to put anybody into.
        Incomplete: the recognizer has no answer for somebody, and that is not given up.
    """
    folder = Path(folder)
    if part == "swap" and len(data.pictures) < 2:
        raise ValueError("the input swap needs at least two pictures, and there is one")
    about = {
        **about,
        "input": part,
        "split": data.split,
        "data": fingerprint(data),
        "recognizer": recognizer.name,
        "calibration": recognizer.calibration,
        "labels": list(recognizer.labels),
        "known": [label for label in EMOTIC_LABELS if label in recognizer.labels],
        "thresholds": _spread(recognizer, recognizer.thresholds, None),
        "dropped": dict(data.dropped),
        "missing": len(data.missing),
    }
    claim(folder, about)
    if data.missing:
        (folder / "missing.txt").write_text("\n".join(data.missing) + "\n", encoding="utf-8")
    answers = _Answers(folder / "answers.jsonl")
    failures: list[str] = []
    in_a_row = 0
    for number, picture in enumerate(data.pictures):
        progress(number, len(data.pictures))
        if picture.people[0].key in answers:
            continue
        try:
            scenes = _shown(data, number, part)
        except (FrameError, OSError) as error:
            answers.skip(picture, f"the picture cannot be read: {error}")
            continue
        try:
            answers.keep(picture, [row for scene in scenes for row in _ask(recognizer, scene)])
            in_a_row = 0
        except RecognizerError as error:
            if give_up:
                answers.skip(picture, f"{NO_ANSWER}{error}")
                continue
            failures.append(f"{picture.path.name}: {error}")
            in_a_row += 1
            if in_a_row == GIVE_UP_AFTER:
                break
    progress(len(data.pictures), len(data.pictures))
    if failures:
        raise Incomplete(
            f"{len(data.people) - len(answers)} of {len(data.people)} people have no answer yet "
            f"({failures[0]}); what was computed is kept in {folder}: start the same command "
            "again, or with --give-up, which counts who has no answer as not judged"
        )
    run = Run(about, _table(data, answers))
    run.write(folder)
    return run


def fingerprint(data: Emotic, keys: Collection[str] | None = None) -> str:
    """Changes with everything that is asked and with the truth, of these people or everybody."""
    people = [p for p in data.people if keys is None or p.key in keys]
    rows = [(p.key, tuple(p.box), p.labels.tobytes(), p.vad) for p in people]
    return hashed((data.split, rows))


def weights(settings: RecognizerSettings, *others: str) -> str:
    """Changes with the files of the models that are folders, and with other files."""
    folders = (settings.model, settings.text_model, settings.adapter, settings.words)
    found = [
        file
        for name in folders
        if name
        for kind in ("*.safetensors", "*.txt")
        for file in sorted(Path(name).expanduser().glob(kind))
    ]
    found += [Path(name).expanduser() for name in (settings.captions, *others) if name]
    return hashed([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in found if f.is_file()])


def hashed(content: Any) -> str:
    """16 letters that change with how the content is written."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def claim(folder: Path, about: dict[str, Any]) -> None:
    """Begin or go on with a run: write down what it is about, take older figures away.

    Raises:
        ValueError: the folder holds another run.
    """
    about = json.loads(json.dumps(about))
    if (folder / "run.json").is_file():
        there = _about(folder)
        if differing := [k for k in {**about, **there} if there.get(k) != about.get(k)]:
            k = differing[0]
            before, now = (textwrap.shorten(repr(a.get(k)), 200) for a in (there, about))
            raise ValueError(
                f"{folder} holds another run ({k}: {before}, now {now}): choose another --out, or "
                "remove it"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files, and no run: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("people.parquet", "metrics.json"):
        (folder / name).unlink(missing_ok=True)
    _write_json(folder / "run.json", about)


def _about(folder: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((folder / "run.json").read_text())
        return about
    except ValueError as error:
        raise ValueError(f"{folder / 'run.json'} is damaged ({error}): remove {folder}") from error


def _write_json(path: Path, content: Any) -> None:
    atomic.write({path: (json.dumps(content, indent=2) + "\n").encode()})


class _Answers:
    """What was answered so far, on disk as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path.is_file():
            # A killed run may have left half a line.
            whole = path.read_bytes().rpartition(b"\n")[0]
            lines = whole.splitlines()
            path.write_bytes(whole + b"\n" if lines else b"")
            for number, line in enumerate(lines, 1):
                try:
                    self._rows.update(json.loads(line))
                except (ValueError, TypeError) as error:
                    raise ValueError(
                        f"{path}, line {number} is damaged ({error}): remove the line, and its "
                        "people are asked about again"
                    ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._rows[key]

    def keep(self, picture: Picture, rows: Sequence[dict[str, Any]]) -> None:
        line = {p.key: row for p, row in zip(picture.people, rows, strict=True)}
        self._rows.update(line)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def skip(self, picture: Picture, reason: str) -> None:
        """For this time only: the picture may be mended until the next."""
        self._rows.update((p.key, _nothing(reason)) for p in picture.people)


def _shown(data: Emotic, number: int, part: str) -> list[Scene]:
    """The scenes that together ask about everybody of a picture, in their order."""
    picture = data.pictures[number]
    scene = picture.scene()
    if part == WHOLE:
        return [scene]
    other = _other_picture(data, number) if part == "swap" else None
    width, height = scene.frame.width, scene.frame.height
    return [
        show_only(scene, track, part, other, person.pixels(scene.frame))
        if track.box.clipped(width, height).area > 0
        else Scene(scene.frame, (track,))  # the recognizer says that they are outside
        for person, track in zip(picture.people, scene.people, strict=True)
    ]


def _ask(recognizer: Recognizer, scene: Scene) -> list[dict[str, Any]]:
    return [_row(recognizer, answer) for answer in recognizer.assess(scene, scene.people)]


def _other_picture(data: Emotic, number: int) -> Frame:
    """The picture halfway round the data set, or the next other one that can be read."""
    count = len(data.pictures)
    for step in range(count):
        other = (number + count // 2 + step) % count
        if other == number:
            continue
        try:
            return data.pictures[other].scene().frame
        except (FrameError, OSError):
            continue
    raise OSError("no other one can be, to put people into")


def _nothing(reason: str) -> dict[str, Any]:
    return {"scores": None, "vad": None, "words": "", "reason": reason}


def _row(recognizer: Recognizer, answer: Assessment) -> dict[str, Any]:
    return {
        "scores": None if answer.scores is None else _spread(recognizer, answer.scores, 0.0),
        "vad": None if answer.vad is None else list(answer.vad),
        "words": answer.rationale or "",
        "reason": answer.reason,
    }


def _spread(recognizer: Recognizer, values: FloatArray, missing: float | None) -> list[Any]:
    """One value for each of EMOTIC's labels, from those of the labels that the system knows."""
    known = dict(zip(recognizer.labels, np.asarray(values, float).tolist(), strict=True))
    return [known.get(label, missing) for label in EMOTIC_LABELS]


def _table(data: Emotic, answers: _Answers) -> pl.DataFrame:
    rows = [
        {
            "key": person.key,
            "truth": person.labels.tolist(),
            "vad_truth": list(person.vad),
            **(answer := answers[person.key]),
            "vad": None if answer["vad"] is None else list(to_vad(Vad(*answer["vad"]))),
            "people": len(picture.people),
            "height": person.box.height,
        }
        for picture in data.pictures
        for person in picture.people
    ]
    return table(rows)


def table(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """The table of a run; what a row lacks is null."""
    return pl.DataFrame(
        rows,
        schema={
            "key": pl.String,
            "truth": pl.List(pl.Boolean),
            "vad_truth": pl.List(pl.Float64),
            "scores": pl.List(pl.Float64),
            "vad": pl.List(pl.Float64),
            "words": pl.String,
            "reason": pl.String,
            "people": pl.Int64,
            "height": pl.Float64,
        },
    )


def _matrix(rows: Any, kind: Any) -> npt.NDArray[Any]:
    return np.array([list(row) for row in rows], kind).reshape(-1, len(EMOTIC_LABELS))


def swapped(run: Run, other: Run) -> dict[str, float]:
    """How two runs over the same people differ: what another background changes.

    Raises:
        ValueError: they are about other people.
    """
    if run.table["key"].to_list() != other.table["key"].to_list():
        raise ValueError("the runs are about other people: evaluate the same split with both")
    both = run.judged & other.judged
    first, second = run.scores[both], other.scores[both]
    margins = [_margins(r, s) for r, s in ((run, first), (other, second))]
    leading = [m.argmax(axis=1) for m in margins]
    return {
        "people": int(both.sum()),
        "leading_changed": float(np.mean(leading[0] != leading[1])),
        "score_change": float(np.abs(first - second).mean()),
    }


def _margins(run: Run, scores: FloatArray) -> FloatArray:
    thresholds = np.array([1.0 if x is None else x for x in run.about["thresholds"]])
    return logit(scores) - logit(thresholds)

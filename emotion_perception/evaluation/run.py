"""A run: the manifest of an evaluation and a table with the ground truth and scores of each person.

    RUN/run.json        the manifest: system, settings, data, versions, completeness
    RUN/missing.txt     annotated images whose file does not exist, if any
    RUN/answers.jsonl   one line per image, written during the run, from which it resumes
    RUN/people.parquet  one row per person: ground truth, scores, generated text
    RUN/metrics.json    the metrics, which can be computed again from run.json and people.parquet

`people.parquet` and `metrics.json` are written once each person has an answer or a reason for
having none.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from emotion_perception.core.labels import EMOTIC_LABELS, VAD, named_in_as_in_paper
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import metrics, summary
from emotion_perception.io.run_folder import MANIFEST, RunFolder, read_manifest, to_json

TABLE = "people.parquet"
METRICS = "metrics.json"
RESULTS = (TABLE, METRICS)
"""The files that only a complete run has."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The ground truth and the scores of each person."""

    manifest: dict[str, Any]
    """What identifies the run: the content of run.json."""
    table: pl.DataFrame
    """One row per person: key, truth, vad_truth, scores, vad, words, reason, people, height."""

    @classmethod
    def read(cls, folder: Path | str) -> Run:
        """Read a complete run.

        Raises:
            ValueError: The folder is not a run, or the run is incomplete or damaged.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise ValueError(
                f"cannot read {folder}: it is not a run; pass a folder that `evaluate` wrote"
            )
        if (folder / "emotions.jsonl").is_file():
            raise ValueError(
                f"cannot read {folder}: it is a replay; pass {folder / 'labelled'}, which "
                "`replay --labels` writes"
            )
        if not (folder / TABLE).is_file():
            raise ValueError(
                f"cannot read {folder}: the run is incomplete; start the same command again"
            )
        try:
            table = pl.read_parquet(folder / TABLE)
            run = cls(read_manifest(folder), table)
            _check_manifest(run.manifest)
            _check_columns(table)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(
                f"cannot read {folder}: the run is damaged ({reason}); start the same command again"
            ) from error
        return run

    def write(self, folder: Path | str) -> dict[str, Any]:
        """Write the run and its metrics; return the metrics.

        Raises:
            ValueError: The folder contains another run, or no person was assessed.
        """
        folder = Path(folder)
        if not self.assessed.any():
            reasons = ", ".join(sorted(set(self.table["reason"].drop_nulls().to_list())))
            raise ValueError(
                f"cannot compute metrics: none of {len(self)} people could be assessed: {reasons}"
            )
        with RunFolder.claim(folder, self.manifest, results=RESULTS) as target:
            computed = self.compute_metrics()
            table = io.BytesIO()
            self.table.write_parquet(table)
            target.write({TABLE: table.getvalue(), METRICS: to_json(computed)})
        return computed

    def __len__(self) -> int:
        return len(self.table)

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """Ground-truth labels, (N, 26)."""
        return _matrix(self.table["truth"], bool)

    @property
    def assessed(self) -> npt.NDArray[np.bool_]:
        """Which people have scores, (N,)."""
        return self.table["scores"].is_not_null().to_numpy()

    @property
    def scores(self) -> FloatArray:
        """Scores, (N, 26); 0 for people without scores and labels the system does not know."""
        zeros = [0.0] * len(EMOTIC_LABELS)
        return _matrix([row or zeros for row in self.table["scores"].to_list()], float)

    @property
    def predicted(self) -> npt.NDArray[np.bool_]:
        """Predicted labels, (N, 26): those with a score above the threshold."""
        thresholds = np.array([np.inf if x is None else x for x in self.manifest["thresholds"]])
        return self.scores > thresholds

    @property
    def predicted_as_in_paper(self) -> npt.NDArray[np.bool_]:
        """Labels found in the generated text by `named_in_as_in_paper`, (N, 26).

        Raises:
            ValueError: The system generated no text.
        """
        texts = self.table["words"].to_list()
        if not any(texts):
            raise ValueError(
                "cannot extract labels as in the paper: the system generated no text; evaluate it "
                "with recognizer.scoring = generate"
            )
        named = [named_in_as_in_paper(text or "") for text in texts]
        return np.array([[label in labels for label in EMOTIC_LABELS] for labels in named])

    def compute_metrics(self, rounds: int = metrics.BOOTSTRAP_ROUNDS) -> dict[str, Any]:
        """Compute all metrics, with `rounds` of the bootstrap, ready for JSON."""
        truth, scores, predicted = self.truth, self.scores, self.predicted
        result: dict[str, Any] = {
            "people": len(self),
            "judged": int(self.assessed.sum()),
            "decisions": summary.summarize_decisions(truth, predicted, rounds),
        }
        if self.manifest.get("writes"):
            result["decisions_as_in_paper"] = summary.summarize_decisions(
                truth, self.predicted_as_in_paper, rounds
            )
        result |= summary.summarize_scores(truth, scores)
        result["vad_error"] = self._vad_error()
        result["labels"] = summary.metrics_by_label(truth, scores, predicted)
        recalls = np.array([row["recall"] for row in result["labels"].values()])
        result["frequency_against_recall"] = summary.rank_correlation(truth.mean(axis=0), recalls)
        for name, groups in (
            ("by_height", summary.height_thirds(self.table["height"])),
            ("by_people", summary.people_per_image(self.table["people"])),
        ):
            result[name] = summary.metrics_by_group(truth, scores, predicted, groups)
        return result

    def _vad_error(self) -> dict[str, float] | None:
        known = self.table.filter(pl.col("vad_truth").is_not_null() & pl.col("vad").is_not_null())
        if known.is_empty():
            return None
        truth, estimate = (np.array(known[name].to_list()) for name in ("vad_truth", "vad"))
        errors = metrics.vad_error(truth, estimate)
        by_dimension = {name: float(error) for name, error in zip(VAD, errors, strict=True)}
        return {**by_dimension, "mean": float(errors.mean()), "people": len(known)}


def people_table(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Make the table of a run; a value that is missing in a row becomes null."""
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


_TEXTS = ("system", "recognizer", "calibration", "split", "data", "input")
_OBJECTS = ("settings", "asked", "dropped", "versions")
_LISTS = ("labels", "known", "shared_images")


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Check the types of what the commands read from a manifest.

    Raises:
        ValueError: A value is missing or has another type.
    """
    for names, kind in ((_TEXTS, str), (_OBJECTS, dict), (_LISTS, list)):
        for name in names:
            if name in manifest and not isinstance(manifest[name], kind):
                raise ValueError(f"{name} = {manifest[name]!r} is of another type")
    for name in ("recognizer", "split", "data", "known", "thresholds"):
        if name not in manifest:
            raise ValueError(f"{name} is missing")
    for name in ("labels", "known"):
        labels = manifest.get(name, [])
        if not all(isinstance(x, str) for x in labels) or len(set(labels)) < len(labels):
            raise ValueError(f"{name} is not a list of different labels")
    thresholds = manifest["thresholds"]
    if (
        not isinstance(thresholds, list)
        or len(thresholds) != len(EMOTIC_LABELS)
        or not all(x is None or (type(x) in (int, float) and 0 <= x <= 1) for x in thresholds)
    ):
        raise ValueError(f"thresholds = {thresholds!r} are not {len(EMOTIC_LABELS)} numbers")


def _check_columns(table: pl.DataFrame) -> None:
    """Check the columns of a table and the lengths and ranges of their lists.

    Raises:
        ValueError: A column is missing, has another type, or holds values without sense.
    """
    schema = people_table([]).schema
    for name, kind in schema.items():
        if table.schema.get(name) not in (kind, pl.Null):
            raise ValueError(f"the column {name} is missing or of another type")
    if not len(table) or table["truth"].has_nulls() or table["key"].has_nulls():
        raise ValueError("it has no people, or some without ground truth")
    for name, count, low, high in (
        ("truth", len(EMOTIC_LABELS), 0, 1),
        ("scores", len(EMOTIC_LABELS), 0, 1),
        ("vad_truth", 3, -100, 100),
        ("vad", 3, -100, 100),
    ):
        if table.schema[name] == pl.Null:
            continue
        rows = table[name].drop_nulls()
        values = rows.explode(empty_as_null=False).cast(pl.Float64)
        if (rows.list.len() != count).any() or values.has_nulls():
            raise ValueError(f"{name} does not hold {count} values for each person")
        if not values.is_between(low, high).all():
            raise ValueError(f"{name} holds a value outside {low} to {high}")


def _matrix(rows: Any, kind: Any) -> npt.NDArray[Any]:
    return np.array([list(row) for row in rows], kind).reshape(-1, len(EMOTIC_LABELS))

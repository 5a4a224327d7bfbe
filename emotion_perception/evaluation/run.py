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
            return cls(read_manifest(folder), pl.read_parquet(folder / TABLE))
        except pl.exceptions.PolarsError as error:
            raise ValueError(
                f"cannot read {folder}: the run is damaged ({error}); start the same command again"
            ) from error

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


def _matrix(rows: Any, kind: Any) -> npt.NDArray[Any]:
    return np.array([list(row) for row in rows], kind).reshape(-1, len(EMOTIC_LABELS))

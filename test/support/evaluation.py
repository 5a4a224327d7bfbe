"""Run the evaluate command and evaluate recognizers with reproducible scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.evaluation.comparison import compare_runs
from emotion_perception.evaluation.run import Run, people_table
from emotion_perception.testing.fakes import FakeRecognizer

MANIFEST, TABLE, METRICS = FILES = ("run.json", "people.parquet", "metrics.json")
ROOT = Path(__file__).parents[2]
MAKE_RECOGNIZER = "emotion_perception.evaluation.system_run.make_recognizer"


def evaluate(*arguments):
    """Run the command; return its exit status."""
    return main(["evaluate", *map(str, arguments)])


def evaluate_installed(folder, *arguments):
    """Run the installed command in a folder, check that it succeeds, and return what it prints."""
    process = subprocess.run(
        [Path(sys.executable).parent / "emotion-perception", "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def evaluate_error(capsys, *arguments):
    """Run the command, check that it reports an error, and return the message in one line."""
    try:
        status = evaluate(*arguments)
    except SystemExit as ended:  # argparse
        status = ended.code
    assert status == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "emotion-perception" in message
    return " ".join(message.split())


def write_toy_emotic(root):
    """Write a small data set of the toy world: 12, 6 and 5 images."""
    toy_world.write_emotic(root, {"train": (1, 12), "val": (2, 6), "test": (3, 5)})
    return root


def read_table(folder):
    return pl.read_parquet(folder / TABLE)


def read_metrics(folder):
    return json.loads((folder / METRICS).read_text())


def is_complete(folder):
    return any((folder / name).exists() for name in (TABLE, METRICS))


def check_runs(folder, again, people, has_scores=True, all_assessed=True):
    """Check that a run covers the people and that a second run has the same results."""
    assert all((folder / file).is_file() for file in FILES)
    rows = read_table(folder)
    assert rows["key"].to_list() == [p.key for p in people]
    np.testing.assert_array_equal(Run.read(folder).truth, [p.labels for p in people])
    for scores, reason in zip(rows["scores"], rows["reason"], strict=True):
        assert (scores is None) == bool(reason)
        assert scores is None or (len(scores) == 26 and scores.is_between(0, 1).all())
    values = read_metrics(folder)
    assert values["people"] == len(people)
    assert values["judged"] == rows["scores"].count() >= 1
    assert values["judged"] == len(people) or not all_assessed
    assert (values["map"] is not None) == has_scores, "hard labels have no curve"
    assert_frame_equal(rows, read_table(again))
    assert values == read_metrics(again)


class KeyedRecognizer(FakeRecognizer):
    """Give scores that depend on the id of the person only, and record the scenes.

    Args:
        failures: Number of a call, from 1, to the exception that it raises.
    """

    def __init__(self, failures=(), **options):
        super().__init__(self._scores, labels=EMOTIC_LABELS, **options)
        self.failures, self.scenes, self.calls = dict(failures), [], 0

    def assess(self, scene, people):
        self.calls += 1
        if error := self.failures.get(self.calls):
            raise error
        self.scenes.append(scene)
        return super().assess(scene, people)

    @staticmethod
    def _scores(person):
        return np.random.default_rng(list(person.person_id.encode())).uniform(0.1, 0.9, 26)

    @property
    def keys(self):
        """The ids of the people that were assessed."""
        return [key for _, keys in self.requests for key in keys]


def random_run(seed=0, people=60, hard=False, text="", **manifest):
    """Return a run with random ground truth, and scores that correlate with it."""
    random = np.random.default_rng(7)
    truth = random.random((people, 26)) < random.uniform(0.1, 0.7, 26)
    random = np.random.default_rng(seed)
    scores = np.clip(0.3 * truth + 0.7 * random.random((people, 26)), 0, 1)
    scores = (scores > 0.5).astype(float) if hard else scores
    rows = [
        {
            "key": f"person {i}",
            "truth": truth[i].tolist(),
            "scores": scores[i].tolist(),
            "words": text,
            "people": 1 + i % 4,
            "height": 30.0 + i,
        }
        for i in range(people)
    ]
    defaults = {
        "system": "vlm", "recognizer": "vlm", "settings": {"model": "a/model"}, "split": "test",
        "input": "scene+person", "data": "0123456789abcdef", "known": list(EMOTIC_LABELS),
        "thresholds": [0.5] * 26, "calibration": "", "dropped": {"no box": 3}, "missing": 2,
    }  # fmt: skip
    return Run({**defaults, **manifest}, people_table(rows))


def compare(runs, with_published=True):
    """Compare runs by name; return the comparison and the metrics by name."""
    metrics = {name: run.compute_metrics(rounds=50) for name, run in runs.items()}
    return compare_runs(runs, metrics, with_published), metrics

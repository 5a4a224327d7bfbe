"""Evaluate a named system of the comparison table on a data set.

options ──> system_settings ──> recognizer ──> runner.evaluate_recognizer ──> Run
    └─────> emotic.load ──────────────────────────────┘
"""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import (
    LlmSettings,
    RecognizerSettings,
    recognizer_settings,
)
from emotion_perception.core.schema import Value
from emotion_perception.core.settings import Settings
from emotion_perception.evaluation import runner
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run
from emotion_perception.evaluation.systems import FULL_INPUT, SYSTEMS
from emotion_perception.io import run_folder
from emotion_perception.recognizers.calibrated import prompting_settings
from emotion_perception.recognizers.computation import explicit
from emotion_perception.recognizers.registry import RECOGNIZERS, make_recognizer

OUT = Path("out/evaluate")
"""The default parent of run folders."""

Log = Callable[[str], None]

_LIBRARIES = ("numpy", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemOptions:
    """The options of `emotion-perception evaluate system`."""

    system: str
    """A name in `SYSTEMS`."""
    root: Path
    """The folder of the data set."""
    split: str = "test"
    settings: Mapping[str, Value] = field(default_factory=dict)
    """Settings of the recognizer that override those of the system."""
    generate: bool = False
    """Let the model generate labels as in the paper, instead of scoring each label."""
    ablation: str = FULL_INPUT
    fit_split: str = "train"
    """The split in which chance systems count labels."""
    limit: int | None = None
    """Use only the first images."""
    give_up: bool = False
    """Count people without an answer as not assessed, instead of ending without metrics."""
    out: Path | None = None
    """The run folder; default: one in `OUT` whose name says what is evaluated."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        parts = [self.system.replace("*", "-star"), self.split]
        parts += ["generate"] if self.generate else []
        parts += [self.ablation] if self.ablation != FULL_INPUT else []
        return self.out or OUT / "-".join(parts)


def evaluate_system(
    options: SystemOptions,
    log: Log = print,
    progress: runner.Progress = lambda done, total: None,
) -> Run:
    """Evaluate a system and write the run, resuming an interrupted one.

    People and images that are left out are logged.

    Raises:
        ValueError: An option is not allowed, or the run folder contains another run.
        ModelError: The model cannot be loaded.
        IncompleteRunError: The system has no answer for some people; start again to resume.
    """
    settings = system_settings(options.system, options.settings, options.generate)
    with run_folder.hold(options.folder):  # before the data and the model are read
        return _evaluate(options, settings, log, progress)


def _evaluate(
    options: SystemOptions, settings: RecognizerSettings, log: Log, progress: runner.Progress
) -> Run:
    data = _load_data(options, log)
    if isinstance(settings, LlmSettings):
        _check_captions(settings, data, log)
    settings = explicit(settings)
    manifest: dict[str, Any] = {
        "system": options.system,
        "settings": settings.changed(),
        "asked": prompting_settings(settings),
        "weights": runner.model_fingerprint(settings),
        "limit": options.limit,
        "writes": settings.generates,
        "versions": runner.library_versions(_LIBRARIES),
    }
    if shared := emotic.shared_images(options.root, data, emotic.SPLITS):
        manifest["shared_images"] = [str(images) for images in shared]
        for images in shared:
            log(f"{images}: figures of a model trained on both are too high")
    if RECOGNIZERS[settings.name].counts_labels:
        manifest["frequencies"] = _label_frequencies(options)
        recognizer = _make_chance_recognizer(settings, manifest["frequencies"]["shares"])
    else:
        recognizer = make_recognizer(settings)
    try:
        run = runner.evaluate_recognizer(
            *(data, recognizer, options.folder, manifest),
            ablation=options.ablation, progress=progress, give_up=options.give_up,
        )  # fmt: skip
    finally:
        recognizer.close()
    if RECOGNIZERS[settings.name].writes_captions and not settings.generates:
        captions = run.table.select("key", caption="words").write_csv().encode()
        with run_folder.RunFolder.claim(options.folder, run.manifest) as target:
            target.write({"captions.csv": captions})
    for prefix in (runner.UNREADABLE, runner.NO_ANSWER):
        reasons = run.table["reason"].drop_nulls().to_list()
        if reasons := [reason for reason in reasons if reason.startswith(prefix)]:
            log(f"{len(reasons)} people count as not assessed: {reasons[0]}")
    return run


def system_settings(
    system: str, settings: Mapping[str, Value], generate: bool = False
) -> RecognizerSettings:
    """Return the settings of a system's recognizer.

    Args:
        system: A name in `SYSTEMS`.
        settings: Settings that override those of the system, with or without the prefix
            "recognizer.".
        generate: Let the model generate labels instead of scoring each label, and show it images of
            the size that the paper's model sees.

    Raises:
        ValueError: The system does not exist, needs a setting that is missing, or does not allow a
            setting.
    """
    if system not in SYSTEMS:
        similar = difflib.get_close_matches(system, SYSTEMS, n=1)
        remedy = (
            f"did you mean {similar[0]!r}?" if similar else f"choose one of {', '.join(SYSTEMS)}"
        )
        raise ValueError(f"cannot use system {system!r}: it does not exist; {remedy}")
    row = SYSTEMS[system]
    overrides = {name.removeprefix("recognizer."): value for name, value in settings.items()}
    if missing := [name for name in row.needs if name not in overrides]:
        option = f"--{missing[0].replace('_', '-')}"
        raise ValueError(f"cannot use system {system!r}: it needs {option}; add the option")
    if generate:
        if not RECOGNIZERS[row.settings["name"]].writes_labels:
            raise ValueError(
                f"cannot use system {system!r}: it cannot generate labels; score them instead"
            )
        overrides["scoring"] = "generate"
    values = {**row.settings, **(row.generating if generate else {}), **overrides}
    result = Settings.from_dict({f"recognizer.{name}": v for name, v in values.items()}).recognizer
    if result.name != row.settings["name"]:
        raise ValueError(
            f"cannot use recognizer.name = {result.name} with system {system!r}; choose the system "
            "with that recognizer"
        )
    return result


def log_dropped(dropped: Mapping[str, int], log: Log) -> None:
    """Log how many people are left out, by reason."""
    for reason, people in dropped.items():
        log(f"{people} people are left out: {reason}")


def log_numbering(data: emotic.EmoticSplit, log: Log) -> None:
    """Warn, for annotations in a CSV file, that keys from another file may mean other people."""
    if data.annotations.suffix == ".csv":
        log(
            f"keys number the people of an image in the order of {data.annotations}; the public "
            "conversion lacks some people, so keys from Annotations.mat may mean other people"
        )


def _load_data(options: SystemOptions, log: Log) -> emotic.EmoticSplit:
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"cannot use --limit {options.limit}: choose at least one image")
    data = emotic.load(options.root, options.split)
    if options.limit:
        data = replace(data, images=data.images[: options.limit])
    log_dropped(data.dropped, log)
    if data.missing:
        log(
            f"{len(data.missing)} annotated images do not exist: {data.missing[0]}, ... "
            f"(all of them: {options.folder / 'missing.txt'})"
        )
    return data


def _check_captions(settings: LlmSettings, data: emotic.EmoticSplit, log: Log) -> None:
    """Check that each person has a caption, without which the run could not be completed."""
    from emotion_perception.recognizers.text.llm import CaptionFile

    log_numbering(data, log)
    CaptionFile(settings).check([person.key for person in data.people])


def _label_frequencies(options: SystemOptions) -> dict[str, Any]:
    shares = emotic.load(options.root, options.fit_split).truth.mean(axis=0).tolist()
    return {"split": options.fit_split, "shares": dict(zip(EMOTIC_LABELS, shares, strict=True))}


def _make_chance_recognizer(settings: RecognizerSettings, shares: dict[str, float]) -> Recognizer:
    """Make a recognizer that reads label frequencies from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frequencies.json"
        path.write_text(json.dumps(shares))
        return make_recognizer(recognizer_settings(settings.name, model=str(path)))

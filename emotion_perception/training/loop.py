"""The one loop that trains adapters, heads and networks, and goes on where it was interrupted.

    RUN/settings.json   everything that is needed to do it again
    RUN/log.jsonl       a line a step: loss, learning rate; a line a validation: loss, mAP
    RUN/adapter/        the best state, as recognizers load it; RUN/model/ where there is no adapter
    RUN/last/           what the same command goes on from
    RUN/curves.png      the log as a picture

What is drawn at a step follows from the seed and the step's number: pictures, order, dropout. The
learning rate does, too, so that a checkpoint holds weights and the optimizer's moments only, and an
interrupted training gives the bits of an uninterrupted one (on a CPU; GPUs add in any order).

Precision, accumulation and several processes are those of `accelerate`: pictures of a step are
shared out, gradients averaged, the first process writes.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import pickle
import random
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from accelerate.state import AcceleratorState
from safetensors import SafetensorError

from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.evaluation import metrics, runner
from emotion_perception.evaluation.datasets.emotic import EmoticSplit
from emotion_perception.evaluation.run import short_hash
from emotion_perception.io import atomic
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers.vlm import loading
from emotion_perception.training.folders import put, there
from emotion_perception.training.samples import (
    Recipe,
    Sample,
    Samples,
    absent,
    positive_weights,
    some_people,
)
from emotion_perception.training.trainables import Trainable, make_trainable

Progress = Callable[[int, int, float], None]
"""Told the steps that are done, the steps in all, and the newest loss; NaN before the first."""

_LIBRARIES = ("accelerate", "numpy", "peft", "safetensors", "torch", "transformers")
_LARGEST_GRADIENT = 1.0
_FREE = ("versions", "commit")
"""What may change between a training and its continuation."""


def train(
    settings: RecognizerSettings,
    recipe: Recipe,
    data: EmoticSplit,
    val_data: EmoticSplit | None,
    folder: Path | str,
    progress: Progress = lambda done, total, loss: None,
    say: Callable[[str], None] = print,
) -> str:
    """Train what the settings name, or go on with it; returns how to use the result.

    Args:
        val_data: what chooses the best state; None: the last one is kept.

    Raises:
        ModelError: the model is missing or unfit.
        ValueError: the folder holds another training, the model cannot be trained like that, the
            data show nobody, or the loss is no number; what was saved before stays.
        OSError: something cannot be written; what was saved before stays.
    """
    folder = Path(folder)
    if recipe.people:
        data = some_people(data, recipe.people, recipe.seed)
    if val_data is not None and 0 < recipe.val_people < len(val_data.people):
        val_data = some_people(val_data, recipe.val_people, recipe.seed)
    if lacking := absent(data):
        say(f"nobody has {', '.join(lacking)}: what these look like is not learnt")
    accelerator = _accelerator(settings, recipe)
    about = _about(settings, recipe, data, val_data, accelerator.num_processes)
    if accelerator.is_main_process:
        _claim(folder, about, say)
    accelerator.wait_for_everyone()
    balance = positive_weights(data.truth) if recipe.balance else None
    trainable = make_trainable(_on_device(settings, accelerator), recipe, balance)
    try:
        loop = _Loop(trainable, recipe, data, val_data, folder, accelerator)
        loop.resume(say)
        loop.run(progress, say)
        return trainable.usage(folder / trainable.folder)
    finally:
        trainable.close()


@dataclass(slots=True)
class _State:
    """How far it is."""

    step: int = 0
    best: float | None = None
    """Of the validations, the more the better."""
    waited: int = 0
    """Validations since the best one."""


class _Loop:
    def __init__(
        self,
        trainable: Trainable,
        recipe: Recipe,
        data: EmoticSplit,
        val_data: EmoticSplit | None,
        folder: Path,
        accelerator: accelerate.Accelerator,
    ) -> None:
        self._trainable, self._recipe, self._folder = trainable, recipe, folder
        self._accelerator = accelerator
        self._samples = Samples(data, recipe.seed, recipe.input_dropout)
        self._held = None if val_data is None else Samples(val_data)
        self._pass = recipe.batch * accelerator.num_processes
        pictures = recipe.epochs * len(self._samples)
        self.steps = recipe.steps or math.ceil(pictures / (self._pass * recipe.accumulate))
        self._every = recipe.every or math.ceil(self.steps / 10)
        groups = trainable.groups(recipe)
        if not groups:
            raise ValueError("nothing of the model is trained")
        self._rates = [group["lr"] for group in groups]
        self._prepared, self._optimizer = accelerator.prepare(
            trainable, torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        )
        self._state = _State()

    def resume(self, say: Callable[[str], None]) -> None:
        """Take up the state of RUN/last, if there is one, and forget what was logged since."""
        last = there(self._folder / "last")
        if last.is_dir():
            try:
                self._state = _State(**json.loads((last / "state.json").read_text()))
                self._trainable.restore(last / self._trainable.folder)
                kept = torch.load(last / "optimizer.pt", map_location="cpu", weights_only=True)
                self._optimizer.load_state_dict(kept["optimizer"])
                if self._accelerator.scaler is not None:
                    self._accelerator.scaler.load_state_dict(kept["scaler"])
            except (
                *(OSError, RuntimeError, SafetensorError, pickle.UnpicklingError),
                *(ValueError, TypeError, KeyError),
            ) as error:
                raise ValueError(
                    f"{last} is damaged ({error}): remove it to begin again, or choose another "
                    "--out"
                ) from error
            say(f"going on after step {self._state.step} of {self.steps}")
        if self._accelerator.is_main_process:
            rows = [row for row in read_log(self._folder) if row["step"] <= self._state.step]
            _write_log(self._folder, rows)

    def run(self, progress: Progress, say: Callable[[str], None]) -> None:
        recipe, state = self._recipe, self._state
        before = [row["loss"] for row in read_log(self._folder) if "loss" in row]
        progress(state.step, self.steps, before[-1] if before else math.nan)
        patience = recipe.patience or math.inf
        while state.step < self.steps and state.waited < patience:
            loss, rate = self._step(state.step)
            state.step += 1
            self._log(step=state.step, loss=loss, lr=rate)
            progress(state.step, self.steps, loss)
            if state.step % self._every == 0 or state.step == self.steps:
                self._save(self._validate(say))
        if state.step < self.steps:
            say(f"stopped after step {state.step}: no better since {state.waited} validations")
        if self._accelerator.is_main_process:
            draw(self._folder, say)

    def _step(self, step: int) -> tuple[float, float]:
        """Loss before the step, and learning rate of the first group."""
        factor = self._recipe.rate(step, self.steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        _seed(self._recipe.seed, step, self._accelerator.process_index)
        self._prepared.train()
        losses = []
        for part in range(self._recipe.accumulate):
            batch = self._batch(step * self._recipe.accumulate + part)
            with self._accelerator.accumulate(self._prepared), _with_remedy():
                loss = self._prepared(batch)
                everywhere: Any = self._accelerator.reduce(loss.detach(), "mean")
                losses.append(float(everywhere))
                self._refuse_nan(losses[-1], "loss", step)
                self._accelerator.backward(loss)
                if self._accelerator.sync_gradients:
                    learning = [p for p in self._trainable.parameters() if p.requires_grad]
                    length = self._accelerator.clip_grad_norm_(learning, _LARGEST_GRADIENT)
                    if self._accelerator.scaler is None:  # which leaves such steps out
                        self._refuse_nan(float(length), "gradient", step)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
        return float(np.mean(losses)), self._rates[0] * factor

    def _batch(self, number: int) -> list[Sample]:
        own = self._accelerator.process_index * self._recipe.batch
        return self._samples.drawn(number * self._pass + own, self._recipe.batch)

    def _refuse_nan(self, value: float, what: str, step: int) -> None:
        if not math.isfinite(value):
            kept = self._folder / "last"
            raise ValueError(
                f"the {what} is {value} at step {step + 1}: lower --lr (now {self._recipe.lr:g}), "
                f"or set --precision to no; {kept} holds step {self._kept()}"
                if kept.is_dir()
                else f"the {what} is {value} at step {step + 1}, before anything was saved: lower "
                f"--lr (now {self._recipe.lr:g}), or set --precision to no"
            )

    def _kept(self) -> int:
        return int(json.loads((self._folder / "last" / "state.json").read_text())["step"])

    def _validate(self, say: Callable[[str], None]) -> bool:
        """Whether this state is to be kept as the best."""
        if self._held is None:
            return True
        self._trainable.eval()
        losses, scores, truth = [], [], []
        with torch.no_grad(), self._accelerator.autocast(), _with_remedy():
            for batch in self._held.in_order(self._recipe.batch):
                people = sum(len(s.labels) for s in batch)
                losses.append((float(self._trainable(batch)), people))
                told = [self._trainable.scores(s.scene) for s in batch]
                scores += [own for own in told if own is not None]
                truth += [s.labels for s in batch]
        if not losses:
            raise ValueError("no picture to validate on can be read")
        loss = sum(x * n for x, n in losses) / sum(n for _, n in losses)
        value = None
        if scores:  # where words are written there are none
            value = metrics.mean_average_precision(np.concatenate(truth), np.concatenate(scores))
        found = [(loss, value)]  # of the first process, so that all of them stop at once
        accelerate.utils.broadcast_object_list(found)
        ((loss, value),) = found
        self._refuse_nan(loss, "validation loss", self._state.step - 1)
        quality = -loss if value is None else value
        self._log(step=self._state.step, val_loss=loss, val_map=value)
        precision = "" if value is None else f", mAP {value:.4f}"
        say(f"step {self._state.step}: validation loss {loss:.4f}{precision}")
        better = self._state.best is None or quality > self._state.best
        self._state.best = quality if better else self._state.best
        self._state.waited = 0 if better else self._state.waited + 1
        return better

    def _save(self, best: bool) -> None:
        if self._accelerator.is_main_process:
            try:
                if best:
                    put(self._folder / self._trainable.folder, self._trainable.save)
                put(self._folder / "last", self._write_last)
            except OSError as error:
                last = self._folder / "last"
                kept = f"{last} holds step {self._kept()}" if last.is_dir() else "nothing is saved"
                raise OSError(
                    f"step {self._state.step} cannot be saved ({error}): {kept}; make room and "
                    "start the same command again"
                ) from error
        self._accelerator.wait_for_everyone()

    def _write_last(self, folder: Path) -> None:
        self._trainable.save(folder / self._trainable.folder)
        scaler = self._accelerator.scaler
        kept = {
            "optimizer": self._optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        torch.save(kept, folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(asdict(self._state)) + "\n")

    def _log(self, **row: Any) -> None:
        if self._accelerator.is_main_process:
            with (self._folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


def read_log(folder: Path | str) -> list[dict[str, Any]]:
    """What a training has logged, without a line that was cut short."""
    path = Path(folder) / "log.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _write_log(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = (json.dumps(row) + "\n" for row in rows)
    atomic.write({folder / "log.jsonl": "".join(lines).encode()})


def draw(folder: Path | str, say: Callable[[str], None] = print) -> None:
    """Loss and mAP over the steps as RUN/curves.png, if matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("no curves.png: `pip install matplotlib` to have one")
        return
    rows = read_log(folder)
    figure = Figure(figsize=(8, 4), layout="constrained")
    left = figure.subplots()
    left.set(xlabel="step", ylabel="loss")
    for name, key in (("training", "loss"), ("validation", "val_loss")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            left.plot(*zip(*points, strict=True), label=name, marker="." if key != "loss" else "")
    points = [(row["step"], row["val_map"]) for row in rows if row.get("val_map") is not None]
    if points:
        right = left.twinx()
        right.set(ylabel="mAP", ylim=(0, 1))
        right.plot(*zip(*points, strict=True), label="mAP", color="tab:green", marker=".")
    figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(Path(folder) / "curves.png", dpi=120)


def _accelerator(settings: RecognizerSettings, recipe: Recipe) -> accelerate.Accelerator:
    on_cpu = pick_device(settings.device) == "cpu"
    precision = recipe.precision
    if precision == "auto":
        precision = "no" if on_cpu or not torch.cuda.is_bf16_supported() else "bf16"
    if precision == "fp16" and on_cpu:
        raise ValueError("--precision fp16 needs a GPU: choose no or bf16")
    # It is one for the whole process, and refuses another precision than its first.
    AcceleratorState._reset_state()
    return accelerate.Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=recipe.accumulate,
        cpu=on_cpu,
        device_placement=False,  # recognizers have a device of their own
        kwargs_handlers=[
            accelerate.utils.DistributedDataParallelKwargs(find_unused_parameters=True)
        ],
    )


def _on_device(
    settings: RecognizerSettings, accelerator: accelerate.Accelerator
) -> RecognizerSettings:
    """Each process on its own GPU; weights of 32 bits where the computation has them."""
    if accelerator.num_processes > 1:
        settings = replace(settings, device=str(accelerator.device))
    precision = accelerator.mixed_precision
    if settings.dtype == "auto" and precision in ("no", "fp16"):
        return replace(settings, dtype="float32" if precision == "no" else "float16")
    if settings.dtype in ("bfloat16", "float16") and precision == "no":
        raise ValueError(
            f"recognizer.dtype = {settings.dtype} needs --precision bf16 or fp16, since what is "
            "trained has 32 bits"
        )
    return settings


def _seed(*numbers: int) -> None:
    """All generators, so that a step draws the same whatever was before it."""
    drawn = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)


class _with_remedy:
    """Too little memory in here is a ValueError that says what to do."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, MemoryError | RuntimeError) and loading.is_out_of_memory(error):
            raise ValueError(
                "not enough memory for a step: lower --batch and raise --accumulate, or add "
                "--checkpoint-activations"
            ) from error


def _about(
    settings: RecognizerSettings,
    recipe: Recipe,
    data: EmoticSplit,
    val_data: EmoticSplit | None,
    processes: int,
) -> dict[str, Any]:
    versions = {}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "recipe": asdict(recipe),
        "settings": asdict(settings),
        "weights": runner.model_fingerprint(settings),
        "data": data.fingerprint(),
        "val_data": None if val_data is None else val_data.fingerprint(),
        "processes": processes,
        "versions": versions,
        "commit": _commit(),
    }


def _commit(file: Path = Path(__file__)) -> str | None:
    """Of the repository that keeps a file of this package, with a hash of what was changed since.

    None where none does: what is installed may lie in somebody else's.
    """

    def git(*command: str) -> bytes:
        given = ("git", "-C", str(file.resolve().parent), *command)
        return subprocess.run(given, capture_output=True, timeout=30, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", file.resolve().name)
        commit, changes = git("rev-parse", "HEAD").decode().strip(), git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty-{short_hash(changes)}" if changes else commit


def _claim(folder: Path, about: dict[str, Any], say: Callable[[str], None]) -> None:
    """Begin or go on with a training.

    Raises:
        ValueError: the folder holds another one.
    """
    about = json.loads(json.dumps(about))
    path = folder / "settings.json"
    if path.is_file():
        try:
            there = json.loads(path.read_text())
            changed = _differences(there, about)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove {folder}") from error
        for name in [n for n in changed if n.startswith(_FREE)]:
            say(f"{name} has changed since the training began: {changed.pop(name)}")
        if changed:
            name, how = next(iter(changed.items()))
            raise ValueError(
                f"{folder} holds another training ({name}: {how}): choose another --out, or "
                "remove it"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files, and no training: choose another --out")
    atomic.make_folder(folder)
    atomic.write({path: (json.dumps(about, indent=2) + "\n").encode()})


def _differences(there: dict[str, Any], now: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key in {**there, **now}:
        one, other = there.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found[prefix + key] = f"{one!r}, now {other!r}"
    return found

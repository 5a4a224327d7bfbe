"""The training loop of adapters, heads and networks, which resumes an interrupted training.

    RUN/settings.json   the manifest: everything that is needed to repeat the training
    RUN/log.jsonl       one line per step (loss, learning rate) and per validation (loss, mAP)
    RUN/adapter/        the best state, in the format of the recognizers; RUN/model/ for networks
    RUN/last/           the checkpoint from which the same command resumes
    RUN/curves.png      the log as an image

All random draws of a step (images, order, dropout) follow from the seed and the number of the
step, and so does the learning rate. A checkpoint therefore holds only the weights and the
optimizer's moments, and a resumed training is bit-identical to an uninterrupted one (on a CPU;
GPUs add in any order).

`accelerate` handles precision, accumulation and several processes: the processes share the images
of a step, gradients are averaged, and the first process writes.
"""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from safetensors import SafetensorError

from emotion_perception.core import documents
from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.evaluation import metrics
from emotion_perception.evaluation.datasets.emotic import EmoticSplit
from emotion_perception.io import atomic
from emotion_perception.io.run_folder import AppendLog, RunFolder
from emotion_perception.recognizers.vlm import loading
from emotion_perception.training.acceleration import make_accelerator, place_on_device
from emotion_perception.training.curves import draw_curves
from emotion_perception.training.finetune import Progress
from emotion_perception.training.losses import positive_weights
from emotion_perception.training.manifest import MANIFEST, MAY_CHANGE, training_manifest
from emotion_perception.training.recipe import Recipe
from emotion_perception.training.samples import (
    Sample,
    SampleReader,
    absent_labels,
    draw_people,
    one_person_per_image,
)
from emotion_perception.training.trainables import Trainable, make_trainable

_LOG = "log.jsonl"
_MAX_GRADIENT_NORM = 1.0


def train(
    settings: RecognizerSettings,
    recipe: Recipe,
    data: EmoticSplit,
    val_data: EmoticSplit | None,
    folder: Path | str,
    progress: Progress = lambda done, total, loss: None,
    report: Callable[[str], None] = print,
) -> RecognizerSettings:
    """Train the system that the settings name, or resume; return the settings that use the result.

    Args:
        settings: The system as it is served.
        recipe: How it is trained.
        data: The data to train on.
        val_data: The data that selects the best state; None: the last state is kept.
        folder: The run folder.
        progress: Called after each step.
        report: Called with each line for the user.

    Raises:
        ModelError: The model is missing or unfit.
        ValueError: The folder holds another training, the model cannot be trained with this
            recipe, no image can be read, or the loss is not finite; what was saved before is kept.
        OSError: A file cannot be written; what was saved before is kept.
    """
    folder = Path(folder)
    if recipe.example == "person":
        data = one_person_per_image(data)
    if recipe.people:
        data = draw_people(data, recipe.people, recipe.seed)
    if val_data is not None and 0 < recipe.val_people < len(val_data.people):
        val_data = draw_people(val_data, recipe.val_people, recipe.seed)
    if absent := absent_labels(data):
        report(
            f"no person of the training data has {', '.join(absent)}: these labels are not trained"
        )
    accelerator = make_accelerator(settings, recipe)
    manifest = training_manifest(settings, recipe, data, val_data, accelerator.num_processes)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            run = stack.enter_context(
                RunFolder.claim(folder, manifest, name=MANIFEST, may_change=MAY_CHANGE)
            )
            for name, values in run.changes.items():
                report(f"{name} has changed since the training started: {values}")
        accelerator.wait_for_everyone()
        positive_weight = positive_weights(data.truth) if recipe.balance else None
        trainable = make_trainable(place_on_device(settings, accelerator), recipe, positive_weight)
        stack.callback(trainable.close)
        loop = _Loop(trainable, recipe, data, val_data, folder, accelerator, report)
        loop.resume()
        loop.run(progress)
        return trainable.usage(folder / trainable.subfolder)


@dataclass(slots=True)
class _State:
    """Progress of a training: the content of RUN/last/state.json."""

    step: int = 0
    best: float | None = None
    """Quality of the best validation; higher is better."""
    waited: int = 0
    """Validations since the best one."""

    @classmethod
    def read(cls, folder: Path) -> _State:
        """Read state.json.

        Raises:
            ValueError: It is damaged, or its values make no sense.
            OSError: It cannot be read.
        """
        content = documents.read_json_object(folder / "state.json")
        best = content.get("best")
        counts = [content.get("step"), content.get("waited")]
        if (
            content.keys() != {"step", "best", "waited"}
            or not all(type(count) is int and count >= 0 for count in counts)
            or not (best is None or type(best) in (int, float))
        ):
            raise ValueError(f"the values {content} of state.json make no sense")
        return cls(**content)

    def record(self, quality: float) -> bool:
        """Record a validation; return whether it is the best so far."""
        is_best = self.best is None or quality > self.best
        self.best = quality if is_best else self.best
        self.waited = 0 if is_best else self.waited + 1
        return is_best


class _Loop:
    """One training in one process."""

    def __init__(
        self,
        trainable: Trainable,
        recipe: Recipe,
        data: EmoticSplit,
        val_data: EmoticSplit | None,
        folder: Path,
        accelerator: accelerate.Accelerator,
        report: Callable[[str], None],
    ) -> None:
        self._trainable, self._recipe, self._folder = trainable, recipe, folder
        self._accelerator, self._report = accelerator, report
        self._samples = SampleReader(data, recipe.seed, recipe.input_dropout)
        self._val_samples = None if val_data is None else SampleReader(val_data)
        self._examples_per_pass = recipe.batch * accelerator.num_processes
        examples = recipe.epochs * len(self._samples)
        self._steps = recipe.steps or math.ceil(
            examples / (self._examples_per_pass * recipe.accumulate)
        )
        self._validation_interval = recipe.every or math.ceil(self._steps / 10)
        groups = trainable.parameter_groups(recipe)
        if not groups:
            raise ValueError("cannot train: the recipe selects no parameter of the model")
        self._base_rates = [group["lr"] for group in groups]
        self._prepared, self._optimizer = accelerator.prepare(
            trainable, torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        )
        self._state = _State()
        self._log: AppendLog | None = None  # set by `resume` in the process that writes

    def resume(self) -> None:
        """Load RUN/last, if it exists, and remove log lines that are newer.

        Raises:
            ValueError: RUN/last is damaged.
        """
        last = atomic.restore_folder(self._folder / "last")
        if last.is_dir():
            try:
                self._state = _State.read(last)
                self._trainable.restore(last / self._trainable.subfolder)
                saved = torch.load(last / "optimizer.pt", map_location="cpu", weights_only=True)
                self._optimizer.load_state_dict(saved["optimizer"])
                if self._accelerator.scaler is not None:
                    self._accelerator.scaler.load_state_dict(saved["scaler"])
            except (
                *(OSError, RuntimeError, SafetensorError, pickle.UnpicklingError),
                *(ValueError, TypeError, LookupError, AttributeError, EOFError),
            ) as error:
                raise ValueError(
                    f"cannot resume from {last}: it is damaged ({error}); remove it to start "
                    "again, or choose another --out"
                ) from error
            self._report(f"resuming after step {self._state.step} of {self._steps}")
        if self._accelerator.is_main_process:
            path = self._folder / _LOG
            rows = AppendLog(path).rows
            for number, row in enumerate(rows, 1):
                if not _is_row(row):
                    raise ValueError(
                        f"cannot resume: {path}, line {number} is not a row of a training; remove "
                        "the line"
                    )
            lines = (json.dumps(row) + "\n" for row in rows if row["step"] <= self._state.step)
            atomic.write_files({path: "".join(lines).encode()})
            self._log = AppendLog(path)

    def run(self, progress: Progress) -> None:
        """Train to the last step, or until validations no longer improve."""
        recipe, state = self._recipe, self._state
        rows = [] if self._log is None else self._log.rows
        losses = [row["loss"] for row in rows if "loss" in row]
        progress(state.step, self._steps, losses[-1] if losses else math.nan)
        patience = recipe.patience or math.inf
        while state.step < self._steps and state.waited < patience:
            loss, rate = self._step(state.step)
            state.step += 1
            self._append(step=state.step, loss=loss, lr=rate)
            progress(state.step, self._steps, loss)
            if state.step % self._validation_interval == 0 or state.step == self._steps:
                self._save(best=self._validate())
        if state.step < self._steps:
            self._report(
                f"stopped after step {state.step}: {state.waited} validations without improvement"
            )
        if self._log is not None:
            draw_curves(self._folder / "curves.png", self._log.rows, self._report)

    def _step(self, step: int) -> tuple[float, float]:
        """Do one optimizer step; return the loss before it and the first group's learning rate."""
        factor = self._recipe.learning_rate_factor(step, self._steps)
        for group, rate in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        _seed(self._recipe.seed, step, self._accelerator.process_index)
        self._prepared.train()
        losses = []
        for part in range(self._recipe.accumulate):
            batch = self._batch(step * self._recipe.accumulate + part)
            with self._accelerator.accumulate(self._prepared), _memory_remedy():
                loss = self._prepared(batch)
                mean_loss: Any = self._accelerator.reduce(loss.detach(), "mean")
                losses.append(float(mean_loss))
                self._check_finite(losses[-1], "loss", step)
                self._accelerator.backward(loss)
                if self._accelerator.sync_gradients:
                    trained = [p for p in self._trainable.parameters() if p.requires_grad]
                    norm = self._accelerator.clip_grad_norm_(trained, _MAX_GRADIENT_NORM)
                    if self._accelerator.scaler is None:  # which skips such steps itself
                        self._check_finite(float(norm), "gradient", step)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
        return float(np.mean(losses)), self._base_rates[0] * factor

    def _batch(self, number: int) -> list[Sample]:
        """Return this process's samples of a forward pass, counted over all steps."""
        offset = self._accelerator.process_index * self._recipe.batch
        return self._samples.draw(number * self._examples_per_pass + offset, self._recipe.batch)

    def _check_finite(self, value: float, quantity: str, step: int) -> None:
        """Check a loss or gradient.

        Raises:
            ValueError: The value is not finite.
        """
        if not math.isfinite(value):
            saved = self._saved_step()
            raise ValueError(
                f"cannot continue: the {quantity} is {value} at step {step + 1}; lower --lr (now "
                f"{self._recipe.lr:g}), or set --precision to no; {saved}"
            )

    def _saved_step(self) -> str:
        """Return a phrase that names the step in RUN/last."""
        last = self._folder / "last"
        if not last.is_dir():
            return "no step is saved"
        return f"{last} holds step {_State.read(last).step}"

    def _validate(self) -> bool:
        """Validate, log and report the result, and return whether the state is the best so far."""
        if self._val_samples is None:
            return True
        loss, mean_ap = self._validation_metrics(self._val_samples)
        self._check_finite(loss, "validation loss", self._state.step - 1)
        self._append(step=self._state.step, val_loss=loss, val_map=mean_ap)
        suffix = "" if mean_ap is None else f", mAP {mean_ap:.4f}"
        self._report(f"step {self._state.step}: validation loss {loss:.4f}{suffix}")
        return self._state.record(-loss if mean_ap is None else mean_ap)

    def _validation_metrics(self, reader: SampleReader) -> tuple[float, float | None]:
        """Return mean loss per person and mAP; None if the system generates text.

        Raises:
            ValueError: No image can be read.
        """
        self._trainable.eval()
        losses, scores, truth = [], [], []
        with torch.no_grad(), self._accelerator.autocast(), _memory_remedy():
            for batch in reader.batches(self._recipe.batch):
                people = sum(len(s.labels) for s in batch)
                losses.append((float(self._trainable(batch)), people))
                scores += [self._trainable.scores(s.scene) for s in batch]
                truth += [s.labels for s in batch]
        if not losses:
            raise ValueError("cannot validate: no image of the validation data can be read")
        loss = sum(x * n for x, n in losses) / sum(n for _, n in losses)
        mean_ap = None
        if known := [x for x in scores if x is not None]:
            mean_ap = metrics.mean_average_precision(np.concatenate(truth), np.concatenate(known))
        shared = [(loss, mean_ap)]  # from the first process, so that all stop at the same step
        accelerate.utils.broadcast_object_list(shared)
        return shared[0]

    def _save(self, best: bool) -> None:
        """Write the checkpoint, and the trained part as the result if it is the best so far.

        Raises:
            OSError: A file cannot be written; the previous checkpoint is kept.
        """
        if self._accelerator.is_main_process:
            try:
                if best:
                    atomic.write_folder(
                        self._folder / self._trainable.subfolder, self._trainable.save
                    )
                atomic.write_folder(self._folder / "last", self._write_checkpoint)
            except OSError as error:
                raise OSError(
                    f"cannot save step {self._state.step}: {error}; {self._saved_step()}; free "
                    "disk space and start the same command again"
                ) from error
        self._accelerator.wait_for_everyone()

    def _write_checkpoint(self, folder: Path) -> None:
        self._trainable.save(folder / self._trainable.subfolder)
        scaler = self._accelerator.scaler
        content = {
            "optimizer": self._optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        torch.save(content, folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps(asdict(self._state)) + "\n")

    def _append(self, **row: Any) -> None:
        if self._log is not None:
            self._log.append(row)


def _is_row(row: Any) -> bool:
    """Return whether a line of the log holds a step and numbers."""
    return (
        isinstance(row, dict)
        and type(row.get("step")) is int
        and row["step"] > 0
        and all(value is None or type(value) in (int, float) for value in row.values())
        and all(type(row[name]) in (int, float) for name in ("loss", "val_loss") if name in row)
    )


def _seed(*numbers: int) -> None:
    """Seed all random generators, so that the draws of a step do not depend on earlier ones."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def _memory_remedy() -> Iterator[None]:
    """Add the remedy to out-of-memory errors.

    Raises:
        ValueError: The memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not loading.is_out_of_memory(error):
            raise
        raise ValueError(
            "cannot compute a step: the memory does not suffice; lower --batch and raise "
            "--accumulate, or add --checkpoint-activations"
        ) from error

"""A small YOLO, trained from scratch in minutes: YOLO11 with half the width of "n"."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from emotion_perception import toy_world
from emotion_perception.core.values import ImageArray
from emotion_perception.io import atomic
from emotion_perception.perception.detection import import_ultralytics

Example = tuple[ImageArray, Sequence[int], npt.NDArray[np.float64]]
"""A square RGB image, the class of each object, and (N, 4) left, top, right, bottom in pixels."""

SIDE = 320
"""Side, in pixels, of the images that the small world's detector is trained on."""


def train(
    path: Path | str,
    names: dict[int, str],
    batch_of: Callable[[int], Sequence[Example]],
    steps: int,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train and save a detector. The same seed gives the same weights on one machine.

    Args:
        path: The file to write; it must end with .pt.
        names: Class number to name; people are "person".
        batch_of: Returns the examples of a step, all of one size.
        steps: Optimizer steps.
        report: Called with each line for the user.

    Raises:
        OSError: The file cannot be written; a previous file is kept.
    """
    path = Path(path)
    atomic.check_writable(path)
    atomic.make_folder(path.parent)
    ultralytics = import_ultralytics()
    import ultralytics.nn.tasks as typed_tasks
    from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT

    tasks: Any = typed_tasks  # it has no annotations
    torch.manual_seed(0)
    architecture = tasks.yaml_model_load("yolo11n.yaml") | {"scales": {"n": [0.5, 0.125, 1024]}}
    network = tasks.DetectionModel(architecture | {"nc": len(names)}, verbose=False)
    network.names, network.args, network.task = names, DEFAULT_CFG, "detect"
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.1  # the usual 0.03 does not converge in so few steps
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    network.train()
    for step in range(steps):
        if step == steps // 2:
            for norm in norms:  # from here on, train with the statistics of inference
                norm.eval()
        loss, _ = network.loss(_tensors(batch_of(step)))
        optimizer.zero_grad()
        torch.autograd.backward(loss.sum())
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            report(f"detector {step + 1}/{steps}: loss {loss.sum().item():.3f}")
    del network.criterion
    network.args = DEFAULT_CFG_DICT
    yolo = ultralytics.YOLO("yolo11n.yaml")
    yolo.model = network.eval()
    content = io.BytesIO()
    yolo.save(content)
    atomic.write_files({path: content.getvalue()})
    return path


def train_on_world(
    path: Path | str,
    seed: int,
    steps: int = 600,
    batch: int = 12,
    report: Callable[[str], None] = print,
) -> Path:
    """Train a detector of the small world's people, on images of several aspect ratios."""

    def batch_of(step: int) -> list[Example]:
        return [_draw_example(seed, number) for number in range(step * batch, (step + 1) * batch)]

    return train(path, {0: "person"}, batch_of, steps, report)


def _draw_example(seed: int, number: int) -> Example:
    """Draw an image with at most five people on a square canvas, as a detector pads it."""
    random = np.random.default_rng((seed, number, 2))
    short = int(random.integers(180, SIDE + 1))
    size = (SIDE, short) if random.random() < 0.8 else (short, SIDE)
    drawn = toy_world.draw_image(
        seed, number, "seen", size=size, people=(1, int(random.integers(1, 6)))
    )
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    x, y = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    canvas[y : y + size[1], x : x + size[0]] = drawn.image
    boxes = np.array([p.box for p in drawn.people], float).reshape(-1, 4)
    boxes += np.array([x, y, x, y])
    if random.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (3, 3), 0).astype(np.uint8)
    return canvas, [0] * len(boxes), boxes


def _tensors(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Convert to the loss of ultralytics: box centres and sizes in fractions of the image."""
    images = np.stack([image for image, _, _ in examples])
    boxes = np.concatenate([boxes for _, _, boxes in examples]) / images.shape[1]
    left, top, right, bottom = boxes.T
    classes = [number for _, numbers, _ in examples for number in numbers]
    image_indices = [i for i, (_, numbers, _) in enumerate(examples) for _ in numbers]
    return {
        "img": torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
        "batch_idx": torch.tensor(image_indices, dtype=torch.float32),
        "cls": torch.tensor(classes, dtype=torch.float32)[:, None],
        "bboxes": torch.tensor(
            np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], 1),
            dtype=torch.float32,
        ),
    }

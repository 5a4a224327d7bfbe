"""Show images whole to image processors that cut off what lies outside a centre square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from emotion_perception.core.errors import ModelError
from emotion_perception.core.values import ImageArray
from emotion_perception.recognizers.base import pad_to_square

_PROBE_SHAPES = ((320, 1024), (1024, 320))
"""Height and width of the images that an image processor is tried with, in pixels."""

_PROBE_BORDER = 8
"""Width of the border of these images that has to change the pixels, in pixels."""

_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class WholeImages:
    """The way to give images to an image processor so that it cuts nothing off."""

    colour: tuple[int, ...] | None = None
    """Colour of the borders that make an image a square, RGB; None: images are not padded."""

    @classmethod
    def of(cls, image_processor: Any, name: str) -> WholeImages:
        """Find out by trial whether an image processor crops, and how to prevent it.

        Images are padded to a square with the mean colour of the image processor where it crops
        the centre, as LLaVA was trained. Where it crops squares too, it is set to resize to the
        size that it would crop.

        Args:
            image_processor: of transformers; its `size` may change.
            name: of the model, for errors.

        Raises:
            ModelError: the image processor cuts off the edges of squares, or takes no images.
        """
        try:
            if _shows_edges(image_processor, cls()):
                return cls()
            padded = cls(_mean_colour(image_processor))
            if _shows_edges(image_processor, padded):
                return padded
            image_processor.do_resize, image_processor.size = True, image_processor.crop_size
            if _shows_edges(image_processor, padded):
                return padded
        except _ERRORS as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(
                f"cannot use the image processor of {name}: {reason}; choose another model"
            ) from error
        raise ModelError(
            f"cannot use the image processor of {name}: {type(image_processor).__name__} cuts off "
            "the edges of images, where people would not be seen; choose another model"
        )

    def pad(self, image: ImageArray) -> ImageArray:
        """Return an image with the borders that it needs."""
        return image if self.colour is None else pad_to_square(image, self.colour)

    def pil_images(self, images: Sequence[ImageArray]) -> list[Image.Image]:
        """Return images with the borders that they need, as image processors take them.

        They are PIL images, because the channel axis of very small arrays is ambiguous.
        """
        return [Image.fromarray(self.pad(image)) for image in images]


def _mean_colour(image_processor: Any) -> tuple[int, ...]:
    mean = getattr(image_processor, "image_mean", None)
    return tuple(round(255 * c) for c in np.broadcast_to(0.5 if mean is None else mean, 3))


def _shows_edges(image_processor: Any, whole: WholeImages) -> bool:
    """Return whether each border of a wide and of a tall image changes the pixels."""
    width = _PROBE_BORDER
    borders = (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:])
    for shape in _PROBE_SHAPES:
        grey = np.full((*shape, 3), 128, np.uint8)
        plain = _pixels(image_processor, whole, grey)
        for border in borders:
            image = grey.copy()
            image[border] = 0
            if _equal(_pixels(image_processor, whole, image), plain):
                return False
    return True


def _pixels(image_processor: Any, whole: WholeImages, image: ImageArray) -> list[torch.Tensor]:
    """Return all tensors that an image processor makes of one image."""
    output = image_processor(images=whole.pil_images([image]), return_tensors="pt")
    return _tensors(output if isinstance(output, torch.Tensor) else list(output.values()))


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in nested lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for part in value for x in _tensors(part)] if isinstance(value, list) else []


def _equal(tensors: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors, others, strict=True))

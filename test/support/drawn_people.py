"""Images for the prompts about several people, whose boxes have different sizes."""

import numpy as np

from emotion_perception.core.values import Box
from emotion_perception.recognizers.vlm import prompts


def images(vlm, people, height=90, width=160):
    """Return the prompt images of people side by side in an image of random pixels."""
    image = np.random.default_rng(people).integers(0, 256, (height, width, 3), dtype=np.uint8)
    step = width / people
    boxes = [Box(i * step, i, (i + 1) * step, height - 3 * i) for i in range(people)]
    return prompts.make_prompt_images(image, boxes, vlm.settings)

"""Detect people with RF-DETR or D-FINE of transformers, which need no ultralytics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers as typed_transformers

from emotion_perception.core.errors import ModelError
from emotion_perception.core.settings import DetrSettings
from emotion_perception.core.values import Detections, Frame
from emotion_perception.perception.detection import (
    WEAKEST_BOX,
    free_memory,
    inside_image,
    person_classes,
)
from emotion_perception.perception.devices import pick_device
from emotion_perception.perception.model_folders import (
    LOCAL,
    check_folder,
    fetch_remedy,
    find_folder,
    first_line,
)

transformers: Any = typed_transformers  # its annotations do not match what it accepts
# Bars of a library in the log of a launch are lines of control characters.
transformers.utils.logging.disable_progress_bar()

FAMILIES = ("rf_detr", "d_fine")
"""Supported values of `model_type` in the config.json of a model."""

_EXAMPLE = "ustc-community/dfine-xlarge-coco"
_STRIDE = 32  # px of the image per cell of the coarsest feature map of a convolutional backbone


class DetrDetector:
    """Detect whole bodies with a DETR that has a class "person"."""

    def __init__(self, settings: DetrSettings) -> None:
        """Load the model from a folder or from the fetched models, never from the network.

        Raises:
            ModelError: the model is missing or cannot be used; the message names the remedy.
        """
        name = settings.model
        folder = find_folder(name, "detector.model", _EXAMPLE)
        self._device = pick_device(settings.device)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
            _check_family(name, config.model_type)
            check_folder(name, folder)
            self._processor: Any = transformers.AutoImageProcessor.from_pretrained(folder, **LOCAL)
            model, report = transformers.AutoModelForObjectDetection.from_pretrained(
                folder,
                **LOCAL,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except ModelError:
            raise
        except Exception as error:  # many kinds, for files of other content than expected
            raise ModelError(
                f"cannot load the detector {name}: {first_line(error)}; {fetch_remedy(name)}"
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise ModelError(
                f"cannot load the detector {name}: its weights lack {len(missing)} tensors "
                f"({missing[0]}, ...); {fetch_remedy(name)}"
            )
        self._classes = torch.tensor(
            person_classes(dict(config.id2label), settings.person_class, name)
        )
        stride = _stride(config)
        side = max(settings.image_size // stride, 1) * stride
        self._size = {"height": side, "width": side}
        self._model: Any = model.to(self._device).eval()
        try:
            self.detect(Frame(np.zeros((side, side, 3), np.uint8), 0, ""))
        except RuntimeError as error:
            raise ModelError(
                f"cannot detect people with {name} in images of {side} px: {first_line(error)}; "
                "raise detector.image_size, or choose another detector.model or device"
            ) from error

    def detect(self, frame: Frame) -> Detections:
        """Return the people in one frame."""
        inputs = self._processor(
            images=np.require(frame.image, requirements=["C", "W"]),  # torch warns otherwise
            size=self._size,
            input_data_format="channels_last",
            return_tensors="pt",
        ).to(self._device)
        with torch.inference_mode():
            outputs = self._model(**inputs)
        (found,) = self._processor.post_process_object_detection(
            outputs, threshold=WEAKEST_BOX, target_sizes=[(frame.height, frame.width)]
        )
        people = torch.isin(found["labels"].cpu(), self._classes)
        boxes, confidence = (
            found[key].float().cpu()[people].numpy() for key in ("boxes", "scores")
        )
        return inside_image(boxes, confidence, frame.width, frame.height)

    def close(self) -> None:
        """Free the memory of the model."""
        self._model = None
        free_memory()


def _check_family(name: str, model_type: str) -> None:
    if model_type not in FAMILIES:
        raise ModelError(
            f"cannot detect people with {name}: it is a model of type {model_type!r}, expected "
            f"{' or '.join(FAMILIES)}; set detector.model to one of these, such as {_EXAMPLE}"
        )


def _stride(config: Any) -> int:
    """Return the number of pixels whose multiples are possible sides of an image."""
    patch: Any = getattr(config.backbone_config, "patch_size", None)
    if patch is None:
        return _STRIDE
    side = int(patch) if isinstance(patch, int) else int(max(patch))
    return side * int(getattr(config.backbone_config, "num_windows", 1))

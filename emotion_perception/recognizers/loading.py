"""A model from a folder or from what was fetched, never from the network."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers as typed_transformers
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from emotion_perception.devices import ModelError, pick_device
from emotion_perception.settings import RecognizerSettings

NOT_QUANTIZED = (
    "lm_head",
    *("model.vision_model", "model.vision_tower", "model.visual"),
    *("model.connector", "model.multi_modal_projector"),
)
"""The parts that keep all their bits, by their names in the families: few weights, and the ones
that pictures and answers go through."""

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns


def load(settings: RecognizerSettings) -> tuple[Any, Any]:
    """Processor and model of transformers, ready to answer on the device of the settings.

    Raises:
        ModelError: the model is missing or unfit; the message says what to do.
    """
    device = pick_device(settings.device)
    folder = find_folder(settings.model)
    _check_folder(settings.model, folder)
    processor = _load_processor(settings, folder)
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    quantization = _quantization(settings.weights, dtype, device)
    try:
        model, report = transformers.AutoModelForImageTextToText.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            **quantization,
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise ModelError(
                f"the weights of {settings.model} lack {len(missing)} tensors of "
                f"{type(model).__name__} ({missing[0]}, ...): {_fetch(settings.model)}"
            )
        # What bitsandbytes holds is already where it belongs and refuses to be moved.
        model = model.eval() if quantization else model.to(device).eval()
    except (MemoryError, RuntimeError, OSError, ValueError, ImportError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"not enough memory for {settings.model} on {device} in {dtype}: choose a smaller "
                "recognizer.model, a 16-bit recognizer.dtype or another recognizer.device"
            ) from error
        raise ModelError(
            f"{settings.model} cannot be loaded ({_first_line(error)}): {_fetch(settings.model)}"
        ) from error
    return processor, model


def _quantization(weights: str, dtype: str, device: str) -> dict[str, Any]:
    """The arguments of `from_pretrained` that hold the language model in fewer bits.

    Raises:
        ModelError: a library for it is missing.
    """
    if weights == "full":
        return {}
    missing = [name for name in ("bitsandbytes", "accelerate") if not find_spec(name)]
    if missing:
        raise ModelError(
            f"recognizer.weights = {weights} needs {' and '.join(missing)}: "
            f"`pip install {' '.join(missing)}`, or set it to full"
        )
    config = transformers.BitsAndBytesConfig(
        load_in_8bit=weights == "8bit",
        load_in_4bit=weights == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=list(NOT_QUANTIZED),
    )
    return {"quantization_config": config, "device_map": {"": device}}


def find_folder(name: str) -> Path:
    """The folder of a model: the one named, or where a fetched model of that hub name lies.

    Raises:
        ModelError: there is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ModelError(
            f"there is no folder {name!r}: recognizer.model is the folder of a model, or a hub "
            "name like Qwen/Qwen3-VL-2B-Instruct"
        )
    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name} is not on this computer: {_fetch(name)}") from error


def _check_folder(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no model (no config.json): {_fetch(name)}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the config.json of {name} is not one that transformers {transformers.__version__} "
            f"knows without running code of the model's own ({_first_line(error)}): choose "
            "another model"
        ) from error
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelError(
            f"{name} is a model of type {config.model_type}, which does not answer questions "
            "about pictures: choose an image-text-to-text model, such as "
            "Qwen/Qwen3-VL-2B-Instruct"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no weights as safetensors (other formats can run code): {_fetch(name)}"
        )


def _load_processor(settings: RecognizerSettings, folder: Path) -> Any:
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ModelError(
            f"{settings.model} has no usable processor ({_first_line(error)}): "
            f"{_fetch(settings.model)}"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"{settings.model} has no processor for pictures (preprocessor_config.json): "
            f"{_fetch(settings.model)}"
        )
    if not processor.chat_template:
        raise ModelError(
            f"{settings.model} has no chat template, so it cannot be asked questions: choose an "
            "instruction-tuned model"
        )
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # the answer is read at the last place of every row
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    _hold_size(processor.image_processor, max(settings.scene_size, settings.crop_size))
    return processor


def _hold_size(image_processor: Any, size: int) -> None:
    """Let pictures of up to `size` pixels through as they are: one tile each, not enlarged."""
    for tiling in ("do_image_splitting", "crop_to_patches", "do_pan_and_scan"):
        if hasattr(image_processor, tiling):
            setattr(image_processor, tiling, False)
    if hasattr(image_processor, "max_image_size"):  # SmolVLM, Idefics3: one square tile
        image_processor.size = image_processor.max_image_size
    elif hasattr(image_processor, "merge_size"):  # Qwen: its edges are areas, in pixels
        least = (image_processor.patch_size * image_processor.merge_size) ** 2
        image_processor.size = {"shortest_edge": least, "longest_edge": max(size**2, least)}


def _fetch(name: str) -> str:
    return (
        "give another folder, or fetch a model with `emotion-perception fetch NAME`"
        if Path(name).expanduser().is_dir()
        else f"fetch it with `emotion-perception fetch {name}`"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    # A CPU has no error class of its own for this.
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        w in str(error) for w in words
    )


def cache_folder() -> Path:
    """Where what was computed once is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "emotion_perception"


def fingerprint(
    folder: Path, settings: RecognizerSettings, texts: Sequence[str], dtype: torch.dtype
) -> str:
    """Changes with everything that the answer about a given picture depends on."""
    weights = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.glob("*.safetensors"))
    ]
    sizes = (settings.scene_size, settings.crop_size)
    versions = (torch.__version__, transformers.__version__)
    model = (str(folder.resolve()), weights, settings.weights, str(dtype))
    all_of_it = (model, sizes, list(texts), settings.scoring)
    return hashlib.sha256(repr((all_of_it, versions)).encode()).hexdigest()

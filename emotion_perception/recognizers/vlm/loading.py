"""Load a model from a folder or the local cache, never from the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.recognizer_settings import (
    CaptionSettings,
    LanguageModelSettings,
    TextSettings,
    VlmSettings,
)
from emotion_perception.perception import model_folders
from emotion_perception.perception.devices import pick_device, pick_dtype
from emotion_perception.perception.model_folders import (
    check_config,
    check_folder,
    fetch_remedy,
    first_line,
)
from emotion_perception.recognizers.base import model_name
from emotion_perception.recognizers.vlm import attention
from emotion_perception.recognizers.vlm.adapters import merge_adapter

NOT_QUANTIZED = (
    "lm_head",
    *("model.vision_model", "model.vision_tower", "model.visual"),
    *("model.connector", "model.multi_modal_projector"),
)
"""The parts that are not quantized, by their names in the families.

They have few weights, and images and answers pass through them.
"""

LOCAL = model_folders.LOCAL

transformers: Any = typed_transformers  # its annotations do not match what it accepts
# Bars of a library in the log of a launch are lines of control characters.
transformers.utils.logging.disable_progress_bar()


def load_vlm(settings: VlmSettings | CaptionSettings) -> tuple[Any, Any]:
    """Load the processor and the vision-language model that the settings name.

    Raises:
        ModelError: the model is missing or cannot be used; the message names the remedy.
    """
    device = pick_device(settings.device)
    folder = find_folder(settings.model)
    _check_type(settings.model, folder)
    processor = load_processor(settings, folder)
    auto = transformers.AutoModelForImageTextToText
    return processor, _load_language_model(auto, settings.model, settings, device)


def load_text_model(settings: TextSettings) -> tuple[Any, Any]:
    """Load the tokenizer and the text model, `recognizer.text_model`.

    Raises:
        ModelError: the model is missing or cannot be used; the message names the remedy.
    """
    name, device = settings.text_model, pick_device(settings.device)
    folder = find_folder(name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # many kinds, for JSON of other types than expected
        raise ModelError(
            f"cannot use the tokenizer of {name}: {first_line(error)}; {fetch_remedy(name)}"
        ) from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"cannot ask {name}: it has no chat template; set recognizer.text_model to an "
            "instruction-tuned model"
        )
    _pad_left(tokenizer)
    return tokenizer, _load_language_model(
        transformers.AutoModelForCausalLM, name, settings, device
    )


def load_model(auto: Any, name: str, device: str, dtype: str = "auto", **kwargs: Any) -> Any:
    """Load a model onto a device, in evaluation mode.

    Args:
        auto: the class of transformers whose `from_pretrained` loads the model.
        name: a folder, or a hub name that was fetched.
        device: of torch.
        dtype: of torch, or auto: bfloat16 on a GPU and float32 on a CPU.
        **kwargs: further arguments of `from_pretrained`.

    Raises:
        ModelError: the model is missing or cannot be used; the message names the remedy.
    """
    folder = find_folder(name)
    check_folder(name, folder)
    dtype = pick_dtype(dtype, device)
    try:
        model, report = auto.from_pretrained(
            folder,
            **LOCAL,
            use_safetensors=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            **kwargs,
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise ModelError(
                f"cannot load {name}: its weights lack {len(missing)} tensors of "
                f"{type(model).__name__} ({missing[0]}, ...); {fetch_remedy(name)}"
            )
        # bitsandbytes has placed the weights already and refuses to move them.
        return model.eval() if "device_map" in kwargs else model.to(device).eval()
    except ModelError:
        raise
    except Exception as error:  # many kinds, for JSON of other types than expected
        if is_out_of_memory(error):
            raise ModelError(
                f"cannot load {name}: not enough memory on {device} in {dtype}; choose a smaller "
                "recognizer.model, a 16-bit recognizer.dtype or another recognizer.device"
            ) from error
        raise ModelError(
            f"cannot load {name}: {first_line(error)}; {fetch_remedy(name)}"
        ) from error


def display_name(model: str, adapter: str) -> str:
    """Return the name of a model and its adapter for names of recognizers."""
    return "+".join(model_name(part) for part in (model, adapter) if part)


def _load_language_model(auto: Any, name: str, settings: LanguageModelSettings, device: str) -> Any:
    """Load a model with its adapter, and with its language model quantized as the settings say."""
    kind = settings.quantization
    _check_quantization(kind, device)
    if kind in ("none", "int8"):
        model = merge_adapter(load_model(auto, name, device, settings.dtype), settings)
        return quantize_int8(model) if kind == "int8" else model
    config = transformers.BitsAndBytesConfig(
        load_in_8bit=kind == "8bit",
        load_in_4bit=kind == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, pick_dtype(settings.dtype, device)),
        llm_int8_skip_modules=list(NOT_QUANTIZED),
    )
    loading = {"quantization_config": config, "device_map": {"": device}}
    return merge_adapter(load_model(auto, name, device, settings.dtype, **loading), settings)


def _check_quantization(quantization: str, device: str) -> None:
    """Check that a model can be quantized here.

    Raises:
        ModelError: a library for it is missing, or it does not suit the device.
    """
    if quantization == "none":
        return
    if quantization == "int8" and not device.startswith("cpu"):
        raise ModelError(
            f"cannot use recognizer.quantization = int8 on the device {device}: it is for CPUs; "
            "set it to none, 8bit or 4bit"
        )
    libraries = ("torchao",) if quantization == "int8" else ("bitsandbytes", "accelerate")
    missing = [name for name in libraries if not find_spec(name)]
    if missing:
        raise ModelError(
            f"cannot use recognizer.quantization = {quantization}: it needs "
            f"{' and '.join(missing)}; run `pip install {' '.join(missing)}`, or set it to none"
        )


def quantize_int8(model: Any) -> Any:
    """Make the layers of the language model multiply integers of 8 bits, and return the model.

    Weights have one scale per output, activations one per token, measured in each pass.
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(
        attention.language_model(model).layers,
        Int8DynamicActivationInt8WeightConfig(),
        filter_fn=lambda module, name: isinstance(module, torch.nn.Linear),
    )
    return model


def find_folder(name: str) -> Path:
    """Return the folder of a recognizer's model: the named folder, or that of a fetched hub name.

    Raises:
        ModelError: neither exists.
    """
    return model_folders.find_folder(name, "recognizer.model", "Qwen/Qwen3-VL-2B-Instruct")


def _check_type(name: str, folder: Path) -> None:
    check_config(name, folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
    except Exception as error:  # many kinds, for JSON of other types than expected
        raise ModelError(
            f"cannot load {name}: transformers {transformers.__version__} does not support its "
            f"config.json without running code from the model ({first_line(error)}); choose "
            "another model"
        ) from error
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelError(
            f"cannot use {name}: it is a model of type {config.model_type}, which does not answer "
            "questions about images; choose an image-text-to-text model, such as "
            "Qwen/Qwen3-VL-2B-Instruct"
        )


def load_processor(settings: VlmSettings | CaptionSettings, folder: Path) -> Any:
    """Load the processor of a chat model in a folder.

    Raises:
        ModelError: The processor is missing or cannot be used.
    """
    name = settings.model
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, **LOCAL)
    except Exception as error:  # many kinds, for JSON of other types than expected
        raise ModelError(
            f"cannot use the processor of {name}: {first_line(error)}; {fetch_remedy(name)}"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"cannot use the processor of {name}: it does not process images "
            f"(preprocessor_config.json); {fetch_remedy(name)}"
        )
    if not processor.chat_template:
        raise ModelError(
            f"cannot ask {name}: it has no chat template; choose an instruction-tuned model"
        )
    _pad_left(processor.tokenizer)
    _keep_size(processor.image_processor, max(settings.scene_size, settings.crop_size))
    return processor


def _pad_left(tokenizer: Any) -> None:
    """Pad on the left: the answer is read at the last place of each row."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:  # which token it is does not matter: it is masked
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)


def _keep_size(image_processor: Any, size: int) -> None:
    """Pass images of up to `size` pixels unchanged: one tile each, not enlarged."""
    for tiling in ("do_image_splitting", "crop_to_patches", "do_pan_and_scan"):
        if hasattr(image_processor, tiling):
            setattr(image_processor, tiling, False)
    if hasattr(image_processor, "max_image_size"):  # SmolVLM, Idefics3: one square tile
        image_processor.size = image_processor.max_image_size
    elif hasattr(image_processor, "merge_size"):  # Qwen: its edges are areas, in pixels
        smallest = (image_processor.patch_size * image_processor.merge_size) ** 2
        image_processor.size = {
            "shortest_edge": smallest,
            "longest_edge": max(size**2, smallest),
        }


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory is exhausted."""
    # On a CPU there is no error class for this.
    phrases = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        phrase in str(error) for phrase in phrases
    )


def check_length(model: Any, positions: int) -> None:
    """Check that prompts are not longer than the model was made for.

    Args:
        model: Of transformers.
        positions: The number of positions of the longest prompt.

    Raises:
        RecognizerError: They are longer.
    """
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and positions > longest:
        raise RecognizerError(
            f"cannot ask the model: a prompt has {positions} tokens and the model was made for "
            f"{longest}; lower recognizer.scene_size or recognizer.crop_size, set "
            "recognizer.definitions to none, or choose a model with a longer context"
        )


@contextmanager
def memory_errors(people: int) -> Iterator[None]:
    """Turn exhausted memory into a `RecognizerError` with a remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise RecognizerError(
            f"cannot assess the scene: not enough memory for {people} people at once; lower "
            "scheduler.max_people, recognizer.scene_size or recognizer.crop_size, or choose a "
            "smaller model"
        ) from error


def generate_text(model: Any, tokenizer: Any, inputs: Any, max_tokens: int) -> str:
    """Return the text that a model generates after a prompt (1, S) by greedy decoding.

    Args:
        model: with its output layer.
        tokenizer: of the model.
        inputs: the arguments of the forward pass.
        max_tokens: maximum length of the text, which may be empty.
    """
    generated = model.generate(
        **inputs,
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
    )[0]
    # With embeddings as input, `generate` returns the new tokens only.
    new = generated[inputs["input_ids"].shape[1] :] if "input_ids" in inputs else generated
    return " ".join(tokenizer.decode(new, skip_special_tokens=True).split())

"""Merge a PEFT adapter into the model it was trained on, or refuse it with the reason.

PEFT only warns about keys that it cannot place, so a model could run without its adapter. Here
each tensor of the adapter must be placed, and each adapted module must get its tensors. An adapter
of `emotion-perception finetune` also records its base model and the prompts it was trained with.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from emotion_perception.core import documents
from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.core.schema import Value
from emotion_perception.recognizers.calibrated import prompting_settings

log = logging.getLogger(__name__)

RECORD = "emotion_perception.json"
"""File in the folder of an adapter: its base model and its prompts, see `describe`."""

_PREFIX = "base_model.model."  # of names of tensors in an adapter
_PROBED_TENSORS, _PROBED_VALUES = 4, 16


def merge_adapter(model: Any, settings: Any) -> Any:
    """Merge the adapter that the settings name into the weights, so that inference costs no more.

    Args:
        model: The base model.
        settings: Settings with `adapter`, which may be empty.

    Raises:
        ModelError: The adapter is missing, of an unsupported kind, does not fit the model, or was
            trained with other prompts.
    """
    adapter = settings.adapter
    if not adapter:
        return model
    folder = Path(adapter).expanduser()
    _check_files(adapter, folder)
    import peft

    try:
        record = read_record(folder)
        config = peft.PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise ModelError(
                f"cannot use recognizer.adapter = {adapter}: adapters of type "
                f"{config.peft_type.value} are not supported, since they cannot be merged into the "
                "model; choose a LoRA adapter"
            )
        _check_base(adapter, record, model, config, settings)
        _check_prompting(adapter, record, settings)
        config.inference_mode = True
        wrapped = peft.PeftModel(model, config)
        _load_all_tensors(adapter, wrapped, folder)
        return wrapped.merge_and_unload().eval()
    except ModelError:
        raise
    except Exception as error:  # PEFT raises many kinds of errors for a damaged configuration
        raise ModelError(
            f"cannot use recognizer.adapter = {adapter}: it does not match the model "
            f"({next(iter(str(error).splitlines()), type(error).__name__)}); set recognizer.model "
            "to the model that it was trained on"
        ) from error


def describe(model: Any, settings: RecognizerSettings) -> dict[str, Any]:
    """Return what an adapter must be used with, ready for JSON.

    Args:
        model: The base model, without an adapter.
        settings: The settings that the adapter is trained with.
    """
    return {"base": _describe_base(model), "asked": adapter_prompting(settings)}


def adapter_prompting(settings: RecognizerSettings) -> dict[str, Value]:
    """Return the settings that an adapter is trained for: prompts and images."""
    values = prompting_settings(settings)
    if values.get("scoring") == "generate" and hasattr(settings, "label_count"):
        values["label_count"] = settings.label_count
    return values


def read_record(folder: Path) -> dict[str, Any]:
    """Return what `describe` recorded with an adapter; empty for other adapters.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = documents.read_json_object(path)
    except ValueError as error:
        raise ValueError(f"{RECORD} is damaged ({error})") from error
    if not all(isinstance(record.get(name), dict) for name in ("base", "asked")):
        raise ValueError(f"{RECORD} is damaged: base and asked are not both objects")
    return record


def _check_files(adapter: str, folder: Path) -> None:
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"cannot use recognizer.adapter = {adapter}: the folder has no adapter_config.json; "
            "set it to an adapter of `emotion-perception finetune`, or to nothing"
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"cannot use recognizer.adapter = {adapter}: the folder has no "
            "adapter_model.safetensors, and other formats can run code; save the adapter as "
            "safetensors"
        )
    if not find_spec("peft"):
        raise ModelError(
            f"cannot use recognizer.adapter = {adapter}: peft is not installed; run "
            "`pip install peft`, or set it to nothing"
        )


def _load_all_tensors(adapter: str, wrapped: Any, folder: Path) -> None:
    """Load the tensors of an adapter, and check that each one is placed and none is missing.

    Raises:
        ModelError: A tensor cannot be placed, or a module does not get its tensors.
    """
    import peft

    tensors = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(torch.nan)
    stored = load_file(folder / "adapter_model.safetensors", device=str(wrapped.device))
    names = _current_names(wrapped.get_base_model(), list(stored))
    result: Any = peft.set_peft_model_state_dict(
        wrapped, {names[name]: tensor for name, tensor in stored.items()}
    )
    tensors = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    missing = sorted(name for name, tensor in tensors.items() if tensor.isnan().any())
    unplaced = sorted(result.unexpected_keys)
    if missing or unplaced or not tensors:
        raise ModelError(
            f"cannot use recognizer.adapter = {adapter}: {_names(unplaced)} of its tensors do not "
            f"exist in the model, and {_names(missing)} adapted tensors of the model are not in "
            "the adapter (or NaN); set recognizer.model to the model that it was trained on"
        )


def _current_names(model: Any, stored: Sequence[str]) -> dict[str, str]:
    """Return the names in the model of stored tensors, whose names may be of older versions."""
    names = {}
    for full in stored:
        name = _rename(model, full.removeprefix(_PREFIX))
        names[full] = f"{_PREFIX}{name}" if full.startswith(_PREFIX) else name
    return names


def _rename(model: Any, name: str) -> str:
    """Return the current name of a tensor, by the renamings that transformers knows."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # transformers before 5
        for old, new in getattr(model, "_checkpoint_conversion_mapping", {}).items():
            name = re.sub(old, new, name)
        return name
    for transform in get_model_conversion_mapping(model):
        if type(transform) is WeightRenaming:
            name = transform.rename_source_key(name)[0]
    return name


def _names(names: Sequence[str]) -> str:
    more = ["..."] if len(names) > 3 else []
    return f"{len(names)} ({', '.join([*names[:3], *more])})" if names else "0"


def _check_prompting(adapter: str, record: Mapping[str, Any], settings: Any) -> None:
    """Check that the model is asked as the adapter was trained.

    Raises:
        ModelError: A setting differs.
    """
    used = adapter_prompting(settings)
    for name, trained in record.get("asked", {}).items():
        reads_states = name == "scoring" and used.get(name) == "head"  # any prompt has states
        if used.get(name) != trained and not reads_states:
            text = str(trained).lower() if isinstance(trained, bool) else trained
            raise ModelError(
                f"cannot use recognizer.adapter = {adapter} with recognizer.{name} = "
                f"{used.get(name)}: it was trained with {trained}; set recognizer.{name} to {text}"
            )


def _check_base(
    adapter: str, record: Mapping[str, Any], model: Any, config: Any, settings: Any
) -> None:
    """Check that the model is the one that the adapter was trained on, as far as is recorded.

    Raises:
        ModelError: Architecture, sizes or weights differ.
    """
    model_name = getattr(settings, "text_model", "") or settings.model
    trained_on = config.base_model_name_or_path or ""
    if trained_on and Path(trained_on).name != Path(model_name).name:
        log.warning(
            "the adapter %s names another base model, %s; the model is %s",
            *(adapter, trained_on, model_name),
        )
    if not (recorded := record.get("base")):
        return
    current = _describe_base(model)
    for name in ("architecture", "layers", "width", "vocabulary"):
        if recorded.get(name) != current[name]:
            raise ModelError(
                f"cannot use recognizer.adapter = {adapter}: it was trained on a model with "
                f"{name} {recorded.get(name)}, and {model_name} has {current[name]}; set "
                "recognizer.model to the model that it was trained on"
            )
    parameters = dict(model.named_parameters())
    for name, values in recorded.get("values", {}).items():
        probe = _probe(parameters.get(name))
        if probe is None:
            continue  # quantized, or named otherwise by another version of transformers
        trained = torch.tensor(values)
        # Weights may be loaded in another dtype than in training: bfloat16 has 8 bits.
        if probe.shape != trained.shape or not torch.allclose(
            probe, trained, rtol=0.01, atol=0.01 * float(trained.abs().mean())
        ):
            raise ModelError(
                f"cannot use recognizer.adapter = {adapter}: it was trained on other weights than "
                f"those of {model_name} ({name} differs); set recognizer.model to the model that "
                "it was trained on"
            )


def _describe_base(model: Any) -> dict[str, Any]:
    """Return what identifies a base model: sizes, and a few values of some weights."""
    config = model.config.get_text_config()
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and parameter.is_floating_point()
    ]
    step = max(len(names) // _PROBED_TENSORS, 1)
    probes = {name: _probe(model.get_parameter(name)) for name in names[step // 2 :: step]}
    return {
        "architecture": type(model).__name__,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "values": {name: probe.tolist() for name, probe in probes.items() if probe is not None},
    }


def _probe(parameter: torch.Tensor | None) -> torch.Tensor | None:
    """Return some values of a weight; None if it is quantized or does not exist."""
    if parameter is None or parameter.dim() != 2 or not parameter.is_floating_point():
        return None
    flat = parameter.detach().flatten()
    return flat[:: max(len(flat) // _PROBED_VALUES, 1)][:_PROBED_VALUES].float().cpu()

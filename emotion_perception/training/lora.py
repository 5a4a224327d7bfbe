"""LoRA adapters (Hu et al., ICLR 2022) in the linear layers of a vision-language or text model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import peft
from torch import nn

from emotion_perception.recognizers.vlm import attention
from emotion_perception.training.recipe import Recipe

_PROJECTORS = ("connector", "multi_modal_projector", "merger", "deepstack_merger_list")
"""Module names, over all families, of what connects vision tower and language model."""


def add_lora(model: Any, recipe: Recipe) -> Any:
    """Put LoRA into the layers that the recipe selects, in place, and return the PEFT model.

    Trained parameters have 32 bits, whatever the dtype of the model.

    Raises:
        ValueError: The model has no layer of the name in `recipe.target`, or no projector.
    """
    modules = dict(model.named_modules())
    language_model = attention.language_model(model)
    root = next(name for name, module in modules.items() if module is language_model)
    if recipe.train_vision:
        root = next(name for name, module in modules.items() if module is model.model)
    output_layer = model.get_output_embeddings()
    projectors = _projectors(modules) if recipe.train_projector else []
    if recipe.train_projector and not projectors:
        raise ValueError(
            f"cannot train the projector: a {model.config.model_type} has none; remove "
            "--train-projector"
        )
    linear = {
        name.removeprefix(f"{root}.")
        for name, module in modules.items()
        if isinstance(module, nn.Linear)
        and module is not output_layer
        and name.startswith(f"{root}.")
        and not any(f"{name}.".startswith(f"{projector}.") for projector in projectors)
    }
    available = {name.rpartition(".")[2] for name in linear}
    selected = available if recipe.target == "all-linear" else set(recipe.target.split(","))
    if unknown := sorted(selected - available):
        raise ValueError(
            f"cannot train --target {unknown[0]}: the model has no such layer; choose from "
            f"{', '.join(sorted(available))}"
        )
    targets = sorted(f"{root}.{name}" for name in linear if name.rpartition(".")[2] in selected)
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        modules_to_save=projectors or None,
    )
    adapted: Any = peft.get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def _projectors(modules: dict[str, Any]) -> list[str]:
    """Return the names of the projectors; module lists are replaced by their members for PEFT."""
    names = [n for n in modules if n.rpartition(".")[2] in _PROJECTORS]
    lists = [n for n in names if isinstance(modules[n], nn.ModuleList)]
    members = [f"{n}.{i}" for n in lists for i in range(len(modules[n]))]
    return [*(n for n in names if n not in lists), *members]


def checkpoint_activations(model: Any) -> None:
    """Recompute activations in the backward pass, with the attention of the forward pass.

    Raises:
        ValueError: The model does not support it.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), attention.recompute_context(model)

    options = {"use_reentrant": False, "context_fn": contexts}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.23
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)

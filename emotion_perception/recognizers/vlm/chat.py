"""Render chat templates of models, which are programs of other people, and keep thinking off."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from emotion_perception.core.errors import ModelError

_THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Variables with which templates turn thinking off."""

_TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
)  # fmt: skip

_OPENING = re.compile(r"(<think(?:ing)?>|◁think▷|\[THINK\]|<\|start_thinking\|>)", re.IGNORECASE)
_CLOSING = re.compile(r"(</think(?:ing)?>|◁/think▷|\[/THINK\]|<\|end_thinking\|>)", re.IGNORECASE)


def render(source: Any, messages: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return a chat as the prompt of a model, up to where the answer begins, without thinking.

    Args:
        source: A processor or tokenizer with a chat template.
        messages: The chat, in the form of transformers.
        name: The model, for errors.

    Raises:
        ModelError: The template rejects the chat.
    """
    template = str(source.chat_template)
    switches = {
        name: False for name in _THINKING_SWITCHES if re.search(rf"(?<![\w<]){name}\b", template)
    }
    try:
        return source.apply_chat_template(  # type: ignore[no-any-return]
            list(messages), add_generation_prompt=True, tokenize=False, **switches
        )
    except _TEMPLATE_ERRORS as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(
            f"cannot use the chat template of {name}: it rejects the question ({reason}); choose "
            "another model"
        ) from error


def open_thoughts(prompt: str) -> str:
    """Return the marker of thoughts that a prompt opens and does not close; empty if none."""
    opened = list(_OPENING.finditer(prompt))
    closed = list(_CLOSING.finditer(prompt))
    if not opened or (closed and closed[-1].start() > opened[-1].start()):
        return ""
    return opened[-1].group()


def check_scoring(prompt: str, name: str) -> None:
    """Check that an answer can be scored right after a prompt.

    Raises:
        ModelError: The model would think first.
    """
    if marker := open_thoughts(prompt):
        raise ModelError(
            f"cannot score answers of {name}: its chat template always thinks first ({marker}), "
            "but scores are read where the answer begins; choose a model without thinking, or set "
            "recognizer.scoring to generate"
        )

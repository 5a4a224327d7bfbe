"""One setting: its default, unit, range and meaning, declared as a dataclass field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any

Value = bool | int | float | str | tuple[str, ...]
_TYPE_NAMES = {bool: "bool", int: "int", float: "float", str: "str", tuple: "a list of texts"}


@dataclass(frozen=True, slots=True)
class Setting:
    """Properties of one setting."""

    name: str
    default: Value
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """Whether it can change while the node is active; the others take effect at configure."""
    start_only: bool = False
    """Whether it chooses what is loaded, or where images come from or go to. After the start of the
    node it changes only with `allow_reconfigure`."""
    server: bool = False
    """Whether it is the URL of a server that gets images."""
    read_only: bool = False
    """Whether it never changes after the start of the node."""
    read_by: tuple[str, ...] = ()
    """Detectors or recognizers that read it; empty: all."""

    @property
    def type(self) -> Any:
        """Return the type of the value."""
        return type(self.default)

    @property
    def constraint(self) -> str:
        """Return the allowed values in words, empty if every value of the type is allowed."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"{low:g} to {high:g}{self.unit and ' ' + self.unit}"
        if low is not None:
            return f"at least {low:g}{self.unit and ' ' + self.unit}"
        return ""

    def validate(self, value: Any) -> Value:
        """Return the value in the type of the setting.

        Raises:
            ValueError: the value has the wrong type, is not finite, or is out of range.
        """
        wanted = self.type
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if wanted is tuple and isinstance(value, Sequence) and not isinstance(value, str):
            value = tuple(value)
        is_list = type(value) is tuple and all(isinstance(entry, str) for entry in value)
        if type(value) is not wanted or (wanted is tuple and not is_list):
            raise ValueError(
                f"{self.name} = {value!r} is of type {type(value).__name__}, "
                f"expected {_TYPE_NAMES[wanted]}{self.constraint and ': ' + self.constraint}"
            )
        if wanted is float and not math.isfinite(value):
            raise ValueError(f"{self.name} = {value} is not a finite number")
        too_low = self.minimum is not None and value < self.minimum
        too_high = self.maximum is not None and value > self.maximum
        if too_low or too_high or (self.choices and value not in self.choices):
            raise ValueError(f"{self.name} = {value!r} is not allowed: {self.constraint}")
        result: Value = value
        return result


def setting(
    default: Value,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    start_only: bool | None = None,
    server: bool = False,
) -> Any:
    """Return a dataclass field that is also a documented setting.

    A free text is `start_only` unless stated otherwise, since it usually names a file or a server.
    """
    if start_only is None:
        start_only = isinstance(default, str) and not choices
    return field(
        default=default,
        metadata={
            "description": description,
            "unit": unit,
            "minimum": minimum,
            "maximum": maximum,
            "choices": choices,
            "live": live,
            "start_only": start_only,
            "server": server,
        },
    )


def variants(classes: Mapping[str, type[Any]], description: str) -> Any:
    """Return a dataclass field whose class is chosen by its own setting `name`.

    Args:
        classes: name to dataclass, the default first.
        description: of the setting `name`.
    """
    default = next(iter(classes))
    return field(
        default_factory=lambda: classes[default](name=default),
        metadata={
            "variants": classes,
            "name": setting(default, description, start_only=True).metadata,
        },
    )


def collect(cls: type[Any], prefix: str = "") -> dict[str, Setting]:
    """Return every setting of a dataclass by its full name, those of nested groups included."""
    settings: dict[str, Setting] = {}
    for item in fields(cls):
        full = prefix + item.name
        if "variants" in item.metadata:
            settings |= _collect_variants(item.metadata, full + ".")
        elif "description" in item.metadata:
            default: Any = item.default
            settings[full] = Setting(full, default, **item.metadata)
        elif item.default_factory is not MISSING and is_dataclass(item.default_factory):
            group: Any = item.default_factory
            settings |= collect(group, full + ".")
            if item.metadata.get("start_only"):
                names = [name for name in settings if name.startswith(full + ".")]
                settings |= {name: replace(settings[name], start_only=True) for name in names}
    return settings


def _collect_variants(metadata: Mapping[str, Any], prefix: str) -> dict[str, Setting]:
    """Return the union of the settings of all variants, each with the variants that read it."""
    classes: dict[str, type[Any]] = metadata["variants"]
    name = {**metadata["name"], "choices": tuple(classes)}
    union = {f"{prefix}name": Setting(f"{prefix}name", next(iter(classes)), **name)}
    own = {variant: collect(cls, prefix) for variant, cls in classes.items()}
    for settings in own.values():
        union |= {full: setting for full, setting in settings.items() if full not in union}
    for full, setting in union.items():
        readers = tuple(variant for variant in own if full in own[variant])
        if 0 < len(readers) < len(own):
            union[full] = replace(setting, read_by=readers)
    return union


def build(cls: type[Any], values: Mapping[str, Value], prefix: str = "") -> Any:
    """Return a dataclass with validated values by full name; the others keep their defaults.

    Raises:
        ValueError: a value that is not the default belongs to a variant that is not chosen.
    """
    arguments: dict[str, Any] = {}
    for item in fields(cls):
        full = prefix + item.name
        if "variants" in item.metadata:
            arguments[item.name] = _build_variant(item.metadata, values, full + ".")
        elif full in values and item.init:
            arguments[item.name] = values[full]
        elif item.default_factory is not MISSING and is_dataclass(item.default_factory):
            group: Any = item.default_factory
            arguments[item.name] = build(group, values, full + ".")
    return cls(**arguments)


def _build_variant(metadata: Mapping[str, Any], values: Mapping[str, Value], prefix: str) -> Any:
    union = _collect_variants(metadata, prefix)
    name = str(values.get(f"{prefix}name", union[f"{prefix}name"].default))
    cls = metadata["variants"][name]
    own = collect(cls, prefix).keys() | {f"{prefix}name"}
    for full, setting in union.items():
        value = values.get(full, setting.default)
        if full not in own and value != setting.default:
            raise unread_error(f"{prefix}name = {name}", full, value, setting.read_by)
    return build(cls, {**values, f"{prefix}name": name}, prefix)


def unread_error(choice: str, name: str, value: Any, readers: Sequence[str]) -> ValueError:
    """Return the error for a setting that the chosen variant does not read."""
    reads = "read it" if len(readers) > 1 else "reads it"
    return ValueError(
        f"cannot use {name} = {value!r} with {choice}: only {', '.join(readers)} {reads}; "
        f"remove it or change {choice.split(' ')[0]}"
    )

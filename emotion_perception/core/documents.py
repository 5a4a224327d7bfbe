"""Read JSON, YAML and CSV that anyone may have written: within bounds, in linear time.

Each function raises a ValueError whose text is a reason in one line, without the name of the file:
the caller knows what the file is for, and the remedy. What is refused in every format: more bytes
than the limit, text that is not UTF-8, nesting deeper than `MAX_DEPTH`, numbers that neither int64
nor float64 can hold, and a key that occurs twice or is not text. YAML may have no aliases.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

MAX_JSON_BYTES = 64 << 20
MAX_YAML_BYTES = 1 << 20
"""PyYAML reads about 200 kB per second."""
MAX_TABLE_BYTES = 1 << 30
MAX_LINE_BYTES = 4 << 20
"""Of one line of JSON; a line about an image with 26 scores for each of 100 people has 60 kB."""
MAX_CELL = csv.field_size_limit()
"""Characters of one cell of a CSV file."""
MAX_DEPTH = 64
_BLOCK = 1 << 20
_MAX_DIGITS = 400
"""Of one number: a float64 in full has 309 digits before the point, or 324 zeros behind it."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)


def read_bytes(path: Path | str, limit: int) -> bytes:
    """Return the content of a file.

    Raises:
        ValueError: It has more bytes than the limit.
        OSError: It cannot be read.
    """
    content = bytearray()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):  # one call would reserve memory for the limit
            content += block
            if len(content) > limit:
                raise ValueError(f"it has more than {limit:,} bytes")
    return bytes(content)


def read_text(path: Path | str, limit: int = MAX_TABLE_BYTES) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises:
        ValueError: It is not UTF-8 or too long.
        OSError: It cannot be read.
    """
    return _decode(read_bytes(path, limit))


def read_json(path: Path | str) -> Any:
    """Return the value in a JSON file.

    Raises:
        ValueError: It is not valid JSON, or outside the bounds.
        OSError: It cannot be read.
    """
    return parse_json(read_bytes(path, MAX_JSON_BYTES))


def read_json_object(path: Path | str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: It is not a JSON object, or outside the bounds.
        OSError: It cannot be read.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"it is not a JSON object, but {_kind(content)}")
    return content


def parse_json(content: bytes | str, finite: bool = True) -> Any:
    """Return the value of a JSON text.

    Args:
        content: The text.
        finite: Refuse NaN and infinities, which Python writes although JSON has none.

    Raises:
        ValueError: It is not valid JSON, or outside the bounds.
    """
    text = content if isinstance(content, str) else _decode(content)
    try:
        value = json.loads(
            text,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_refuse_constant if finite else None,
            object_pairs_hook=_object,
        )
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ValueError(f"it is not valid JSON ({error.msg}, {place})") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    escaped = re.search(r"\\u[dD][89a-fA-F]", text)
    if escaped and _SURROGATES.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError("a text in it is not valid Unicode (half of a surrogate pair)")
    return value


def json_lines(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Yield number, bytes and completeness of each line; only the last one may be incomplete.

    Raises:
        ValueError: A line is too long; the text names the file.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(
                f"cannot read {file.name}: line {number} has more than {MAX_LINE_BYTES:,} bytes"
            )
        yield number, line, line.endswith(b"\n")


class BoundedLoader(yaml.SafeLoader):
    """Refuses aliases, deep nesting, keys that are not text, and numbers of many digits."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node within the bounds.

        Raises:
            yaml.YAMLError: It is outside.
        """
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias is not allowed", problem_mark=mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=_too_deep(), problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            if node.tag != "tag:yaml.org,2002:str" and len(node.value) > _MAX_DIGITS:
                raise yaml.MarkedYAMLError(problem="a number is too long", problem_mark=mark)
            if _SURROGATES.search(node.value):
                raise yaml.MarkedYAMLError(problem="not valid Unicode", problem_mark=mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping with keys that are scalars.

        Raises:
            yaml.YAMLError: A key is a list or a mapping.
        """
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem=_NO_TEXT_KEY, problem_mark=key.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys are text and differ.

        Raises:
            yaml.YAMLError: They are not, or do not.
        """
        keys: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(
                    problem=f"{_NO_TEXT_KEY}: {_short(key.value)}", problem_mark=key.start_mark
                )
            if key.value in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {_short(key.value)} occurs twice", problem_mark=key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        """Construct an int64.

        Raises:
            ValueError: The number is larger.
        """
        value: int = self.construct_yaml_int(node)
        if value not in _INT64:
            raise ValueError(f"the number {_short(node.value)} is too large")
        return value

    def construct_float(self, node: yaml.ScalarNode) -> float:
        """Construct a float64.

        Raises:
            ValueError: The number is not finite.
        """
        value: float = self.construct_yaml_float(node)
        if not math.isfinite(value):
            raise ValueError(f"the number {_short(node.value)} is not finite")
        return value


BoundedLoader.add_constructor("tag:yaml.org,2002:int", BoundedLoader.construct_int)
BoundedLoader.add_constructor("tag:yaml.org,2002:float", BoundedLoader.construct_float)

_NO_TEXT_KEY = "a key is not text"
_YAML_ERRORS = (
    *(yaml.YAMLError, RecursionError, ValueError, OverflowError),
    *(LookupError, TypeError, AttributeError),
)
"""What PyYAML raises; the last three for values such as `!!int ""` and `!!timestamp x`."""


def read_yaml(path: Path | str) -> Any:
    """Return the value in a YAML file.

    Raises:
        ValueError: It is not YAML, or outside the bounds.
        OSError: It cannot be read.
    """
    text = read_text(path, MAX_YAML_BYTES)
    try:
        return yaml.load(text, BoundedLoader)
    except _YAML_ERRORS as error:
        raise yaml_error(error) from error


def compose_yaml(path: Path | str, loader: type[BoundedLoader]) -> yaml.Node | None:
    """Return the nodes of a YAML file, for a loader that constructs values of its own.

    Raises:
        ValueError: It is not YAML, or outside the bounds.
        OSError: It cannot be read.
    """
    text = read_text(path, MAX_YAML_BYTES)
    try:
        return yaml.compose(text, loader)
    except _YAML_ERRORS as error:
        raise yaml_error(error) from error


def construct_yaml(node: yaml.Node, loader: type[BoundedLoader]) -> Any:
    """Return the value of a node of `compose_yaml`.

    Raises:
        ValueError: The node has no such value.
    """
    try:
        return loader("").construct_object(node, deep=True)
    except _YAML_ERRORS as error:
        raise yaml_error(error, node.start_mark) from error


def yaml_error(error: Exception, mark: Any = None) -> ValueError:
    """Return the error in one line: what is wrong, and where."""
    mark = getattr(error, "problem_mark", None) or mark
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    if isinstance(error, RecursionError):
        problem = _too_deep()
    place = f"line {mark.line + 1}: " if mark else ""
    return ValueError(f"it is not YAML ({place}{' '.join(str(problem).split())})")


def read_csv(
    path: Path | str, required: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the cells of each row of a CSV file with a header.

    Args:
        path: The file.
        required: Columns that the file must have.

    Raises:
        ValueError: The file is not such a table; the text names the line.
        OSError: It cannot be read.
    """
    rows = csv_rows(path)
    _, header = next(rows, (0, []))
    header = without_empty_end(header)
    if missing := [name for name in required if name not in header]:
        raise ValueError(f"it lacks the columns {', '.join(missing)}")
    if repeated := next((n for n, count in Counter(header).items() if n and count > 1), ""):
        raise ValueError(f"it has the column {_short(repeated)} twice")
    for number, row in rows:
        cells = without_empty_end(row, len(header))
        if len(cells) != len(header):
            raise ValueError(
                f"line {number} is truncated or damaged: it has more or fewer cells than the first "
                f"line ({len(cells)}, not {len(header)})"
            )
        yield number, dict(zip(header, cells, strict=True))


def csv_rows(path: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row of a CSV file that is not empty.

    The cells are separated as `csv_delimiter` says.

    Raises:
        ValueError: The file is not UTF-8 or not a table; the text names the line.
        OSError: It cannot be read.
    """
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=csv_delimiter(text))
    try:
        for cells in reader:
            is_declaration = reader.line_num == 1 and bool(_DECLARATION.match(text))
            if any(map(str.strip, cells)) and not is_declaration:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is damaged: {error}") from error


_DECLARATION = re.compile(r"sep=([,;\t])\r?$", re.MULTILINE)
"""The first line with which some spreadsheets declare the delimiter."""
_QUOTED = re.compile(r'"(?:[^"]|"")*(?:"|$)|\[[^\]]*(?:\]|$)')
"""Quoted texts and lists in brackets, which may hold delimiters."""


def csv_delimiter(text: str) -> str:
    """Return what separates the cells of a table: a comma, a semicolon or a tab.

    Spreadsheets write semicolons where a comma separates the decimals. The most frequent one in the
    first line counts; a comma if there is none.
    """
    if declared := _DECLARATION.match(text):
        return declared[1]
    bare = _QUOTED.sub("", text.partition("\n")[0])
    return max(",;\t", key=bare.count)


def without_empty_end(cells: Sequence[str], length: int = 0) -> list[str]:
    """Return the cells without the empty ones at the end, but at least `length` of them if it can.

    Spreadsheets add empty cells where another row is longer.
    """
    end = len(cells)
    while end > length and not cells[end - 1].strip():
        end -= 1
    return list(cells[:end])


_ITEM = re.compile(
    r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"\[\](){}]+)\s*(,|\Z)""", re.DOTALL
)


Literal = str | int | float | None


def parse_literal(text: str) -> Literal | list[Literal]:
    """Return a text, a number, or a list of these, as Python writes it; None for nan.

    Raises:
        ValueError: It is none of these. A list has no lists in it.
    """
    text = text.strip()
    is_list = text[:1] + text[-1:] in ("[]", "()", "{}") and len(text) > 1
    body, items, place = text[1:-1].strip() if is_list else text, [], 0
    while place < len(body):
        match = _ITEM.match(body, place)
        if match is None:
            break
        items.append(_item(match[1]))
        place = match.end()
    if place < len(body) or not (is_list or len(items) == 1):
        raise ValueError(f"{_short(text)} is not a text, a number or a list of these")
    return items if is_list else items[0]


def _item(text: str) -> Literal:
    if text[0] in "'\"":
        try:
            return str(ast.literal_eval(text))
        except SyntaxError as error:
            raise ValueError(f"{_short(text)} is not a text: {error.msg}") from error
    if text.lower() in ("nan", "none"):
        return None
    return _int(text) if re.fullmatch(r"[+-]?\d+", text) else _float(text)


def are_numbers(
    values: Any, low: float, high: float, count: int | None = None, *, nan: bool = True
) -> bool:
    """Return whether a value of `parse_json` is a list of numbers in a range.

    Args:
        values: The value.
        low: The smallest allowed number.
        high: The largest.
        count: The length of the list; None: any.
        nan: Whether NaN is allowed.
    """
    return (
        isinstance(values, list)
        and (count is None or len(values) == count)
        and all(type(x) in (int, float) for x in values)
        and all(low <= x <= high or (nan and math.isnan(x)) for x in values)
    )


def _decode(content: bytes) -> str:
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ValueError(
            "it is a workbook of a spreadsheet or an archive, not text; export it as CSV"
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {number} is not valid UTF-8 ({error}); save the file as UTF-8"
        ) from error


def _int(text: str) -> int:
    if len(text) > 20 or (value := int(text)) not in _INT64:
        raise ValueError(f"the number {_short(text)} is too large")
    return value


def _float(text: str) -> float:
    value = float(text) if len(text) <= _MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise ValueError(f"the number {_short(text)} is too large or too long")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys: set[str] = set()
        for key, _ in pairs:
            if key in keys:
                raise ValueError(f"the key {_short(key)} occurs twice")
            keys.add(key)
    return content


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(_too_deep())
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]


def _too_deep() -> str:
    return f"it is nested more than {MAX_DEPTH} levels deep"


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:30]!r}... ({len(text)} characters)"

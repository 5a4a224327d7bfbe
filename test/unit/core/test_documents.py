"""JSON, YAML and CSV within bounds: one reason in one line, in linear time."""

import random
import time

import pytest

from emotion_perception.core import documents

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "line 2: an alias is not allowed"),
        ("a: &a [*a]", "line 1: an alias"),
        ("[" * 100_000, "more than 64 levels"),
        ("- " * 100, "more than 64 levels"),
        ("{a: " * 1000, "more than 64 levels"),
        (f"a: 1{'0' * 400}", "too long"),
        (f"a: {10**30}", "too large"),
        ("a: 1.0e+400", "not finite"),
        ("a: .nan", "not finite"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' occurs twice"),
        ("1: a", "line 1: a key is not text: '1'"),
        ("null: a", "a key is not text"),
        ("? [a]\n: b", "line 1: a key is not text"),
        ("<<: {a: 1}", "a key is not text"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: !!int ''", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("!!map [1]", "not YAML"),
        ('a: "\\uD800"', "not valid Unicode"),
        ("a: b: c", "line 1: mapping values"),
        ("\x00", "not YAML"),
        ("a: 1\n" * 300_000, "more than 1,048,576 bytes"),
    ],
    ids=lambda text: text[:20].strip(),
)
def test_yaml_outside_the_bounds_is_one_reason(file, text, reason):
    file.write_text(text)
    start = time.monotonic()
    with pytest.raises(ValueError, match=reason) as caught:
        documents.read_yaml(file)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 30


def test_yaml_within_the_bounds_is_read(file):
    file.write_text("a: [1, 2.5, x, null, true]\nb: {c: 'ä'}\n")
    assert documents.read_yaml(file) == {"a": [1, 2.5, "x", None, True], "b": {"c": "ä"}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 1_000_000, "more than 64 levels"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "more than 64 levels"),
        (b"1" + b"0" * 400, "too large"),
        (b"9" * 1_000_000, "too large"),
        (b"1e400", "too large"),
        (b"[NaN]", "NaN is not a number"),
        (b"-Infinity", "not a number"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice"),
        (b'"\\ud800"', "not valid Unicode"),
        (b'"\xff"', "line 1 is not valid UTF-8"),
        (b'{\n"a": 1,}', r"not valid JSON \(.*line 2 column"),
        (b"", "not valid JSON"),
    ],
    ids=lambda text: str(text[:20]),
)
def test_json_outside_the_bounds_is_one_reason(content, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        documents.parse_json(content)
    assert "\n" not in str(caught.value)


def test_json_within_the_bounds_is_read(file):
    file.write_text('{"a": [1, -2.5e-3, "\\ud83d\\ude00", null]}')
    assert documents.read_json_object(file) == {"a": [1, -0.0025, "😀", None]}
    file.write_text("[1]")
    with pytest.raises(ValueError, match="not a JSON object, but a list"):
        documents.read_json_object(file)


def test_csv_is_read_with_the_line_of_each_row(file):
    file.write_bytes(b'\xef\xbb\xbfkey,text\r\n\r\na,"x\ny"\r\nb,z\r\n')
    assert list(documents.read_csv(file, ["key"])) == [
        (4, {"key": "a", "text": "x\ny"}),
        (5, {"key": "b", "text": "z"}),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"key;text;;\r\na;b, c\r\n;;;\r\n",
        b"sep=;\r\nkey;text\r\na;b, c;;;;\r\n",
        b'key\ttext\na\t"b, c"\n',
        b'"key","text"\n"a","b, c"\n',
    ],
)
def test_csv_of_a_spreadsheet_is_read(file, content):
    file.write_bytes(content)
    assert [row for _, row in documents.read_csv(file)] == [{"key": "a", "text": "b, c"}]


def test_delimiter_is_not_counted_in_quotes_and_lists():
    assert documents.csv_delimiter('key,"a;b;c"') == ","
    assert documents.csv_delimiter("key;['a', 'b', 'c']") == ";"
    assert documents.csv_delimiter("word") == ","


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04...", "it is a workbook of a spreadsheet.*export it as CSV"),
        ("key,text".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (b"", "lacks the columns key"),
        (b"text\na\n", "lacks the columns key"),
        (b"key,text,text\n", "the column 'text' twice"),
        (b"key,text\na\n", "line 2 is truncated or damaged: it has .*1, not 2"),
        (
            b"key,text\n\na,b,c\n",
            "line 3 is truncated or damaged: it has .*3, not 2",
        ),
        (b"key,text\na," + b"x" * 131_073 + b"\n", "line 2 is damaged: field larger"),
        (b"key,text\na,b\nc,\xff\n", "line 3 is not valid UTF-8"),
    ],
    ids=lambda text: str(text[:20]),
)
def test_csv_that_is_no_such_table_is_one_reason(file, content, reason):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        list(documents.read_csv(file, ["key"]))


def test_line_without_an_end_is_bounded(file):
    file.write_bytes(b"1\n" + b"2" * (documents.MAX_LINE_BYTES + 1))
    with pytest.raises(ValueError, match="file: line 2 has more than"), file.open("rb") as stream:
        list(documents.json_lines(stream))


@pytest.mark.parametrize("read", [documents.read_yaml, documents.read_json])
def test_mutated_documents_end_in_a_value_or_in_a_value_error(file, read):
    """Bytes of a valid document are replaced, removed and repeated."""
    valid = b'{"a": [1, 2.5e3, "x", null, true], "b": {"c": "\\u00e4", "d": [[], {}]}}'
    draw = random.Random(1)
    read_count, reasons = 0, set()
    for _ in range(400):
        content = bytearray(valid)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(content))
            new = bytes(draw.choices(b'{}[]:,"&*!|>%@`- \n\t\x000123456789eE.\\u\xff', k=3))
            content[place : place + draw.randint(0, 4)] = new * draw.choice((1, 1, 30))
        file.write_bytes(content)
        try:
            read(file)
            read_count += 1
        except ValueError as error:
            reasons.add(str(error))
    assert 0 < read_count < 400
    assert not any("\n" in reason for reason in reasons)

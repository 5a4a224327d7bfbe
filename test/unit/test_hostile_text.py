"""Text from files, messages and servers reaches no terminal, page or message as it is."""

import io
import logging

import pytest

pytest.importorskip("rich")

from rich.console import Console

from emotion_perception.cli import main as cli
from emotion_perception.cli import output
from emotion_perception.client.people_table import people_table
from emotion_perception.core.values import Box, Estimate, PeopleEstimate, Status, Track
from emotion_perception.evaluation.pages.templating import render
from emotion_perception.io.bags import _message_types
from emotion_perception.io.message_codec import people_to_msg
from emotion_perception.io.overlay import caption

HOSTILE = "\x1b[2J\x9b31m\x07\u202e[bold]x[/nothing]"
LONG = "y" * 100_000
CONTROLS = ("\x1b", "\x9b", "\x07", "\u202e")


def shown_people(text):
    people = [
        Estimate(Track(text, Box(0, 0, 9, 9), 0.9), Status.ABSTAINED, reason=text, rationale=text)
        for text in (text + HOSTILE, text + LONG)
    ]
    return PeopleEstimate(1, text, 100, 100, text, text, ("peace", text), tuple(people))


def is_harmless(text):
    return not any(control in text for control in CONTROLS)


@pytest.mark.parametrize("text", [HOSTILE, LONG])
@pytest.mark.parametrize("make", [output.plain_console, Console])
def test_table_of_people_is_harmless_and_short(monkeypatch, make, text):
    console = make()
    console.file = io.StringIO()
    console.print(people_table(text, shown_people(text)))
    assert is_harmless(console.file.getvalue().replace("\x1b[3m", "").replace("\x1b[0m", ""))
    assert len(console.file.getvalue()) < 10_000


def test_console_of_the_commands_shows_no_control_character():
    from rich.table import Table

    console = output.plain_console()
    console.file = io.StringIO()
    table = Table("column", title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    console.print(f"written to {HOSTILE}")
    console.print(LONG)
    assert is_harmless(console.file.getvalue())
    assert "\\x1b[2J" in console.file.getvalue()
    assert len(console.file.getvalue()) < 20_000


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_error_of_a_command_is_one_short_line(monkeypatch, capsys, error):
    from emotion_perception.cli import compare

    def fail(arguments):
        logging.getLogger("emotion_perception.x").warning("about %s", HOSTILE + LONG)
        raise error(f"cannot read {HOSTILE}\nline 2 {LONG}")

    monkeypatch.setattr(compare, "run", fail)
    assert cli.main(["compare", "folder"]) == 2
    printed = capsys.readouterr().err
    assert is_harmless(printed)
    warning, line = printed.splitlines()
    assert line.startswith("emotion-perception compare: cannot read \\x1b[2J")
    assert len(line) < 5_000
    assert len(warning) <= 10_000
    assert logging.getLogger("emotion_perception").handlers == []


def test_page_shows_no_control_character(tmp_path):
    (tmp_path / "page.html").write_text("<p>{{ text }}</p>")
    shown = render("page.html", tmp_path, text=f"<b>{HOSTILE}")
    assert is_harmless(shown)
    assert shown.startswith("<p>&lt;b&gt;\\x1b[2J")
    assert len(render("page.html", tmp_path, text=LONG)) < 11_000


@pytest.mark.parametrize("text", [HOSTILE, LONG])
def test_caption_of_a_person_is_harmless_and_short(text):
    for estimate in shown_people(text).people:
        assert is_harmless(caption(estimate))
        assert len(caption(estimate)) <= 100


@pytest.mark.parametrize("text", [HOSTILE, LONG])
def test_texts_of_a_message_are_harmless_and_short(text):
    message = people_to_msg(shown_people(text), _message_types())
    for person in message.people:
        assert is_harmless(person.reason)
        assert is_harmless(person.rationale)
        assert len(person.reason) <= 500
        assert len(person.rationale) <= 10_000
    assert is_harmless(message.model)
    assert len(message.model) <= 500

"""Options that several commands share, and options with a former name."""

import os
import re

import pytest

from emotion_perception.cli.main import COMMANDS, main
from emotion_perception.cli.options import read_parameters


@pytest.mark.parametrize(
    ("arguments", "current"),
    [
        (["world", "data", "x", "--pictures", "3"], "--images TRAIN VAL TEST"),
        (["world", "train", "x", "--looks", "3"], "--vision-steps N"),
        (["world", "report", "x", "--pictures", "3"], "--images N"),
        (["evaluate", "--system", "majority", "--root", "x"], "evaluate system NAME --root DIR"),
        (["evaluate", "--predictions", "x.jsonl"], "evaluate predictions FILE"),
        (["evaluate", "--root", "x"], "evaluate system NAME --root DIR"),
        (["evaluate", "--model", "m", "--system", "vlm"], "evaluate system NAME --root DIR"),
        (["evaluate", "--give-up", "--root", "x"], "evaluate system NAME --root DIR"),
        (["evaluate", "-p", "device:=cpu"], "evaluate system NAME --root DIR"),
        (["evaluate", "--labels", "x.csv"], "evaluate predictions FILE"),
    ],
)
def test_former_option_is_refused_with_its_current_form(capsys, arguments, current):
    pytest.importorskip("polars")
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert current in capsys.readouterr().err


def test_help_lists_each_command_with_a_summary(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, summary in COMMANDS.items():
        assert f"{name} {summary}" in printed


def test_parameter_without_a_value_is_refused(capsys):
    pytest.importorskip("polars")
    assert main(["replay", "bag", "-p", "smoothing"]) == 2
    assert "write it as NAME:=VALUE" in capsys.readouterr().err


def test_path_that_is_not_utf_8_is_refused_before_the_work(tmp_path, capfd):
    for argument in (os.fsdecode(b"bag_\xff"), os.fsdecode(b"--out=\xfe")):
        assert main(["replay", argument]) == 2
        assert "it is not valid UTF-8; rename the file" in capfd.readouterr().err


def test_folder_that_is_not_utf_8_is_refused_before_the_work(tmp_path, capfd, monkeypatch):
    folder = tmp_path / os.fsdecode(b"home_\xff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main(["replay", "bag"]) == 2
    assert r"home_\xff': it is not valid UTF-8" in capfd.readouterr().err


@pytest.mark.parametrize("value", ["[" * 100_000, f"1{'0' * 400}", "1e400", "NaN", '"\\ud800"'])
def test_value_of_a_parameter_outside_the_bounds_is_a_text(value):
    assert read_parameters([f"name:={value}"]) == {"name": value}


@pytest.mark.parametrize(
    "command",
    [
        "bench --out file/x",
        "bench --only vlm --page file/page.md",
        "compare run --out file/x",
        "evaluate predictions missing.jsonl --labels missing.csv --out file/x",
        "world data file/x",
        "world clip file/x.mp4",
        "world report model --out file/x",
        "world precision model --out file/x",
    ],
)
def test_output_below_a_file_is_refused_before_the_work(tmp_path, monkeypatch, capsys, command):
    pytest.importorskip("polars")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert re.search(r"cannot create the folder file[^\n]*: (Not a directory|File exists)", error)
    assert os.listdir(tmp_path) == ["file"]

"""The help of each command, its examples, hints at misspelt words, and what is printed where."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from emotion_perception.cli.main import COMMANDS, build_parser, main
from emotion_perception.cli.parser import Parser

HEAVY = {"numpy", "torch", "cv2", "polars", "matplotlib", "transformers", "rosbags", "rich"}


def parsers(parser=None):
    """Return the words of each command and subcommand, with its parser."""
    found, waiting = [], [((), parser or build_parser())]
    while waiting:
        words, parser = waiting.pop()
        found.append((words, parser))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += [((*words, name), p) for name, p in action.choices.items()]
    return found


def refusal(capsys, *words):
    """Return what the command prints when it refuses its words."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    return capsys.readouterr().err


def test_help_of_no_command_loads_a_library_that_computes():
    program = (
        "import sys\n"
        "from emotion_perception.cli.main import main\n"
        f"for words in {[words for words, _ in parsers()]!r}:\n"
        "    try:\n"
        "        main([*words, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert not end.code\n"
        "print('modules:', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(parsers())
    loaded = {name.split(".")[0] for name in done.stdout.rpartition("modules:")[2].split()}
    assert not HEAVY & loaded


def test_each_command_has_examples_that_it_accepts(capsys):
    top = build_parser()
    for words, parser in parsers(top):
        assert parser.examples, words
        for example in parser.examples:
            assert example in parser.format_help()
            program, *arguments = example.split()
            assert program == "emotion-perception"
            assert tuple(arguments[: len(words)]) == words
            if arguments[-1] != "-h":
                assert top.parse_args(arguments).command == arguments[0]


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "emotion_perception", "compare", "nowhere"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("emotion-perception compare: cannot ")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["replya", "bag"], "invalid choice: 'replya'; did you mean replay?"),
        (["replay", "bag", "--lables", "x.csv"], "--lables x.csv; did you mean --labels?"),
        (["replay", "bag", "--lables=x.csv"], "--lables=x.csv; did you mean --labels?"),
        (["replay", "bag", "-out", "x"], "-out x; did you mean --out?"),
        (["evaluate", "systemm"], "did you mean system?"),
        (["evaluate", "system", "rand6", "--rot", "x"], "required: --root; did you mean --root?"),
        (["bench", "--only", "nodes"], "'nodes'; did you mean node?"),
    ],
)
def test_misspelt_word_gets_a_hint(capsys, words, hint):
    assert hint in refusal(capsys, *words)


def test_word_that_resembles_none_and_a_short_form_get_no_hint(capsys):
    assert "did you mean" not in refusal(capsys, "xyz")
    assert "did you mean" not in refusal(capsys, "replay", "bag", "--xyz")
    assert "did you mean" not in refusal(capsys, "replay", "bag", "--param", "x", "extra")
    assert "did you mean" not in refusal(capsys, "replay", "bag", "extra", "--start", "-5")


@pytest.mark.parametrize("words", [["replay", "x", "--lables", "y"], ["world", "clip", "x", "y"]])
def test_error_shows_the_usage_of_its_own_command(capsys, words):
    name = " ".join(words[: -3 if words[0] == "replay" else -2])
    printed = refusal(capsys, *words)
    assert printed.startswith(f"usage: emotion-perception {name} ")
    assert f"emotion-perception {name}: error: unrecognized arguments: " in printed


def test_all_commands_have_a_parser():
    assert {words[0] for words, _ in parsers() if words} == set(COMMANDS)
    assert all(isinstance(parser, Parser) for _, parser in parsers())


@pytest.fixture
def predictions(tmp_path):
    """The words that evaluate two predictions of which one has no ground truth."""
    pytest.importorskip("polars")
    people = [{"image": f"{i}.jpg", "scores": [0.3 + i / 10] * 26} for i in range(2)]
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, people)))
    (tmp_path / "labels.csv").write_text("0.jpg,\"['Peace']\"\n")
    file, labels, out = (str(tmp_path / name) for name in ("scores.jsonl", "labels.csv", "run"))
    return ["evaluate", "predictions", file, "--labels", labels, "--subset", "--out", out]


def test_json_is_the_only_text_on_the_standard_output(predictions, tmp_path, capsys):
    assert main([*predictions, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["metrics"] == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert result["folder"] == str(tmp_path / "run")
    assert "1 predictions are left out" in printed.err


def test_quiet_command_prints_its_result_and_warnings_only(predictions, tmp_path, capsys):
    assert main([*predictions, "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "written to" in printed.out
    assert printed.err == ""
    out = str(tmp_path / "compared")
    assert main(["compare", str(tmp_path / "run"), "--out", out, "--quiet", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"][0]["model"] == "run"
    assert all(line.startswith("Warning: ") for line in printed.err.splitlines())


def test_progress_and_bars_of_libraries_stay_out_of_pipes(predictions, capsys, monkeypatch):
    from emotion_perception.cli.output import Output

    with Output(argparse.Namespace()).progress("images") as update:
        update(1, 2, "text")
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert main(predictions) == 0
    assert os.environ["TQDM_DISABLE"] == "1"


def test_reader_that_ends_early_is_no_error():
    program = f"{sys.executable} -m emotion_perception doctor --parameters"
    done = subprocess.run(
        ["bash", "-c", f"{program} | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_doctor_prints_lines_that_a_shell_accepts(monkeypatch, capsys):
    """With a narrow terminal, on a computer where nothing is installed."""
    monkeypatch.setattr("emotion_perception.installation.doctor.find_spec", lambda name: None)
    monkeypatch.setenv("COLUMNS", "20")
    assert main(["doctor"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    remedies = [line.strip() for line in lines if line.startswith(" ")]
    assert "pip install --no-deps -r requirements/copyleft.txt" in remedies
    assert last.startswith("The node would not start: ROS 2 (rclpy) (not installed), ")
    syntax = ["bash", "-n", "-c", "\n".join(remedies)]
    assert subprocess.run(syntax, capture_output=True).returncode == 0
    programs = {line.split()[0] for line in remedies}
    assert programs <= {"pip", "source", "apt", "colcon", "emotion-perception", "export", "#"}
    assert main(["doctor", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["starts"]
    assert next(c["remedy"] for c in result["checks"] if c["remedy"])[0].startswith("source ")


def test_error_of_the_system_names_the_file(tmp_path, capsys):
    assert main(["doctor", "--params-file", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def completions(line, folder):
    """Return what the shell offers at the end of a line."""
    file = folder / "completions"
    shell = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(file),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_IFS": "\n",
    }
    words = [sys.executable, "-m", "emotion_perception"]
    done = subprocess.run(words, env={**os.environ, **shell}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return [word.strip() for word in file.read_text().split("\n") if word]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("emotion-perception re", {"replay"}),
        ("emotion-perception replay bag --late", {"--latency"}),
        ("emotion-perception evaluate sy", {"system"}),
        ("emotion-perception bench --only ", {"vlm", "frame", "still", "node"}),
    ],
)
def test_shell_completes_commands_options_and_choices(tmp_path, line, words):
    pytest.importorskip("argcomplete")
    assert set(completions(line, tmp_path)) == words

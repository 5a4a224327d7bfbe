"""Estimate how people in camera images appear to feel: run, replay, evaluate and train."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys

from emotion_perception import __version__
from emotion_perception.cli.parser import PROGRAM, Parser
from emotion_perception.core.errors import EmotionPerceptionError
from emotion_perception.core.text import PrintableFormatter, printable

COMMANDS = {
    "demo": "play images or a video as a camera into a node, and show its estimates",
    "live": "show what a camera or a video shows, and how people appear to feel, on a local page",
    "watch": "show the messages of a running node",
    "replay": "compute what the node would publish about a bag or a video, and write a report",
    "annotate": "write a table of the tracks in a bag, to fill in with ground truth",
    "doctor": "check the installation and the models, and print how to fix what is missing",
    "fetch": "download a model once, for use without a network",
    "evaluate": "evaluate a system, or the predictions of another program, on annotated people",
    "head": "train a linear head on the hidden states of a frozen model",
    "finetune": "train an adapter or a head on a data set",
    "calibrate": "fit a calibration on a run over validation data, and write it beside the model",
    "compare": "compare several evaluations in one table, next to the published values",
    "world": "draw the toy world, train its small models, and report what they learn",
    "bench": "compare the speed of the engine with other ways of asking a model",
}

_ROS = ("rclpy", "emotion_perception_msgs")

_SURROGATES = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes of a path that are not UTF-8; outputs are, and cannot name it."""

MAX_ERROR = 4000
"""Characters of the line of an error."""


def build_parser() -> Parser:
    """Return the parser of all commands. It loads none of the libraries that they compute with."""
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_examples("doctor", "demo", "replay my_bag --labels my_bag.labels.csv", "replay -h")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        module = importlib.import_module(f"emotion_perception.cli.{name}")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command, and return the exit status of the process."""
    words = sys.argv[1:] if argv is None else argv
    if unreadable := [path for path in (*words, os.getcwd()) if _SURROGATES.search(path)]:
        print(
            f"{PROGRAM}: cannot use {os.fsencode(unreadable[0])!r}: it is not valid UTF-8; rename "
            "the file or folder",
            file=sys.stderr,
        )
        return 2
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # set by the shell that completes a command line
        import argcomplete

        argcomplete.autocomplete(parser)
    arguments = parser.parse_args(words)
    _keep_bars_out_of_pipes()
    log_handler = logging.StreamHandler()
    log_handler.setFormatter(PrintableFormatter())
    logging.getLogger("emotion_perception").addHandler(log_handler)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a process that SIGPIPE ends
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        remedy = "pip install -r requirements/research.txt"
        if name in _ROS:
            remedy = f"source ROS 2 and the workspace; `{PROGRAM} doctor` says how"
        return _fail(arguments.command, f"cannot run: {name} is not installed; {remedy}")
    except (ValueError, OSError, EmotionPerceptionError) as error:
        return _fail(arguments.command, _reason(error))
    except KeyboardInterrupt:
        return 130
    finally:
        logging.getLogger("emotion_perception").removeHandler(log_handler)


def _keep_bars_out_of_pipes() -> None:
    """Turn off the progress bars of libraries unless a terminal shows them."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("YOLO_VERBOSE", "false")


def _reason(error: Exception) -> str:
    """Return the text of an error; that of the system names the file first."""
    if isinstance(error, OSError) and isinstance(error.filename, str) and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}"
    return str(error)


def _fail(command: str, reason: str) -> int:
    print(f"{PROGRAM} {command}: {printable(reason, MAX_ERROR)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

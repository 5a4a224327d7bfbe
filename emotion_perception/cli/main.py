"""Estimate how people in camera images appear to feel: run, replay, evaluate and train."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import sys

from emotion_perception import __version__
from emotion_perception.core.errors import EmotionPerceptionError
from emotion_perception.core.text import PrintableFormatter, printable

COMMANDS = {
    "demo": "play images or a video as a camera into a node, and show its estimates",
    "watch": "show the messages of a running node",
    "replay": "compute what the node would publish about a recorded bag, and write a report",
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

_SURROGATES = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes of a path that are not UTF-8; outputs are, and cannot name it."""

MAX_ERROR = 4000
"""Characters of the line of an error."""


def main(argv: list[str] | None = None) -> int:
    """Run one command, and return the exit status of the process."""
    paths = [*(sys.argv[1:] if argv is None else argv), os.getcwd()]
    if unreadable := [path for path in paths if _SURROGATES.search(path)]:
        print(
            f"emotion-perception: cannot use {os.fsencode(unreadable[0])!r}: it is not valid "
            "UTF-8; rename the file or folder",
            file=sys.stderr,
        )
        return 2
    parser = argparse.ArgumentParser(prog="emotion-perception", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((a for a in argv or sys.argv[1:] if not a.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:  # the others need not be imported, and may lack their libraries
            try:
                module = importlib.import_module(f"emotion_perception.cli.{name}")
            except ModuleNotFoundError as error:
                print(
                    f"cannot run emotion-perception {name}: the package {error.name} is not "
                    "installed; pip install -r requirements/research.txt",
                    file=sys.stderr,
                )
                return 2
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    log_handler = logging.StreamHandler()
    log_handler.setFormatter(PrintableFormatter())
    logging.getLogger("emotion_perception").addHandler(log_handler)
    try:
        return int(arguments.run(arguments))
    except (ValueError, OSError, EmotionPerceptionError) as error:
        reason = printable(error, MAX_ERROR)
        print(f"emotion-perception {arguments.command}: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        logging.getLogger("emotion_perception").removeHandler(log_handler)


if __name__ == "__main__":
    sys.exit(main())

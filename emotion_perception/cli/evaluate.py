"""Evaluate a system, or the predictions of another program, on annotated people."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_perception.cli.options import (
    add_model_options,
    add_output_options,
    add_parameters,
    read_model_options,
    refuse_former_options,
)
from emotion_perception.cli.parser import Parser
from emotion_perception.core import documents
from emotion_perception.core.errors import IncompleteRunError
from emotion_perception.core.text import printable
from emotion_perception.evaluation.systems import ABLATIONS, FULL_INPUT, SYSTEMS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from emotion_perception.cli.output import Output
    from emotion_perception.evaluation.run import Run

_FORMER_OPTIONS = (
    "--system", "--predictions", "--root", "--split", "--dataset", "--out", "--labels",
    "--extraction", "--subset", "--model", "--text-model", "--adapter", "--captions", "--decoding",
    "--input", "--fit-split", "--limit", "--give-up", "-p", "--parameter",
)  # fmt: skip
"""Options that the command accepted before it had subcommands."""
_SUBCOMMANDS = "`evaluate system NAME --root DIR ...` or `evaluate predictions FILE ...`"


def add_arguments(parser: Parser) -> None:
    """Add the arguments of the command."""
    for option in _FORMER_OPTIONS:
        refuse_former_options(parser, [option], _SUBCOMMANDS)
    parser.add_examples(
        "evaluate system rand6 --root EMOTIC",
        "evaluate predictions answers.jsonl --labels gt_all.csv --split test",
        "evaluate system -h",
    )
    subcommands = parser.add_subparsers(metavar="KIND", required=True)
    _add_system_arguments(subcommands.add_parser("system", help="a named recognizer configuration"))
    _add_predictions_arguments(
        subcommands.add_parser("predictions", help="a file that another program wrote")
    )


def _add_system_arguments(parser: Parser) -> None:
    names = "; ".join(f"{name}: {system.description}" for name, system in SYSTEMS.items())
    parser.add_argument("system", metavar="NAME", help=names)
    _add_data_arguments(parser, required=True, default_split="test")
    add_model_options(parser)
    parser.add_argument(
        "--decoding",
        choices=["score", "generate"],
        default="score",
        help="score each label (default), or let the model generate labels as in the paper",
    )
    parser.add_argument(
        "--input",
        choices=list(ABLATIONS),
        default=FULL_INPUT,
        help="; ".join(f"{name}: {description}" for name, description in ABLATIONS.items()),
    )
    parser.add_argument(
        "--fit-split",
        default="train",
        help="split in which chance systems count labels; default: train",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N images")
    parser.add_argument(
        "--give-up",
        action="store_true",
        help="count people without an answer as not assessed, instead of ending without metrics",
    )
    add_parameters(parser)
    add_output_options(parser)
    parser.add_examples(
        "evaluate system majority --root EMOTIC",
        "evaluate system vlm-ours --root EMOTIC --split val --model my_vlm",
        "evaluate system clip --root EMOTIC --model my_clip --limit 100 --json",
    )
    parser.set_defaults(evaluate=_evaluate_system)


def _add_predictions_arguments(parser: Parser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="JSON lines with an image key and text or scores"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="the ground truth: CSV of key and labels"
    )
    parser.add_argument(
        "--rows",
        type=_row_range,
        metavar="FIRST-LAST",
        help="with --labels: use only these rows, counted from 1; "
        "--split selects the rows of a split in the authors' gt_all.csv",
    )
    parser.add_argument(
        "--last-row-wins",
        action="store_true",
        help="with --labels: use the last row of a person who occurs with different labels",
    )
    _add_data_arguments(parser, required=False, default_split=None)
    parser.add_argument(
        "--extraction",
        choices=["word", "paper"],
        default="word",
        help="extract labels from texts as whole words (default) or as substrings as in the paper",
    )
    parser.add_argument(
        "--subset",
        action="store_true",
        help="evaluate only people who have a prediction and ground truth",
    )
    add_output_options(parser)
    parser.add_examples(
        "evaluate predictions answers.jsonl --labels gt_all.csv --split test",
        "evaluate predictions scores.jsonl --root EMOTIC --subset --json",
    )
    parser.set_defaults(evaluate=_evaluate_predictions)


def _row_range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        return int(first), int(last)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST-LAST, such as 1-100") from None


def _add_data_arguments(
    parser: argparse.ArgumentParser, required: bool, default_split: str | None
) -> None:
    parser.add_argument(
        "--dataset", choices=["emotic"], default="emotic", help="format of the data set"
    )
    parser.add_argument("--root", type=Path, required=required, help="folder of the data set")
    parser.add_argument("--split", default=default_split, help="train, val or test (default)")
    parser.add_argument("--out", type=Path, help="run folder; default: a folder in out/evaluate")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the metrics."""
    from emotion_perception.cli.output import Output
    from emotion_perception.evaluation.run import METRICS

    output = Output(arguments)
    try:
        evaluated, folder = arguments.evaluate(arguments, output)
    except IncompleteRunError as error:
        print(f"emotion-perception evaluate: {printable(error)}", file=sys.stderr)
        return 1
    metrics = documents.read_json_object(folder / METRICS)
    title = str(evaluated.manifest["recognizer"])

    def show(console: Console) -> None:
        console.print(_table(title, metrics))
        console.print(f"{metrics['judged']} of {metrics['people']} people were assessed")
        console.print(f"written to {folder}", soft_wrap=True)

    output.result({"recognizer": title, "folder": str(folder), "metrics": metrics}, show)
    return 0


def _evaluate_system(arguments: argparse.Namespace, output: Output) -> tuple[Run, Path]:
    from emotion_perception.evaluation.system_run import SystemOptions, evaluate_system

    options = SystemOptions(
        system=arguments.system,
        root=arguments.root,
        split=arguments.split,
        settings=read_model_options(arguments),
        generate=arguments.decoding == "generate",
        ablation=arguments.input,
        fit_split=arguments.fit_split,
        limit=arguments.limit,
        give_up=arguments.give_up,
        out=arguments.out,
    )
    with output.progress(options.system) as progress:
        return evaluate_system(options, output.remark, progress), options.folder


def _evaluate_predictions(arguments: argparse.Namespace, output: Output) -> tuple[Run, Path]:
    from emotion_perception.evaluation.predictions import PredictionsOptions, evaluate_predictions

    options = PredictionsOptions(
        file=arguments.file,
        labels=arguments.labels,
        rows=arguments.rows,
        last_row_wins=arguments.last_row_wins,
        root=arguments.root,
        split=arguments.split,
        as_in_paper=arguments.extraction == "paper",
        subset=arguments.subset,
        out=arguments.out,
    )
    return evaluate_predictions(options, output.remark), options.folder


def _table(title: str, values: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table("measure", "value", "95 % interval", title=title)
    for name, row in values["decisions"].items():
        table.add_row(name, *_with_interval(row))
    if values["map"] is not None:
        table.add_row("mAP", *_with_interval(values["map"]))
        table.add_row("calibration error, mean of the labels", f"{values['ece']:.4f}", "")
        table.add_row("calibration error, pooled", f"{values['ece_pooled']:.4f}", "")
        table.add_row("Brier score", f"{values['brier']:.4f}", "")
    else:
        table.add_row("mAP", "none", values["map_reason"].partition(":")[0])
    if values["vad_error"]:
        table.add_row("VAD error, 1..10", f"{values['vad_error']['mean']:.3f}", "")
    return table


def _with_interval(row: dict[str, float]) -> Sequence[str]:
    return f"{row['value']:.2%}", f"{row['low']:.2%} to {row['high']:.2%}"

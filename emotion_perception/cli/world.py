"""Draw the toy world, train its small models, and report what they learn."""

from __future__ import annotations

import argparse
from pathlib import Path

from emotion_perception.cli.options import refuse_former_options
from emotion_perception.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    """Add the steps and their options."""
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    data = steps.add_parser("data", help="write images and ground truth in EMOTIC's format")
    data.add_argument("folder", type=Path, help="folder to write")
    refuse_former_options(data, ["--pictures"], "--images TRAIN VAL TEST")
    data.add_argument("--images", type=int, nargs=3, default=[2000, 400, 500],
                      metavar=("TRAIN", "VAL", "TEST"),
                      help="images per split; default: 2000 400 500")  # fmt: skip
    data.add_argument(
        "--part", default="seen",
        help="combinations in the test split: seen (default), unseen or all",
    )  # fmt: skip
    data.add_argument(
        "--train-part", default="seen",
        help="combinations in the train and val splits; default: seen",
    )  # fmt: skip
    data.add_argument("--seed", type=int, default=0, help="seed of the three splits; default: 0")
    data.add_examples("world data out/world", "world data small --images 20 5 5 --part unseen")
    clip = steps.add_parser("clip", help="write a moving scene and its ground truth")
    clip.add_argument("file", type=Path, help="a video (.mp4, .avi), or else the folder of a bag; "
                      "the ground truth is written beside it as a CSV file")  # fmt: skip
    clip.add_argument("--seed", type=int, default=0, help="seed of the scene; default: 0")
    clip.add_argument("--seconds", type=float, default=10.0, help="length; default: 10")
    clip.add_argument(
        "--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"),
        help="pixels; default: 640 480",
    )  # fmt: skip
    clip.add_examples("world clip scene.mp4 --seconds 20", "world clip my_bag --seed 3")
    train = steps.add_parser("train", help="train the small vision-language model from scratch")
    train.add_argument("folder", type=Path, help="folder of the model to write")
    train.add_argument("--seed", type=int, default=0, help="seed of the training; default: 0")
    train.add_argument(
        "--vision-steps", type=int, default=1300,
        help="steps of the vision tower alone; default: 1300",
    )  # fmt: skip
    refuse_former_options(train, ["--looks"], "--vision-steps N")
    train.add_argument(
        "--steps", type=int, default=1900, help="steps of the whole model; default: 1900"
    )
    train.add_examples("world train out/model --seed 1")
    detector = steps.add_parser("detector", help="train the small YOLO from scratch")
    detector.add_argument("file", type=Path, help="YOLO file to write")
    detector.add_argument("--seed", type=int, default=2000, help="seed; default: 2000")
    detector.add_argument("--steps", type=int, default=600, help="steps; default: 600")
    detector.add_examples("world detector out/yolo.pt")
    report = steps.add_parser("report", help="measure how much each input helps the small models")
    report.add_argument("models", type=Path, nargs="+", help="folders of models, one per seed")
    report.add_argument("--images", type=int, default=500, help="images per data set; default: 500")
    refuse_former_options(report, ["--pictures"], "--images N")
    report.add_argument("--out", type=Path, default=Path("out/world"), help="folder of the results")
    report.add_argument("--page", type=Path, help="a Markdown page whose tables are updated")
    report.add_examples("world report out/model --images 200 --out out/report")
    precision = steps.add_parser("precision", help="measure what number formats change")
    precision.add_argument("models", type=Path, nargs="+", help="folders of models, one per seed")
    precision.add_argument(
        "--images", type=int, default=200, help="images per data set; default: 200"
    )
    precision.add_argument(
        "--out", type=Path, default=Path("out/precision"), help="folder of the results"
    )
    precision.add_argument("--page", type=Path, help="a Markdown page whose table is updated")
    precision.add_examples("world precision out/model --images 100")
    parser.add_examples("world clip scene.mp4", "world data out/world", "world report -h")


def run(arguments: argparse.Namespace) -> int:
    """Run one step."""
    from emotion_perception import toy_world
    from emotion_perception.cli.output import plain_console
    from emotion_perception.io import atomic

    console = plain_console()
    if arguments.step == "data":
        from emotion_perception.toy_world.export import DataOptions, write_data

        write_data(
            DataOptions(
                folder=arguments.folder,
                images=tuple(arguments.images),
                seed=arguments.seed,
                part=arguments.part,
                train_part=arguments.train_part,
            )
        )
        console.print(f"written to {arguments.folder}")
    elif arguments.step == "clip":
        size = tuple(arguments.size)
        images = toy_world.draw_clip(arguments.seed, arguments.seconds, size=size)
        atomic.refuse_existing(arguments.file)
        atomic.make_folder(arguments.file.parent)
        count = toy_world.write_clip(arguments.file, images)
        console.print(f"{count} images written to {arguments.file}")
    elif arguments.step == "train":
        from emotion_perception.toy_world.training import vlm

        vlm.train(arguments.folder, arguments.seed, arguments.vision_steps, arguments.steps,
                  report=console.print)  # fmt: skip
    elif arguments.step == "detector":
        from emotion_perception.toy_world.training import yolo

        yolo.train_on_world(arguments.file, arguments.seed, arguments.steps, report=console.print)
    else:
        from emotion_perception.toy_world.precision import write_precision
        from emotion_perception.toy_world.report import ReportOptions, write_report

        options = ReportOptions(arguments.models, arguments.images, arguments.out, arguments.page)
        write = write_precision if arguments.step == "precision" else write_report
        write(options, console.print)
    return 0

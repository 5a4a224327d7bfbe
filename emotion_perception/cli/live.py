"""Show on a page of this computer what a camera, a video or a running node sees, as it happens."""

from __future__ import annotations

import argparse
import contextlib
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotion_perception.cli.options import add_parameters, plain_console, read_parameters
from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """The options of the command."""

    source: int | Path
    settings: Settings
    host: str
    port: int
    out: Path
    open_browser: bool

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: A value is not allowed.
        """
        if isinstance(self.source, int) and self.source < 0:
            raise ValueError(f"cannot open camera {self.source}: the first camera is number 0")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"cannot listen on port {self.port}: choose 0 to 65535; 0 takes any")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument("--camera", type=int, help="a camera of this computer, such as 0")
    sources.add_argument("--source", type=Path, help="an image, a video, or a folder of them")
    parser.add_argument("--params-file", type=Path, help="a parameter file of the node")
    add_parameters(parser, "a parameter of the node, such as `-p recognizer.name:=face`")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="port; default: any that is free")
    parser.add_argument(
        "--out", type=Path, default=Path("out/live"), help="folder of saved moments"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until the command is interrupted."""
    given: dict[str, Any] = read_parameters(arguments.parameter)
    if arguments.params_file:
        given = {**read_parameter_file(arguments.params_file, ""), **given}
    options = LiveOptions(
        source=arguments.source if arguments.camera is None else arguments.camera,
        settings=Settings.from_dict(given),
        host=arguments.host,
        port=arguments.port,
        out=arguments.out,
        open_browser=not arguments.no_browser,
    )
    return _serve(options)


def _serve(options: LiveOptions) -> int:
    from emotion_perception.live.camera import Camera
    from emotion_perception.live.hub import Hub
    from emotion_perception.live.server import LOOPBACK, LiveServer, bind, serve
    from emotion_perception.live.session import LiveSession
    from emotion_perception.perception.detection import make_detector
    from emotion_perception.recognizers.registry import make_recognizer

    console, settings = plain_console(stderr=True), options.settings
    Camera(options.source).close()  # a missing camera is reported before the models are loaded
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(bind(options.host, options.port))
        console.print("loading the models")
        detector = make_detector(settings.detector)
        stack.callback(detector.close)
        recognizer = make_recognizer(settings.recognizer)
        stack.callback(recognizer.close)
        recognizer.warm_up()
        hub = Hub()
        session = LiveSession(
            lambda: Camera(options.source), detector, recognizer, settings, hub, options.out
        )
        stack.callback(session.close)
        server = LiveServer(hub, session, (*LOOPBACK, options.host))
        session.start()
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}/?token={server.token}"
        if options.host not in LOOPBACK:
            console.print(
                f"Warning: whoever reaches {options.host} over the network and has the address can "
                "see the camera; the connection is not encrypted",
                style="yellow",
            )
        console.print("open this address once; Ctrl-C ends", soft_wrap=True)
        print(address, flush=True)
        if options.open_browser and sys.stdout.isatty():
            webbrowser.open(address)
        serve(server.app, listening)
    return 0

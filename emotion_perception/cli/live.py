"""Show on a page of this computer what a camera, a video or a running node sees, as it happens."""

from __future__ import annotations

import argparse
import contextlib
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_perception.cli.options import add_parameters, read_parameters
from emotion_perception.cli.parser import Parser
from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.settings import Settings

if TYPE_CHECKING:
    from emotion_perception.live.hub import Controls, Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """The options of the command."""

    source: int | Path | str
    """The number of a camera, a file, or the image topic of a running node."""
    settings: Settings
    node: str
    transport: str
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


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument("--camera", type=int, help="a camera of this computer, such as 0")
    sources.add_argument("--source", type=Path, help="an image, a video, or a folder of them")
    sources.add_argument("--topic", help="the image topic of a running node; needs ROS 2")
    parser.add_argument("--node", default="/emotion_node", help="name of the node, with --topic")
    parser.add_argument(
        "--transport",
        choices=("raw", "compressed"),
        default="raw",
        help="transport of the images, with --topic; default: raw",
    )
    parser.add_argument("--params-file", type=Path, help="a parameter file of the node")
    add_parameters(parser, "a parameter of the node, such as `-p recognizer.name:=face`")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="port; default: any that is free")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/live"),
        help="folder of saved moments; default: out/live",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_examples(
        "live --camera 0 -p detector.name:=face -p recognizer.name:=face",
        "live --source holiday.mp4 --params-file config/desktop_gpu.yaml",
        "live --topic /camera/image_raw",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until the command is interrupted."""
    given: dict[str, Any] = read_parameters(arguments.parameter)
    if arguments.params_file:
        given = {**read_parameter_file(arguments.params_file, ""), **given}
    if arguments.topic and given:
        raise ValueError(
            f"cannot set {next(iter(given))} with --topic: the node has its own parameters; remove "
            "-p and --params-file"
        )
    source = next(s for s in (arguments.camera, arguments.source, arguments.topic) if s is not None)
    options = LiveOptions(
        source=source,
        settings=Settings.from_dict(given),
        node=arguments.node,
        transport=arguments.transport,
        host=arguments.host,
        port=arguments.port,
        out=arguments.out,
        open_browser=not arguments.no_browser,
    )
    return _serve(options)


def _serve(options: LiveOptions) -> int:
    from emotion_perception.cli.output import plain_console
    from emotion_perception.live.hub import Hub
    from emotion_perception.live.server import LOOPBACK, LiveServer, bind, serve

    console, hub = plain_console(stderr=True), Hub()
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(bind(options.host, options.port))
        if isinstance(options.source, str):
            session = _node(options, hub, options.source, stack)
        else:
            session = _camera(options, hub, options.source, stack)
        server = LiveServer(hub, session, (*LOOPBACK, options.host))
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}/?token={server.token}"
        if options.host not in LOOPBACK:
            console.print(
                f"Warning: each computer that reaches {options.host} over the network can see the "
                "camera if it has the address; the connection is not encrypted",
                style="yellow",
            )
        console.print("open this address once; Ctrl-C ends", soft_wrap=True)
        print(address, flush=True)
        if options.open_browser and sys.stdout.isatty():
            webbrowser.open(address)
        serve(server.app, listening)
    return 0


def _camera(
    options: LiveOptions, hub: Hub, source: int | Path, stack: contextlib.ExitStack
) -> Controls:
    """Start a session over a camera or a file."""
    from emotion_perception.cli.output import plain_console
    from emotion_perception.live.camera import Camera
    from emotion_perception.live.session import LiveSession
    from emotion_perception.perception.detection import make_detector
    from emotion_perception.recognizers.registry import make_recognizer

    settings = options.settings
    Camera(source).close()  # a missing camera is reported before the models are loaded
    plain_console(stderr=True).print("loading the models")
    detector = make_detector(settings.detector)
    stack.callback(detector.close)
    recognizer = make_recognizer(settings.recognizer)
    stack.callback(recognizer.close)
    recognizer.warm_up()
    session = LiveSession(lambda: Camera(source), detector, recognizer, settings, hub, options.out)
    stack.callback(session.close)
    session.start()
    return session


def _node(options: LiveOptions, hub: Hub, topic: str, stack: contextlib.ExitStack) -> Controls:
    """Start to listen to a running node."""
    try:
        from emotion_perception.ros.live_node import LiveNode
    except ImportError as error:
        raise ValueError(
            f"cannot listen to {topic}: ROS 2 is not installed or not sourced ({error}); use "
            "--camera or --source"
        ) from error
    return stack.enter_context(LiveNode(hub, topic, options.node, options.transport, options.out))

"""Stand-ins for the parts of `launch` and `launch_ros` that the launch files use.

They record what they are given, so that the launch files can be tested where ROS's launch is not
installed. test/ros/test_launch.py uses the real ones where they are.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

LAUNCH = Path(__file__).parents[2] / "launch"


class Record:
    """Keeps its arguments: the positional ones in `args`, the others as attributes."""

    def __init__(self, *args, **kwargs):
        self.args = args
        vars(self).update(kwargs)


class Perform(Record):
    """A substitution."""

    def perform(self, context):
        return context.launch_configurations[self.args[0]]


NAMES = {
    "launch": ("LaunchDescription",),
    "launch.actions": (
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "IncludeLaunchDescription",
        "OpaqueFunction", "RegisterEventHandler", "TimerAction",
    ),
    "launch.event_handlers": ("OnProcessExit",),
    "launch.events": ("Shutdown",),
    "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
    "launch.substitutions": ("LaunchConfiguration", "PathJoinSubstitution"),
    "launch_ros": (),
    "launch_ros.actions": ("LifecycleNode", "Node"),
    "launch_ros.substitutions": ("FindPackageShare",),
}  # fmt: skip


def load(monkeypatch, name):
    """Return a launch file as a module that uses the stand-ins."""
    for module, classes in NAMES.items():
        stand_in = ModuleType(module)
        for each in classes:
            base = Perform if each == "LaunchConfiguration" else Record
            setattr(stand_in, each, type(each, (base,), {}))
        monkeypatch.setitem(sys.modules, module, stand_in)
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), LAUNCH / name)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def start(module, **values):
    """Return the actions of a launch file with these values of its arguments."""
    configurations = {name: default for name, (default, _) in module.ARGUMENTS.items()}
    context = SimpleNamespace(launch_configurations={**configurations, **values})
    return module.start(context)

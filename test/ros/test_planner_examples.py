"""The example planners react to a person who appears distressed, and the C++ example compiles."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from support.stand_in import Stage, sad

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

pytestmark = [pytest.mark.ros, pytest.mark.serial]


def output_while_a_person_is_sad(example, log, until):
    """Run an example, publish a person who stays sad until it prints a text, and return all."""
    stage = Stage()
    publisher = stage.publisher()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", str(EXAMPLES / example)], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        for tenth in range(300):
            seconds = 100 + tenth / 10
            stage.send(publisher, seconds, sad(seconds - 0.1), sequence=tenth + 1)
            stage.spin(0.1)
            if until in log.read_text():
                break
        process.terminate()
        process.wait(20)
    finally:
        process.kill()
        stage.close()
    return log.read_text()


def test_example_of_the_documentation_runs(ros_domain, tmp_path):
    page = (ROOT / "docs" / "how-to" / "use_the_estimates.md").read_text()
    program = tmp_path / "planner.py"
    program.write_text(page.split("```python\n")[1].split("```")[0])
    text = output_while_a_person_is_sad(program, tmp_path / "log", "distressed")
    assert "p00001 appears distressed: sadness" in text
    assert "Appeared(person=" in text


def test_planner_approaches_a_person_once(ros_domain, tmp_path):
    text = output_while_a_person_is_sad("comfort_planner.py", tmp_path / "log", "approaching")
    assert "Traceback" not in text
    assert text.count("approaching p00001, who shows sadness") == 1
    assert "the emotion node is live" in text


def test_behaviour_tree_comforts_a_person(ros_domain, tmp_path):
    pytest.importorskip("py_trees")
    text = output_while_a_person_is_sad("py_trees_comfort.py", tmp_path / "log", "comforting")
    assert "Traceback" not in text
    assert text.count("comforting p00001") == 1


def test_behaviour_tree_idles_while_the_node_is_absent(monkeypatch):
    py_trees = pytest.importorskip("py_trees")
    monkeypatch.syspath_prepend(EXAMPLES)
    from py_trees_comfort import make_tree

    from emotion_perception.client import CurrentPeople

    tree = make_tree(CurrentPeople())
    tree.tick()
    assert tree.root.status is py_trees.common.Status.RUNNING
    assert tree.root.tip().name == "idle"
    (condition,) = [each for each in tree.root.iterate() if each.name == "person in distress"]
    assert condition.feedback_message == "the emotion node is absent"


def test_cpp_subscriber_compiles_against_the_messages(tmp_path):
    """With a stand-in for rclcpp, which holds the calls of the example without behaviour."""
    include = Path(sys.prefix) / "include"
    if not (include / "emotion_perception_msgs").is_dir():
        pytest.skip(f"the headers of the messages are not in {include}")
    paths = [ROOT / "test" / "support" / "cpp", *(p for p in include.iterdir() if p.is_dir())]
    source = EXAMPLES / "cpp_subscriber" / "emotion_subscriber.cpp"
    compiler = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = subprocess.run(
        [*compiler, *(f"-isystem{path}" for path in paths), str(source)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_cpp_subscriber_builds_with_rclcpp(tmp_path):
    index = pytest.importorskip("ament_index_python.packages")
    try:
        index.get_package_prefix("rclcpp")
    except (OSError, index.PackageNotFoundError):
        pytest.skip("rclcpp is not installed: no package of PyPI carries it")
    for step in (["-S", str(EXAMPLES / "cpp_subscriber"), "-B", "."], ["--build", "."]):
        subprocess.run(["cmake", *step], cwd=tmp_path, check=True)

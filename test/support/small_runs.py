"""Run a small replay, evaluation or training, as a process that a test can kill.

python small_runs.py replay|evaluate|finetune INPUT OUT
"""

import secrets
import sys

# Each run uses the same names of parts, so that the calls of two runs can be compared.
secrets.token_hex = lambda size: "0" * 2 * size


def main(kind, source, out):
    from emotion_perception.cli import main as cli

    if kind == "replay":
        from emotion_perception.core.values import Box
        from emotion_perception.perception import detection
        from emotion_perception.recognizers import registry
        from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector

        detection.make_detector = lambda settings: ScriptedDetector([Box(5, 5, 60, 90)])
        registry.make_recognizer = lambda settings: FakeRecognizer()
        options = ["replay", source, "-p", "visibility.min_height:=10", "--images"]
        options += ["-p", "recognizer.device:=cpu"]
    elif kind == "evaluate":
        options = ["evaluate", "system", "rand6", "--root", source]
    else:
        options = ["finetune", "--system", "vlm", "--root", source, "--model", f"{source}/model"]
        options += ["--steps", "2", "--every", "1", "--people", "2", "--val-people", "1"]
        options += ["--rank", "2", "-p", "device:=cpu", "-p", "scene_size:=64"]
    return cli.main([*options, "--out", out])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The command `finetune`."""

import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from support import trainings
from support.trainings import log_odds, vlm_settings

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.recognizers.calibrated import Calibrated
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.testing.checkpoints.clip import save_blip, save_clip

pytestmark = pytest.mark.models


def parameters(**values):
    """The options that set these settings of the recognizer."""
    return [option for item in values.items() for option in ("-p", "{}:={}".format(*item))]


SMALL = parameters(device="cpu", scene_size=64, answer_format="continuation")


def test_finetune_reports_how_to_use_the_adapter(smolvlm, root, tmp_path, capsys):
    options = ["finetune", "--root", str(root), "--system", "vlm", "--model", str(smolvlm), *SMALL]
    options += ["--steps", "1", "--people", "2", "--val-people", "1", "--rank", "2"]
    assert main([*options, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert "no person of the training data has" in printed.err  # two people have few labels
    command = shlex.split(printed.out.splitlines()[-1])
    assert command[:4] == ["emotion-perception", "evaluate", "system", "vlm"]
    command[command.index("--root") + 2 :] += ["--split", "val", "--out", str(tmp_path / "eval")]
    assert main(command[1:]) == 0
    other = [x for x in command if x != "answer_format:=continuation"]
    other.pop(command.index("answer_format:=continuation") - 1)
    assert main([*other[1:-1], str(tmp_path / "other")]) == 2
    message = "it was trained with continuation; set recognizer.answer_format to continuation"
    assert message in capsys.readouterr().err
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "| answer_format | continuation |" in card
    assert f"base_model: {smolvlm}" in card
    settings = vlm_settings(smolvlm, adapter=str(tmp_path / "run" / "adapter"), crop_size=224)
    recognizer = make_recognizer(settings)
    assert not isinstance(recognizer, Calibrated)
    assert recognizer.name == "vlm:smolvlm+run/adapter"


@pytest.mark.parametrize("preset", [[], ["--preset", "paper"]])
def test_images_that_train_and_val_share_are_left_out_except_in_the_preset_of_the_paper(
    smolvlm, root, tmp_path, capsys, preset
):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    (data / "Annotations" / "Annotations.mat").unlink()
    val = emotic.load(data, "val").images[0].path
    first = emotic.load(data, "train").images[0].path
    for table in data.rglob("train.csv"):
        table.write_text(table.read_text().replace(f",{first.name},", f",{val.name},"))
    options = ["finetune", "--root", str(data), "--system", "vlm", "--model", str(smolvlm), *SMALL]
    options += ["--steps", "1", "--val-people", "1", "--rank", "2", "--accumulate", "1", *preset]
    assert main([*options, "--out", str(tmp_path / "run")]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "1 of the 3 images of val (" in printed
    assert ("they stay in the training data" in printed) is bool(preset)
    assert ("they are left out of the training data" in printed) is not preset
    assert ("guessed: alpha 256" in printed) is bool(preset)


@pytest.mark.parametrize(("system", "save"), [("narracap", save_clip), ("caption", save_blip)])
def test_finetune_trains_the_text_model_behind_a_captioner(
    text_model, root, tmp_path, system, save
):
    captioner = str(save(tmp_path / "captioner"))
    options = ["finetune", "--root", str(root), "--system", system, "--model", captioner]
    options += ["--text-model", str(text_model)]
    options += parameters(device="cpu", answer_format="continuation")
    options += ["--steps", "2", "--lr", "0.05", "--val-people", "1", "--out", str(tmp_path / "run")]
    assert main(options) == 0
    untrained = recognizer_settings(
        name=system,
        model=captioner,
        text_model=str(text_model),
        device="cpu",
        definitions="none",
        answer_format="continuation",
    )
    trained = replace(untrained, adapter=str(tmp_path / "run" / "adapter"))
    scene = emotic.load(root, "val").images[0].scene()
    before, after = (log_odds(make_recognizer(s), scene) for s in (untrained, trained))
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.slow
def test_two_processes_match_one_process_with_twice_the_batch(smolvlm, tmp_path):
    # One person per image: the mean of the two processes' means is the mean of all people only if
    # both have the same number of people.
    parts = {"train": (1, 4), "val": (2, 2)}
    toy_world.write_emotic(tmp_path / "data", parts, size=(96, 96), people=(1, 1))
    options = ["--root", str(tmp_path / "data"), "--system", "vlm", "--model", str(smolvlm), *SMALL]
    options += ["--steps", "4", "--every", "2", "--lr", "0.005", "--dropout", "0"]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    printed = {}
    for name, module, batch in (("one", [], "2"), ("two", launcher, "1")):
        command = [sys.executable, "-m", *module, "emotion_perception.cli.main", "finetune"]
        command += [*options, "--batch", batch, "--out", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        printed[name] = done.stdout
    for key, count in (("loss", 4), ("lr", 4), ("val_loss", 2), ("val_map", 2)):
        one, two = (trainings.logged(tmp_path / name, key) for name in printed)
        assert len(one) == count
        assert two == pytest.approx(one, abs=1e-4)
    assert printed["two"].count("written to") == printed["one"].count("written to") == 1
    assert printed["two"].count("validation loss") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "vlm", "--split", "val"], "would select the best state on the training data"),
        (["--system", "llm"], "needs --captions"),
        (["--system", "two-stream"], "needs --model"),
        (["--system", "vlm", "--root", "nowhere"], "is not a folder"),
        (["--system", "vlm", "--model", "nowhere"], "cannot find the model 'nowhere'"),
        (["--system", "emotic-cnn", "--preset", "paper"], "cannot generate labels"),
        (["--system", "vlm", "-p", "nose:=1"], "there is no setting"),
    ],
)
def test_finetune_refuses_impossible_options(root, tmp_path, capsys, options, message):
    out = ["--out", str(tmp_path / "run")]
    assert main(["finetune", "--root", str(root), *options, *out]) == 2
    assert message in capsys.readouterr().err


def test_finetune_names_a_folder_that_cannot_be_created(smolvlm, root, tmp_path, capsys):
    out = tmp_path / "run"
    out.touch()
    options = ["--system", "vlm", "--model", str(smolvlm), "--out", str(out)]
    assert main(["finetune", "--root", str(root), *options]) == 2
    assert f"cannot create the folder {out}: File exists; choose" in capsys.readouterr().err

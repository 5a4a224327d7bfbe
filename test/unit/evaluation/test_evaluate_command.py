"""The command `evaluate system`: options, default folders, damaged data, and error messages."""

import fcntl
import json
import os
import re

import pytest

pytest.importorskip("scipy.io")

from support.emotic_files import ANN, write_images, write_mat
from support.evaluation import (
    MAKE_RECOGNIZER,
    evaluate,
    evaluate_error,
    is_complete,
    read_metrics,
    read_table,
)

from emotion_perception.evaluation.run import Run
from emotion_perception.evaluation.system_run import system_settings
from emotion_perception.evaluation.systems import ABLATIONS, SYSTEMS

pytestmark = pytest.mark.command

RAND6 = ("system", "rand6")


def test_corrupt_image_is_counted_with_its_reason(damaged_emotic, tmp_path, capsys):
    arguments = (*RAND6, "--root", damaged_emotic, "--out", tmp_path / "run")
    assert evaluate(*arguments) == 0
    output = " ".join(capsys.readouterr().err.split())
    assert "1 people are left out: valence, arousal or dominance is NaN" in output
    assert "1 annotated images do not exist: mscoco/images/gone.jpg" in output
    run = Run.read(tmp_path / "run")
    assert (run.manifest["dropped"].popitem()[1], run.manifest["missing"]) == (1, 1)
    assert (tmp_path / "run" / "missing.txt").read_text() == "mscoco/images/gone.jpg\n"
    keys = [f"mscoco/{x}.jpg" for x in ("a_0", "a_1", "broken_0", "nan_1")]
    assert run.table["key"].to_list() == keys
    assert run.assessed.tolist() == [True, True, False, True]
    assert run.table["reason"][2].startswith("cannot read the image: ")
    assert "1 people count as not assessed: cannot read the image: " in output
    values = read_metrics(tmp_path / "run")
    assert (values["people"], values["judged"]) == (4, 3)
    assert not run.predicted[2].any()
    write_images(damaged_emotic, "mscoco/images/broken.jpg")
    assert evaluate(*arguments) == 0
    assert read_metrics(tmp_path / "run")["judged"] == 4, "a repaired image is read again"


def test_corrupt_images_only_are_an_error(damaged_emotic, tmp_path, capsys):
    for path in (damaged_emotic / "emotic").rglob("*.jpg"):
        path.write_bytes(b"not an image")
    message = evaluate_error(capsys, *RAND6, "--root", damaged_emotic, "--out", tmp_path / "run")
    assert "none of 4 people could be assessed: cannot read the image" in message
    assert not is_complete(tmp_path / "run")


def test_names_with_brackets_are_printed_unchanged(tmp_path, capsys):
    names = ["mscoco/images/a.jpg", "mscoco/images/[/x].jpg"]
    write_mat(tmp_path, test={name: [ANN] for name in names})
    write_images(tmp_path, names[0])
    folder = tmp_path / "p_[x]"
    assert evaluate(*RAND6, "--root", tmp_path, "--out", folder) == 0
    printed = capsys.readouterr()
    assert "do not exist: mscoco/images/[/x].jpg" in " ".join(printed.err.split())
    assert "p_[x]" in printed.out.replace("\n", "")


def test_errors_name_the_remedy(toy_emotic, tmp_path, capsys):
    def error(*arguments):
        return evaluate_error(capsys, *arguments)

    here = ("--root", toy_emotic, "--out", tmp_path / "run")
    assert "is not a folder" in error(*RAND6, "--root", tmp_path / "nowhere")
    assert "it has neither Annotations/Annotations.mat nor" in error(*RAND6, "--root", tmp_path)
    assert "required: --root" in error(*RAND6)
    message = error(*RAND6, *here, "--split", "tets")
    assert "split 'tets': it does not exist; choose one of" in message
    assert "did you mean 'majority'?" in error("system", "majorty", *here)
    assert "choose one of majority, " in error("system", "xyz", *here)
    for name, system in SYSTEMS.items():
        if system.needs:
            option = system.needs[0].replace("_", "-")
            assert f"system {name!r}: it needs --{option}" in error("system", name, *here)
    for limit in (0, -1):
        message = error(*RAND6, *here, "--limit", limit)
        assert f"--limit {limit}: choose at least one image" in message
    assert "has only one image" in error(*RAND6, *here, "--limit", 1, "--input", "swap")
    assert "invalid choice: 'face'" in error(*RAND6, *here, "--input", "face")
    assert "write it as NAME:=VALUE" in error(*RAND6, *here, "-p", "scoring")
    message = error(*RAND6, *here, "-p", "scorng:=generate")
    assert "did you mean 'recognizer.scoring'" in message
    message = error(*RAND6, *here, "-p", "name:=face")
    assert "recognizer.name = face with system 'rand6'" in message
    for system in ("rand6", "face"):
        message = error("system", system, *here, "--decoding", "generate")
        assert f"system {system!r}: it cannot generate labels" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--system", "rand6", "--root", "x"),
        ("--root", "x", "--system", "rand6"),
        ("--predictions", "x.jsonl", "--labels", "x.csv"),
    ],
)
def test_former_options_are_an_error_that_names_the_subcommands(capsys, arguments):
    message = evaluate_error(capsys, *arguments)
    assert "use `evaluate system NAME --root DIR ...` or `evaluate predictions FILE ...`" in message
    assert "`evaluate predictions FILE ...`" in message


def test_options_of_the_other_subcommand_are_an_error(toy_emotic, capsys):
    message = evaluate_error(capsys, *RAND6, "--root", toy_emotic, "--labels", "x.csv")
    assert "unrecognized arguments: --labels" in message
    message = evaluate_error(capsys, "predictions", "x.jsonl", "--limit", 1)
    assert "unrecognized arguments: --limit" in message
    assert "required: KIND" in evaluate_error(capsys)


@pytest.mark.parametrize("prefix", ["", "recognizer."])
def test_settings_override_those_of_the_system(prefix):
    changes = {f"{prefix}scoring": "head", f"{prefix}scene_size": 128, "model": "m"}
    settings = system_settings("vlm*", changes)
    assert (settings.scoring, settings.scene_size, settings.person_view) == ("head", 128, "mark")


def test_generating_presets_have_the_image_sizes_of_the_paper():
    # LLaVA-1.5 sees a square of 336 px; GPT-4 vision gets the images of EMOTIC in their own size.
    sizes = {"vlm": 336, "vlm*": 336, "vlm-f": 336, "remote": 4096, "remote*": 4096}
    needs = {"model": "m", "adapter": "a"}
    for name, size in sizes.items():
        options = {need: needs[need] for need in SYSTEMS[name].needs}
        assert system_settings(name, options, generate=True).scene_size == size, name
        assert system_settings(name, options).scene_size == 448, name
        chosen = {**options, "recognizer.scene_size": 512}
        assert system_settings(name, chosen, generate=True).scene_size == 512, name
    assert system_settings("vlm-ours", {}, generate=True).scene_size == 448


def test_printed_calibration_error_of_the_labels_comes_before_the_pooled_one(tmp_path, capsys):
    people = [{"image": f"{i}.jpg", "scores": [0.3 + i / 100] * 26} for i in range(10)]
    file, labels = tmp_path / "scores.jsonl", tmp_path / "labels.csv"
    file.write_text("\n".join(map(json.dumps, people)))
    rows = ["['Peace', 'Fear']" if i % 2 else "['Peace']" for i in range(10)]
    labels.write_text("\n".join(f'{i}.jpg,"{row}"' for i, row in enumerate(rows)))
    arguments = ("predictions", file, "--labels", labels, "--out", tmp_path / "run")
    assert evaluate(*arguments) == 0
    words = capsys.readouterr().out
    values = read_metrics(tmp_path / "run")
    assert values["ece"] > values["ece_pooled"]
    first, second = (f"{values[key]:.4f}" for key in ("ece", "ece_pooled"))
    assert words.index(first) < words.index(second)


def test_limit_takes_the_first_images(toy_emotic, data, tmp_path):
    assert evaluate(*RAND6, "--root", toy_emotic, "--limit", 2, "--out", tmp_path) == 0
    keys = [person.key for image in data.images[:2] for person in image.people]
    assert read_table(tmp_path)["key"].to_list() == keys


@pytest.mark.models
def test_missing_captions_are_an_error_before_the_run_starts(toy_emotic, data, tmp_path, capsys):
    pytest.importorskip("torch")
    first, *others = [person.key for person in data.people]
    file = tmp_path / "captions.csv"
    file.write_text(f"key,caption\n{first},a person\n")
    arguments = ("--captions", file, "--root", toy_emotic, "--out", tmp_path / "run")
    message = evaluate_error(capsys, "system", "llm", *arguments)
    assert f"{file} has no caption of {len(others)} of {len(others) + 1} people" in message
    assert ", ".join(map(repr, others[:3])) in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (RAND6, "rand6-test"),
        (("system", "rand6-weighted", "--split", "val"), "rand6-weighted-val"),
        ((*RAND6, "--input", "person"), "rand6-test-person"),
    ],
)
def test_default_folder_names_system_split_and_ablation(
    toy_emotic, tmp_path, monkeypatch, arguments, folder
):
    monkeypatch.chdir(tmp_path)
    assert evaluate(*arguments, "--root", toy_emotic) == 0
    assert [p.name for p in (tmp_path / "out" / "evaluate").iterdir()] == [folder]


def test_help_names_each_system_and_ablation(capsys):
    with pytest.raises(SystemExit):
        evaluate("system", "--help")
    words = re.sub(r"\s", "", capsys.readouterr().out)
    assert all(f"{name}:" in words for name in (*SYSTEMS, *ABLATIONS))


def test_folder_in_use_is_refused_before_the_data_and_the_model_are_read(
    toy_emotic, tmp_path, monkeypatch, capsys
):
    def read(*_, **__):
        raise AssertionError("the data or a model is read")

    monkeypatch.setattr("emotion_perception.evaluation.datasets.emotic.load", read)
    monkeypatch.setattr(MAKE_RECOGNIZER, read)
    out = tmp_path / "run"
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    arguments = ("system", "rand6", "--root", toy_emotic, "--out", out)
    assert "another process is using it" in evaluate_error(capsys, *arguments)
    os.close(descriptor)
    (out / "thesis.tex").write_text("")
    assert "holds other files and no run" in evaluate_error(capsys, *arguments)
    file = tmp_path / "file"
    file.write_text("")
    message = evaluate_error(capsys, *arguments[:-1], file / "run")
    assert f"cannot create the folder {file / 'run'}: Not a directory" in message

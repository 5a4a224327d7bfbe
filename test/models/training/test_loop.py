"""The training loop: what it writes, how it resumes, and when it stops."""

import errno
import json
import subprocess

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from support import trainings
from support.trainings import cnn_settings, recipe, vlm_settings

from emotion_perception.evaluation.datasets import emotic
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.training import loop, trainables
from emotion_perception.training.manifest import code_version

pytestmark = pytest.mark.models


def test_training_lowers_the_loss_and_completes_the_run_folder(smolvlm, root, tmp_path):
    options = recipe(steps=25, every=25, batch=4, val_split="none")
    usage = trainings.train(vlm_settings(smolvlm), options, root, tmp_path)
    logged = trainings.logged(tmp_path)
    assert len(logged) == 25
    assert logged[-1] < 0.75 * logged[0]
    assert usage.adapter == str(tmp_path / "adapter")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adapter", "curves.png", "last", "log.jsonl", "settings.json",
    ]  # fmt: skip
    manifest = json.loads((tmp_path / "settings.json").read_text())
    assert manifest["recipe"]["steps"] == 25
    assert {"data", "versions", "commit", "settings"} <= set(manifest)
    trained = vlm_settings(smolvlm, adapter=str(tmp_path / "adapter"))
    assert not make_recognizer(trained).calibration


def test_steps_count_people_where_examples_are_people(smolvlm, root, tmp_path):
    people = len(emotic.load(root, "train").people)
    assert people > len(emotic.load(root, "train").images)
    paper = {"steps": 0, "example": "person", "batch": 1, "accumulate": 2, "objective": "answer"}
    options = recipe(**paper, epochs=1.0, val_split="none", every=100)
    trainings.train(vlm_settings(smolvlm), options, root, tmp_path)
    assert len(trainings.logged(tmp_path)) == -(-people // 2)


@pytest.mark.parametrize("system", ["vlm", "cnn"])
def test_resumed_training_is_bit_identical_to_an_uninterrupted_one(smolvlm, root, tmp_path, system):
    options = recipe(steps=4, every=2, dropout=0.1, input_dropout=0.5, accumulate=2, val_people=2)
    settings = vlm_settings(smolvlm) if system == "vlm" else cnn_settings(tmp_path / "cnn")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    trainings.train(settings, options, root, whole)

    def interrupt(done, total, loss):
        if done == 3 and loss == loss:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainings.train(settings, options, root, resumed, progress=interrupt)
    assert len(trainings.logged(resumed)) == 3
    with (resumed / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')  # as if killed during the write
    trainings.train(settings, options, root, resumed)
    log = (whole / "log.jsonl").read_bytes()
    assert (resumed / "log.jsonl").read_bytes() == log
    name = "adapter/adapter_model.safetensors" if system == "vlm" else "model/model.safetensors"
    assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    calls = []
    trainings.train(settings, options, root, resumed, progress=lambda *args: calls.append(args))
    assert calls == [(4, 4, trainings.logged(resumed)[-1])], "no step is left"
    assert (resumed / "log.jsonl").read_bytes() == log


def test_folder_of_another_training_is_refused(smolvlm, root, tmp_path):
    options = recipe(steps=1, val_split="none")
    trainings.train(vlm_settings(smolvlm), options, root, tmp_path)
    other = recipe(steps=1, lr=1e-2, val_split="none")
    with pytest.raises(ValueError, match=r"another run \(recipe.lr: 0.005, now 0.01\)"):
        trainings.train(vlm_settings(smolvlm), other, root, tmp_path)
    with pytest.raises(ValueError, match=r"settings.person_view: 'mark', now 'crop'"):
        trainings.train(vlm_settings(smolvlm, person_view="crop"), options, root, tmp_path)


def test_changed_library_version_is_reported_and_resumed(smolvlm, root, tmp_path):
    options, path = recipe(steps=1, val_split="none"), tmp_path / "settings.json"
    trainings.train(vlm_settings(smolvlm), options, root, tmp_path)
    manifest = json.loads(path.read_text())
    manifest["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    lines = []
    trainings.train(vlm_settings(smolvlm), options, root, tmp_path, report=lines.append)
    assert any("versions.torch has changed" in line for line in lines)


def test_damaged_run_folder_is_refused(smolvlm, root, tmp_path):
    options, path = recipe(steps=1, val_split="none"), tmp_path / "settings.json"
    trainings.train(vlm_settings(smolvlm), options, root, tmp_path)
    (tmp_path / "last" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="last: it is damaged"):
        trainings.train(vlm_settings(smolvlm), options, root, tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        trainings.train(vlm_settings(smolvlm), options, root, tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no run"):
        trainings.train(vlm_settings(smolvlm), options, root, tmp_path)


def test_training_with_other_initial_weights_does_not_resume(root, tmp_path):
    options = recipe(steps=1, batch=4, val_split="none")
    trainings.train(cnn_settings(tmp_path / "cnn"), options, root, tmp_path / "run")
    settings = cnn_settings(tmp_path / "cnn", seed=1)
    with pytest.raises(ValueError, match="holds another run .weights: "):
        trainings.train(settings, options, root, tmp_path / "run")


def test_code_version_comes_from_the_repository_that_tracks_the_file(tmp_path, monkeypatch):
    def git(*command):
        author = ["-c", "user.name=A. Author", "-c", "user.email=author@example.org"]
        arguments = ["git", "-C", tmp_path, *author, *command]
        return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "loop.py"
    file.write_text("1")
    assert code_version(file) is None
    git("init")
    git("commit", "--allow-empty", "--message", "unrelated")
    assert code_version(file) is None
    git("add", "loop.py")
    git("commit", "--message", "ours")
    monkeypatch.chdir("/")
    commit = git("rev-parse", "HEAD")
    assert code_version(file) == commit
    versions = []
    for text in ("2", "3"):
        file.write_text(text)
        versions.append(code_version(file))
    assert all(version.startswith(f"{commit}-dirty-") for version in versions)
    assert versions[0] != versions[1]


def test_bf16_loss_is_close_to_the_float32_loss(smolvlm, root, tmp_path):
    bf16 = recipe(steps=1, precision="bf16", val_people=1)
    trainings.train(vlm_settings(smolvlm), bf16, root, tmp_path / "half")
    trainings.train(vlm_settings(smolvlm), recipe(steps=1, val_people=1), root, tmp_path / "full")
    half, full = (trainings.logged(tmp_path / name)[0] for name in ("half", "full"))
    assert half != full
    assert half == pytest.approx(full, rel=0.05)
    settings = vlm_settings(smolvlm, dtype="bfloat16")  # as on a GPU; trained weights have 32 bits
    options = recipe(steps=1, precision="bf16", val_people=1, train_projector=True)
    trainings.train(settings, options, root, tmp_path / "weights")
    assert trainings.logged(tmp_path / "weights")[0] == pytest.approx(full, rel=0.05)
    with pytest.raises(ValueError, match="dtype = bfloat16: .* set --precision to bf16"):
        trainings.train(settings, recipe(), root, tmp_path / "refused")
    fp16 = recipe(precision="fp16")
    with pytest.raises(ValueError, match="--precision fp16 on a CPU"):
        trainings.train(vlm_settings(smolvlm), fp16, root, tmp_path / "other")


def test_training_stops_when_validation_no_longer_improves(smolvlm, root, tmp_path, monkeypatch):
    values = iter([0.2, 0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(loop.metrics, "mean_average_precision", lambda truth, scores: next(values))
    trainings.train(
        vlm_settings(smolvlm), recipe(steps=9, patience=2, val_people=1), root, tmp_path
    )
    assert len(trainings.logged(tmp_path)) == 4
    assert trainings.logged(tmp_path, "val_map") == [0.2, 0.5, 0.4, 0.3]
    best, last = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes()
        for name in ("adapter", "last/adapter")
    )
    assert best != last


def test_nan_loss_stops_the_training_and_keeps_the_checkpoint(smolvlm, root, tmp_path, monkeypatch):
    forward = trainables.VlmAdapter.forward
    calls = []

    def broken(self, samples):
        calls.append(1)
        return forward(self, samples) * (float("nan") if len(calls) > 2 else 1.0)

    monkeypatch.setattr(trainables.VlmAdapter, "forward", broken)
    settings, options = vlm_settings(smolvlm), recipe(steps=4, val_split="none")
    with pytest.raises(ValueError, match=r"loss is nan at step 3; lower --lr .* holds step 2"):
        trainings.train(settings, options, root, tmp_path / "a")
    monkeypatch.setattr(trainables.VlmAdapter, "forward", forward)
    trainings.train(settings, options, root, tmp_path / "a")
    assert len(trainings.logged(tmp_path / "a")) == 4
    calls += [1, 1]
    monkeypatch.setattr(trainables.VlmAdapter, "forward", broken)
    with pytest.raises(ValueError, match="no step is saved"):
        trainings.train(settings, options, root, tmp_path / "b")


def test_full_disk_keeps_the_last_checkpoint(smolvlm, root, tmp_path, monkeypatch):
    save, paths = torch.save, []

    def full(content, path):
        paths.append(path)
        if len(paths) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    settings, options = vlm_settings(smolvlm), recipe(steps=4, val_split="none")
    with pytest.raises(OSError, match=r"cannot save step 3: .*No space left.* holds step 2"):
        trainings.train(settings, options, root, tmp_path)
    assert not list(tmp_path.glob("*.new"))
    monkeypatch.setattr(torch, "save", save)
    trainings.train(settings, options, root, tmp_path)
    assert len(trainings.logged(tmp_path)) == 4

"""Training on small random checkpoints and the drawn world: what is served is what learns."""

import csv
import errno
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.logits import logit
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.recognizers.calibrated import Calibrated
from emotion_perception.recognizers.cnn import EmoticCnn
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.vlm import model as vlm
from emotion_perception.recognizers.vlm import prompts
from emotion_perception.testing.checkpoints.clip import save_blip, save_clip
from emotion_perception.testing.checkpoints.encoders import save_bridgetower, save_vilt
from emotion_perception.testing.checkpoints.text import save_tiny_text
from emotion_perception.testing.checkpoints.vlm import save_tiny
from emotion_perception.training import loop, losses, samples, trainables
from emotion_perception.training.folders import put
from emotion_perception.training.recipe import PRESETS, Recipe
from emotion_perception.training.samples import SampleReader

pytestmark = pytest.mark.models

SMALL = {"scene_size": 64, "crop_size": 64, "device": "cpu", "definitions": "none"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("emotic")
    toy_world.write_emotic(
        root, {"train": (1, 4), "val": (2, 3)}, size=(96, 96), people=(1, 2), part="all"
    )
    return root


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory):
    return save_tiny("smolvlm", tmp_path_factory.mktemp("models") / "smolvlm")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("models") / "qwen3_vl")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return save_tiny_text("qwen2", tmp_path_factory.mktemp("models") / "qwen2")


@pytest.fixture(scope="module")
def captions(root):
    file = root / "captions.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["key", "caption"])
        for split in ("train", "val"):
            for i, person in enumerate(emotic.load(root, split).people):
                writer.writerow([person.key, f"A person, number {i}, who is happy."])
    return file


def settings(folder, **changes):
    given = {**SMALL, "model": str(folder), "person_view": "mark", "answer_format": "continuation"}
    return recognizer_settings(**{**given, **changes})


def reading(folder, captions):
    asked = {"device": "cpu", "definitions": "none", "answer_format": "continuation"}
    return recognizer_settings(name="llm", text_model=str(folder), captions=str(captions), **asked)


def kosti(folder):
    torch.manual_seed(0)
    EmoticCnn(context_size=64, body_size=32).save(folder)
    return recognizer_settings(name="emotic-cnn", model=str(folder), device="cpu")


def recipe(**changes):
    given = {"steps": 3, "every": 1, "batch": 2, "lr": 5e-3, "dropout": 0.0, "rank": 4}
    return Recipe.from_options({**given, "schedule": "linear", "warmup": 0.0, **changes})


def learn(asked, how, root, folder, **changes):
    held = None if how.val_split == "none" else emotic.load(root, how.val_split)
    return loop.train(
        asked, how, emotic.load(root, how.split), held, folder, report=lambda line: None, **changes
    )


def logged(folder, key="loss"):
    return [row[key] for row in loop.read_log(folder) if key in row]


def odds(recognizer, scene):
    return logit(np.array([a.scores for a in recognizer.assess(scene, scene.people)]))


@pytest.mark.parametrize("family", ["smolvlm", "qwen", "reader"])
def test_what_is_trained_is_what_is_served(request, root, captions, tmp_path, family):
    folder = request.getfixturevalue(family)
    asked = reading(folder, captions) if family == "reader" else settings(folder)
    (sample,) = SampleReader(emotic.load(root, "train")).draw(0, 1)
    served = odds(make_recognizer(asked), sample.scene)
    trainable = trainables.make_trainable(asked, recipe())

    def trained():
        if family == "reader":
            given = trainable.recognizer.describe(sample.scene, sample.scene.people)
        else:
            boxes = [p.box for p in sample.scene.people]
            given = [prompts.make_prompt_images(sample.scene.frame.image, boxes, asked)]
        with torch.no_grad():
            return losses.log_odds(trainable.served.answer_logprobs(given)[:26]).numpy()

    for mode in (True, False):
        trainable.train(mode)
        np.testing.assert_allclose(trained(), served, atol=2e-4)
    optimizer = torch.optim.AdamW(trainable.parameter_groups(recipe(lr=1e-2)))
    for _ in range(2):  # LoRA begins with a factor of zeros
        optimizer.zero_grad()
        torch.autograd.backward(trainable([sample]))
        optimizer.step()
    trainable.eval()
    after = trained()
    assert np.abs(after - served).max() > 1e-2
    np.testing.assert_allclose(odds(trainable.recognizer, sample.scene), after, atol=2e-4)
    trainable.save(tmp_path / "adapter")
    again = replace(asked, adapter=str(tmp_path / "adapter"))
    np.testing.assert_allclose(odds(make_recognizer(again), sample.scene), after, atol=1e-4)


def test_four_pictures_are_learnt_by_heart(smolvlm, root, tmp_path):
    how = recipe(steps=25, every=25, batch=4, val_split="none")
    usage = learn(settings(smolvlm), how, root, tmp_path)
    found = logged(tmp_path)
    assert len(found) == 25
    assert found[-1] < 0.75 * found[0]
    assert str(tmp_path / "adapter") in usage
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adapter", "curves.png", "last", "log.jsonl", "settings.json",
    ]  # fmt: skip
    about = json.loads((tmp_path / "settings.json").read_text())
    assert about["recipe"]["steps"] == 25
    assert {"data", "versions", "commit", "settings"} <= set(about)
    assert not make_recognizer(settings(smolvlm, adapter=str(tmp_path / "adapter"))).calibration


@pytest.mark.parametrize("system", ["vlm", "cnn"])
def test_going_on_gives_the_bits_of_no_interruption(smolvlm, root, tmp_path, system):
    how = recipe(steps=4, every=2, dropout=0.1, input_dropout=0.5, accumulate=2, val_people=2)
    asked = settings(smolvlm) if system == "vlm" else kosti(tmp_path / "cnn")
    learn(asked, how, root, tmp_path / "whole")

    def interrupt(done, total, loss):
        if done == 3 and loss == loss:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(asked, how, root, tmp_path / "parts", progress=interrupt)
    assert len(logged(tmp_path / "parts")) == 3
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')  # killed while it wrote
    learn(asked, how, root, tmp_path / "parts")
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    name = "adapter/adapter_model.safetensors" if system == "vlm" else "model/model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    shown = []
    learn(asked, how, root, tmp_path / "parts", progress=lambda *given: shown.append(given))
    assert shown == [(4, 4, logged(tmp_path / "parts")[-1])], "nothing is left to do"
    assert (tmp_path / "parts" / "log.jsonl").read_bytes() == logs[0]


def test_a_training_with_other_arguments_is_refused(smolvlm, root, tmp_path):
    learn(settings(smolvlm), recipe(steps=1, val_split="none"), root, tmp_path)
    with pytest.raises(ValueError, match=r"another training \(recipe.lr: 0.005, now 0.01\)"):
        learn(settings(smolvlm), recipe(steps=1, lr=1e-2, val_split="none"), root, tmp_path)
    asked = settings(smolvlm, person_view="crop")
    with pytest.raises(ValueError, match=r"settings.person_view: 'mark', now 'crop'"):
        learn(asked, recipe(steps=1, val_split="none"), root, tmp_path)
    said = []
    path = tmp_path / "settings.json"
    about = json.loads(path.read_text())
    about["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(about))
    how = recipe(steps=1, val_split="none")
    loop.train(
        settings(smolvlm), how, emotic.load(root, "train"), None, tmp_path, report=said.append
    )
    assert any("versions.torch has changed" in line for line in said)
    (tmp_path / "last" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="last: it is damaged"):
        learn(settings(smolvlm), how, root, tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        learn(settings(smolvlm), how, root, tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no training"):
        learn(settings(smolvlm), how, root, tmp_path)


def test_a_training_goes_on_over_the_weights_that_it_began_with_only(root, tmp_path):
    asked, how = kosti(tmp_path / "cnn"), recipe(steps=1, batch=4, val_split="none")
    learn(asked, how, root, tmp_path / "run")
    torch.manual_seed(1)
    EmoticCnn(context_size=64, body_size=32).save(tmp_path / "cnn")
    with pytest.raises(ValueError, match="holds another training .weights: "):
        learn(asked, how, root, tmp_path / "run")


def test_the_state_of_the_code_is_that_of_its_own_repository(tmp_path, monkeypatch):
    def git(*command):
        name = ["-c", "user.name=author", "-c", "user.email=author@example.org"]
        given = ["git", "-C", tmp_path, *name, *command]
        return subprocess.run(given, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "finetune.py"
    file.write_text("1")
    assert loop.code_version(file) is None
    git("init")
    git("commit", "--allow-empty", "--message", "of another author")
    assert loop.code_version(file) is None
    git("add", "finetune.py")
    git("commit", "--message", "ours")
    monkeypatch.chdir("/")
    commit = git("rev-parse", "HEAD")
    assert loop.code_version(file) == commit
    found = []
    for text in ("2", "3"):
        file.write_text(text)
        found.append(loop.code_version(file))
    assert all(state.startswith(f"{commit}-dirty-") for state in found)
    assert found[0] != found[1]


@pytest.mark.parametrize("family", ["smolvlm", "qwen", "reader", "gemma3"])
def test_the_papers_answer_is_learnt(request, root, captions, tmp_path, family):
    if family == "gemma3":  # cannot be packed, and need not
        asked = settings(save_tiny("gemma3", tmp_path / "gemma3"))
    else:
        folder = request.getfixturevalue(family)
        asked = reading(folder, captions) if family == "reader" else settings(folder)
    how = recipe(objective="answer", steps=6, every=6, val_people=1, lr=1e-2)
    learn(asked, how, root, tmp_path / "run")
    found = logged(tmp_path / "run")
    assert found[-1] < 0.95 * found[0]
    assert logged(tmp_path / "run", "val_map") == [None]


def test_the_answer_is_in_the_papers_order_and_ends(smolvlm):
    labels = np.isin(EMOTIC_LABELS, ["peace", "happiness", "doubt/confusion"])
    assert losses.answer_text(labels) == "doubt/confusion, happiness, peace"
    how = recipe(objective="answer")
    trainable = trainables.make_trainable(settings(smolvlm), how)
    tokenizer = trainable.served.processor.tokenizer
    text, ids = trainables.answer_tokens(tokenizer, "Assistant:", labels)
    assert text == f"Assistant: doubt/confusion, happiness, peace{tokenizer.eos_token}"
    assert tokenizer.decode(ids) == text.removeprefix("Assistant:")
    trainable.close()


@pytest.mark.parametrize("family", ["smolvlm", "qwen"])
def test_recomputed_activations_give_the_same_gradients(request, root, family):
    asked = settings(request.getfixturevalue(family))
    samples = SampleReader(emotic.load(root, "train")).draw(0, 2)
    found = []
    for again in (False, True):
        how = recipe(checkpoint_activations=again)
        trainable = trainables.make_trainable(asked, how).train()
        torch.autograd.backward(trainable(samples))
        found.append([p.grad for p in trainable.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "part", "projector"),
    [("smolvlm", "vision_model", "connector"), ("qwen", "visual", "merger")],
)
def test_what_learns_is_chosen(request, root, tmp_path, family, part, projector):
    asked = settings(request.getfixturevalue(family))

    def learning(**changes):
        trainable = trainables.make_trainable(asked, recipe(**changes))
        return [name for name, p in trainable.named_parameters() if p.requires_grad], trainable

    names, _ = learning()
    assert names
    assert not any(part in name or projector in name or "lm_head" in name for name in names)
    names, _ = learning(target="q_proj,v_proj")
    assert names
    assert all("q_proj" in name or "v_proj" in name for name in names)
    names, _ = learning(train_vision=True)
    assert any(part in name and projector not in name for name in names)
    names, trainable = learning(train_projector=True, projector_lr=1e-5)
    assert any(projector in name and "modules_to_save" in name for name in names)
    assert not any(part in name and projector not in name for name in names)
    groups = trainable.parameter_groups(recipe(projector_lr=1e-5))
    assert [group["lr"] for group in groups] == [5e-3, 1e-5]
    samples = SampleReader(emotic.load(root, "train")).draw(0, 1)
    torch.autograd.backward(trainable(samples))
    assert all(p.grad is not None for p in groups[1]["params"])
    with torch.no_grad():
        for p in groups[1]["params"]:
            p.add_(0.05 * torch.randn_like(p))
    trainable.eval().save(tmp_path)
    wanted = odds(trainable.recognizer, samples[0].scene)
    again = make_recognizer(settings(asked.model, adapter=str(tmp_path)))
    np.testing.assert_allclose(odds(again, samples[0].scene), wanted, atol=1e-4)
    with pytest.raises(ValueError, match="--target nose: the model has"):
        learning(target="nose")


def test_a_network_of_kosti_learns_and_is_served(root, tmp_path):
    asked = kosti(tmp_path / "begin")
    usage = learn(asked, recipe(steps=12, every=6, batch=4, lr=1e-3), root, tmp_path / "run")
    found = logged(tmp_path / "run")
    assert np.mean(found[-3:]) < found[0]
    assert str(tmp_path / "run" / "model") in usage
    made = recognizer_settings(
        name="emotic-cnn", model=str(tmp_path / "run" / "model"), device="cpu"
    )
    (sample,) = SampleReader(emotic.load(root, "val")).draw(0, 1)
    before, after = (odds(make_recognizer(s), sample.scene) for s in (asked, made))
    assert np.abs(before - after).max() > 1e-2
    trainable = trainables.CnnTrainable(made).eval()
    np.testing.assert_allclose(logit(trainable.scores(sample.scene)), after, atol=1e-6)
    with pytest.raises(ValueError, match="already weights rare labels"):
        learn(asked, recipe(balance=True), root, tmp_path / "other")
    one = SampleReader(samples.draw_people(emotic.load(root, "train"), 1, 0)).draw(0, 1)
    with pytest.raises(ValueError, match="at least two people"):
        trainables.CnnTrainable(asked).train()(one)


@pytest.mark.parametrize(
    ("name", "make"), [("two-stream", save_bridgetower), ("single-stream", save_vilt)]
)
def test_a_head_on_an_encoder_learns_and_is_served(root, tmp_path, name, make):
    encoder = make(tmp_path / "encoder")
    asked = recognizer_settings(name=name, model=str(encoder), device="cpu", scene_size=64)
    how = recipe(steps=12, every=6, batch=4, lr=1e-2, balance=True)
    learn(asked, how, root, tmp_path / "run")
    found = logged(tmp_path / "run")
    assert found[-1] < 0.9 * found[0]
    assert not (encoder / "head.json").exists()
    made = recognizer_settings(
        name=name, model=str(tmp_path / "run" / "model"), device="cpu", scene_size=64
    )
    recognizer = make_recognizer(made)
    assert recognizer.name.endswith("+head")
    (sample,) = SampleReader(emotic.load(root, "val")).draw(0, 1)
    trainable = trainables.EncoderHead(asked, None)
    trainable.restore(tmp_path / "run" / "model")
    trainable.eval()
    np.testing.assert_allclose(
        logit(trainable.scores(sample.scene)), odds(recognizer, sample.scene), atol=1e-4
    )
    answer, *_ = recognizer.assess(sample.scene, sample.scene.people)
    assert answer.vad is not None


def test_a_step_in_bf16(smolvlm, root, tmp_path):
    how = recipe(steps=1, precision="bf16", val_people=1)
    learn(settings(smolvlm), how, root, tmp_path / "half")
    learn(settings(smolvlm), recipe(steps=1, val_people=1), root, tmp_path / "whole")
    half, whole = logged(tmp_path / "half")[0], logged(tmp_path / "whole")[0]
    assert half != whole
    assert half == pytest.approx(whole, rel=0.05)
    asked = settings(smolvlm, dtype="bfloat16")  # as on a GPU; what is trained has 32 bits
    how = recipe(steps=1, precision="bf16", val_people=1, train_projector=True)
    learn(asked, how, root, tmp_path / "weights")
    assert logged(tmp_path / "weights")[0] == pytest.approx(whole, rel=0.05)
    with pytest.raises(ValueError, match="dtype = bfloat16 needs --precision bf16"):
        learn(asked, recipe(), root, tmp_path / "refused")
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        learn(settings(smolvlm), recipe(precision="fp16"), root, tmp_path / "other")


def test_it_stops_where_validation_gets_no_better(smolvlm, root, tmp_path, monkeypatch):
    values = iter([0.2, 0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(loop.metrics, "mean_average_precision", lambda truth, scores: next(values))
    how = recipe(steps=9, patience=2, val_people=1)
    learn(settings(smolvlm), how, root, tmp_path)
    assert len(logged(tmp_path)) == 4
    assert logged(tmp_path, "val_map") == [0.2, 0.5, 0.4, 0.3]
    best, last = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes()
        for name in ("adapter", "last/adapter")
    )
    assert best != last


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_saved(
    smolvlm, root, tmp_path, monkeypatch
):
    forward = trainables.Adapter.forward
    calls = []

    def broken(self, samples):
        calls.append(1)
        return forward(self, samples) * (float("nan") if len(calls) > 2 else 1.0)

    monkeypatch.setattr(trainables.Adapter, "forward", broken)
    how = recipe(steps=4, val_split="none")
    with pytest.raises(ValueError, match=r"loss is nan at step 3: lower --lr .* holds step 2"):
        learn(settings(smolvlm), how, root, tmp_path / "a")
    monkeypatch.setattr(trainables.Adapter, "forward", forward)
    learn(settings(smolvlm), how, root, tmp_path / "a")
    assert len(logged(tmp_path / "a")) == 4
    calls += [1, 1]
    monkeypatch.setattr(trainables.Adapter, "forward", broken)
    with pytest.raises(ValueError, match="no step is saved"):
        learn(settings(smolvlm), how, root, tmp_path / "b")


def test_a_full_disk_leaves_the_last_checkpoint_usable(smolvlm, root, tmp_path, monkeypatch):
    save, saved = torch.save, []

    def full(content, path):
        saved.append(path)
        if len(saved) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    how = recipe(steps=4, val_split="none")
    with pytest.raises(OSError, match=r"cannot save step 3: .*No space left.* holds step 2"):
        learn(settings(smolvlm), how, root, tmp_path)
    assert not list(tmp_path.glob("*.new"))
    monkeypatch.setattr(torch, "save", save)
    learn(settings(smolvlm), how, root, tmp_path)
    assert len(logged(tmp_path)) == 4


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "last"
    put(folder, lambda new: (new / "a").write_text("1"))

    def fails(error):
        def write(new):
            (new / "a").write_text("2")
            raise error

        return write

    for error, seen in (
        (KeyboardInterrupt(), KeyboardInterrupt),
        (RuntimeError("PytorchStreamWriter failed"), OSError),
    ):
        with pytest.raises(seen):
            put(folder, fails(error))
        assert (folder / "a").read_text() == "1"
    folder.rename(tmp_path / "last.old")  # killed between the two renames
    put(folder, lambda new: (new / "a").write_text("3"))
    assert (folder / "a").read_text() == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scoring": "letters"}, "cannot train with recognizer.scoring = letters"),
        ({"adapter": "somewhere"}, "cannot train with recognizer.adapter = somewhere"),
        ({"subtract_prior": True}, "cannot train with recognizer.subtract_prior = True"),
        ({"quantization": "4bit"}, "cannot train with recognizer.quantization = 4bit"),
    ],
)
def test_what_cannot_be_trained_is_refused(smolvlm, root, tmp_path, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        learn(settings(smolvlm, **changes), recipe(), root, tmp_path)


def test_recognizer_without_a_trainable_part_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="cannot train face: it has no trainable part"):
        learn(recognizer_settings("face", device="cpu"), recipe(), root, tmp_path)


def test_a_model_that_cannot_be_packed_names_those_that_can(root, tmp_path, captions):
    gemma = save_tiny("gemma3", tmp_path / "gemma3")
    with pytest.raises(ValueError, match=r"cannot be trained on scores.*smolvlm, .*qwen3_vl"):
        learn(settings(gemma), recipe(), root, tmp_path / "run")
    neox = save_tiny_text("gpt_neox", tmp_path / "neox")
    with pytest.raises(ValueError, match=r"cannot be trained on scores.*llama, .*qwen3"):
        learn(reading(neox, captions), recipe(), root, tmp_path / "other")
    assert "gemma3" not in vlm.FAMILIES


def test_a_person_without_a_caption_is_named(reader, root, captions, tmp_path):
    first, *rest = captions.read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join([first, *rest[-1:]]) + "\n")
    with pytest.raises(ValueError, match="has no caption of"):
        learn(reading(reader, tmp_path / "few.csv"), recipe(), root, tmp_path / "run")


def test_presets_are_the_papers():
    paper = Recipe.from_options({}, "paper")
    assert (paper.rank, paper.alpha, paper.lr, paper.projector_lr) == (128, 256, 2e-4, 2e-5)
    assert (paper.objective, paper.schedule, paper.epochs) == ("answer", "cosine", 1.0)
    assert (paper.train_projector, paper.target, paper.split) == (True, "all-linear", "train")
    assert Recipe.from_options({}, "paper-val").split == "val"
    hundred = Recipe.from_options({"lr": 1e-5}, "paper-100")
    assert (hundred.people, hundred.split, hundred.val_split) == (100, "val", "none")
    assert (hundred.lr, hundred.rank) == (1e-5, 128)
    assert set(PRESETS) == {"paper", "paper-val", "paper-100"}


@pytest.mark.parametrize(
    ("given", "preset", "complaint"),
    [
        ({}, "ours", "unknown preset 'ours'"),
        ({"rang": 1}, "", "unknown recipe option 'rang'"),
        ({"lr": "fast"}, "", "lr = 'fast' is of type str"),
        ({"rank": 0}, "", "rank = 0 is not allowed"),
        ({"split": "val"}, "", "would select the best state on the training data"),
        ({"split": "test"}, "", "one of train, val"),
        ({"epochs": 0.0}, "", "cannot train for 0 epochs"),
        ({"patience": 1, "val_split": "none"}, "", "--patience needs a --val-split"),
        ({"balance": True}, "paper", "--balance weights labels"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(given, preset, complaint):
    with pytest.raises(ValueError, match=complaint):
        Recipe.from_options(given, preset)


def test_the_learning_rate_goes_up_and_down():
    linear = Recipe.from_options({"schedule": "linear", "warmup": 0.2})
    assert [linear.learning_rate_factor(i, 10) for i in range(4)] == [
        0.5,
        1.0,
        1.0,
        pytest.approx(7 / 8),
    ]
    cosine = Recipe.from_options({"warmup": 0.0})
    assert [cosine.learning_rate_factor(i, 4) for i in (0, 2)] == [1.0, pytest.approx(0.5)]
    assert Recipe.from_options({"warmup": 1.0}).learning_rate_factor(9, 10) == 1.0


def test_weights_of_rare_labels_by_hand():
    truth = np.zeros((1000, 3), bool)
    truth[:10, 0] = True
    truth[:500, 1] = True
    rare, even, absent = losses.positive_weights(truth)
    assert (
        rare == losses.MAX_POSITIVE_WEIGHT
    )  # (1 - 0.999^990) / (1 - 0.999^10) = 0.6286 / 0.00995 = 63
    assert even == pytest.approx(1.0)
    assert absent == 1.0
    truth[:, 2] = True
    truth[:400, 0] = True
    some, _, constant = losses.positive_weights(truth)
    assert some == pytest.approx((1 - 0.999**600) / (1 - 0.999**400))
    assert constant == 1 / losses.MAX_POSITIVE_WEIGHT


@pytest.mark.parametrize("system", ["vlm", "llm", "two-stream"])
def test_where_a_rare_label_is_present_it_counts_more(
    smolvlm, reader, captions, root, tmp_path, system
):
    if system == "vlm":
        asked = settings(smolvlm)
    elif system == "llm":
        asked = reading(reader, captions)
    else:
        encoder = str(save_bridgetower(tmp_path / "encoder"))
        asked = recognizer_settings(name=system, model=encoder, device="cpu", scene_size=64)
    (sample,) = SampleReader(emotic.load(root, "train")).draw(0, 1)
    loss = {}
    for name, chosen in (
        ("none", np.zeros(26, bool)),
        ("present", sample.labels[0]),
        ("absent", ~sample.labels.any(axis=0)),
    ):
        trainable = trainables.make_trainable(asked, recipe(), np.where(chosen, 10.0, 1.0)).eval()
        with torch.no_grad():
            loss[name] = float(trainable([sample]))
        trainable.close()
    assert loss["present"] > loss["none"] + 0.1
    assert loss["absent"] == pytest.approx(loss["none"], abs=1e-5)


def test_each_epoch_shows_everybody_once_in_another_order(root):
    samples = SampleReader(emotic.load(root, "train"), seed=3)
    names = [s.scene.frame.camera for s in samples.draw(0, 40)]
    epochs = [names[i : i + 4] for i in range(0, 40, 4)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    assert [s.scene.frame.camera for s in samples.draw(7, 3)] == names[7:10]


def test_input_dropout_shows_one_person_by_a_part(root):
    whole = SampleReader(emotic.load(root, "train")).draw(0, 8)
    less = SampleReader(emotic.load(root, "train"), ablation_rate=1.0).draw(0, 8)
    for one, other in zip(whole, less, strict=True):
        assert len(other.scene.people) == 1
        assert len(other.labels) == len(other.vad) == 1
        assert (one.scene.frame.image != other.scene.frame.image).any()
    assert [
        s.scene.people
        for s in SampleReader(emotic.load(root, "train"), ablation_rate=1.0).draw(0, 8)
    ] == [s.scene.people for s in less]


def test_a_picture_that_cannot_be_read_gives_way_to_the_next(tmp_path, caplog):
    toy_world.write_emotic(tmp_path, {"train": (1, 3)}, size=(64, 64), people=(1, 1))
    part = emotic.load(tmp_path, "train")
    part.images[0].path.write_bytes(b"no picture")
    found = SampleReader(part).draw(0, 3)
    assert len(found) == 3
    assert part.images[0].path.stem not in {s.scene.frame.camera for s in found}
    assert "skipping" in caplog.text
    assert sum(map(len, SampleReader(part).batches(2))) == 2
    for picture in part.images:
        picture.path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot read any image of the train split"):
        SampleReader(part).draw(0, 1)


def test_some_people_are_drawn_by_the_seed(root):
    part = emotic.load(root, "train")
    some = samples.draw_people(part, 3, seed=0)
    assert len(some.people) == 3
    keys = {p.key for p in part.people}
    assert {p.key for p in some.people} < keys
    assert [p.key for p in samples.draw_people(part, 3, 0).people] == [p.key for p in some.people]
    with pytest.raises(ValueError, match=r"cannot draw 999 people: the train split has \d+"):
        samples.draw_people(part, 999, 0)


def test_the_command_trains_and_says_how_to_go_on(smolvlm, root, tmp_path, capsys):
    options = ["finetune", "--root", str(root), "--system", "vlm", "--model", str(smolvlm)]
    options += ["-p", "device:=cpu", "-p", "scene_size:=64", "-p", "answer_format:=continuation"]
    options += ["--steps", "1", "--people", "2", "--val-people", "1", "--rank", "2"]
    assert main([*options, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"-p recognizer.adapter:={tmp_path / 'run' / 'adapter'}" in said
    assert "no person of the training data has" in said  # two people have few labels
    recognizer = make_recognizer(settings(smolvlm, adapter=str(tmp_path / "run" / "adapter")))
    assert not isinstance(recognizer, Calibrated)
    assert recognizer.name == "vlm:smolvlm+adapter"


@pytest.mark.parametrize(("system", "make"), [("narracap", save_clip), ("caption", save_blip)])
def test_the_command_trains_the_text_model_that_reads_captions(
    reader, root, tmp_path, system, make
):
    captioner = str(make(tmp_path / "captioner"))
    options = ["finetune", "--root", str(root), "--system", system, "--model", captioner]
    options += [
        "--text-model",
        str(reader),
        "-p",
        "device:=cpu",
        "-p",
        "answer_format:=continuation",
    ]
    options += ["--steps", "2", "--lr", "0.05", "--val-people", "1", "--out", str(tmp_path / "run")]
    assert main(options) == 0
    plain = recognizer_settings(
        name=system, model=captioner, text_model=str(reader), device="cpu", definitions="none",
        answer_format="continuation",
    )  # fmt: skip
    learnt = replace(plain, adapter=str(tmp_path / "run" / "adapter"))
    scene = emotic.load(root, "val").images[0].scene()
    before, after = (odds(make_recognizer(asked), scene) for asked in (plain, learnt))
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_twice_the_batch(smolvlm, tmp_path):
    # One person a picture: the mean of two means is that of all only where both are of as many.
    parts = {"train": (1, 4), "val": (2, 2)}
    toy_world.write_emotic(tmp_path / "data", parts, size=(96, 96), people=(1, 1))
    options = ["--root", str(tmp_path / "data"), "--system", "vlm", "--model", str(smolvlm)]
    options += ["-p", "device:=cpu", "-p", "scene_size:=64", "-p", "answer_format:=continuation"]
    options += ["--steps", "4", "--every", "2", "--lr", "0.005", "--dropout", "0"]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    said = {}
    for name, how, batch in (("one", [], "2"), ("two", launch, "1")):
        command = [sys.executable, "-m", *how, "emotion_perception.cli.main", "finetune", *options]
        command += ["--batch", batch, "--out", str(tmp_path / name)]
        said[name] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    logs = [loop.read_log(tmp_path / name) for name in said]
    assert len(logs[0]) == len(logs[1]) == 6
    for one, two in zip(*logs, strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    assert said["two"].count("written to") == said["one"].count("written to") == 1
    assert said["two"].count("validation loss") == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--system", "vlm", "--split", "val"], "would select the best state on the training data"),
        (["--system", "llm"], "needs --captions"),
        (["--system", "two-stream"], "needs --model"),
        (["--system", "vlm", "--root", "nowhere"], "is not a folder"),
        (["--system", "vlm", "--model", "nowhere"], "there is no folder 'nowhere'"),
        (["--system", "emotic-cnn", "--preset", "paper"], "cannot generate labels"),
        (["--system", "vlm", "-p", "nose:=1"], "there is no setting"),
    ],
)
def test_the_command_says_what_is_wrong(root, tmp_path, capsys, options, complaint):
    out = ["--out", str(tmp_path / "run")]
    assert main(["finetune", "--root", str(root), *options, *out]) == 2
    assert complaint in capsys.readouterr().err


def test_the_command_names_a_place_where_nothing_can_be_written(smolvlm, root, tmp_path, capsys):
    out = tmp_path / "run"
    out.touch()
    options = ["--system", "vlm", "--model", str(smolvlm), "--out", str(out)]
    assert main(["finetune", "--root", str(root), *options]) == 2
    assert f"cannot create the folder {out}: File exists; choose" in capsys.readouterr().err

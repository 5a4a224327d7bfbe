"""What is trained is what is served: adapters, networks and heads on small random checkpoints."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from support import trainings
from support.trainings import cnn_settings, llm_settings, log_odds, recipe, vlm_settings

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.logits import logit
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.vlm import prompts
from emotion_perception.testing.checkpoints.encoders import save_bridgetower, save_vilt
from emotion_perception.testing.checkpoints.text import save_tiny_text
from emotion_perception.testing.checkpoints.vlm import save_tiny
from emotion_perception.training import losses, trainables
from emotion_perception.training.samples import SampleReader, draw_people

pytestmark = pytest.mark.models


@pytest.fixture
def settings(request, family, captions):
    """Settings of the checkpoint that the test parameter `family` names."""
    folder = request.getfixturevalue(family)
    return llm_settings(folder, captions) if family == "text_model" else vlm_settings(folder)


@pytest.mark.parametrize("family", ["smolvlm", "qwen", "text_model"])
def test_adapter_trains_the_logits_that_are_served(settings, root, tmp_path, family):
    (sample,) = trainings.samples(root)
    served = log_odds(make_recognizer(settings), sample.scene)
    trainable = trainables.make_trainable(settings, recipe())

    def trained():
        if family == "text_model":
            inputs = trainable.recognizer.describe(sample.scene, sample.scene.people)
        else:
            boxes = [p.box for p in sample.scene.people]
            inputs = [prompts.make_prompt_images(sample.scene.frame.image, boxes, settings)]
        with torch.no_grad():
            return losses.log_odds(trainable.served.answer_logprobs(inputs)[:26]).numpy()

    for mode in (True, False):
        trainable.train(mode)
        np.testing.assert_allclose(trained(), served, atol=2e-4)
    optimizer = torch.optim.AdamW(trainable.parameter_groups(recipe(lr=1e-2)))
    for _ in range(2):  # one factor of LoRA starts at zero
        optimizer.zero_grad()
        torch.autograd.backward(trainable([sample]))
        optimizer.step()
    trainable.eval()
    after = trained()
    assert np.abs(after - served).max() > 1e-2
    np.testing.assert_allclose(log_odds(trainable.recognizer, sample.scene), after, atol=2e-4)
    trainable.save(tmp_path / "adapter")
    reloaded = make_recognizer(replace(settings, adapter=str(tmp_path / "adapter")))
    np.testing.assert_allclose(log_odds(reloaded, sample.scene), after, atol=1e-4)


@pytest.mark.parametrize("family", ["smolvlm", "qwen", "text_model", "qwen3_5"])
def test_objective_answer_lowers_the_loss(request, root, captions, tmp_path, family):
    if family == "qwen3_5":  # cannot be packed, which this objective does not need
        settings = vlm_settings(save_tiny("qwen3_5", tmp_path / "qwen3_5"))
    else:
        folder = request.getfixturevalue(family)
        settings = (
            llm_settings(folder, captions) if family == "text_model" else vlm_settings(folder)
        )
    options = recipe(objective="answer", steps=6, every=6, val_people=1, lr=1e-2)
    trainings.train(settings, options, root, tmp_path / "run")
    logged = trainings.logged(tmp_path / "run")
    assert logged[-1] < 0.95 * logged[0]
    assert trainings.logged(tmp_path / "run", "val_map") == [None]


def test_answer_tokens_continue_the_prompt_and_end_the_turn(smolvlm):
    labels = np.isin(EMOTIC_LABELS, ["peace", "happiness", "doubt/confusion"])
    trainable = trainables.make_trainable(vlm_settings(smolvlm), recipe(objective="answer"))
    tokenizer = trainable.tokenizer
    text, ids = losses.answer_tokens(tokenizer, "Assistant:", labels)
    assert text == f"Assistant: doubt/confusion, happiness, peace{tokenizer.eos_token}"
    assert tokenizer.decode(ids) == text.removeprefix("Assistant:")
    trainable.close()


@pytest.mark.parametrize("family", ["smolvlm", "qwen"])
def test_recomputed_activations_give_the_same_gradients(settings, root, family):
    samples = trainings.samples(root, count=2)
    gradients = []
    for recomputes in (False, True):
        trainable = trainables.make_trainable(settings, recipe(checkpoint_activations=recomputes))
        torch.autograd.backward(trainable.train()(samples))
        gradients.append([p.grad for p in trainable.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for stored, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(stored, recomputed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "vision_tower", "projector"),
    [("smolvlm", "vision_model", "connector"), ("qwen", "visual", "merger")],
)
def test_recipe_selects_the_trained_parameters(
    settings, root, tmp_path, family, vision_tower, projector
):
    def trained(**changes):
        trainable = trainables.make_trainable(settings, recipe(**changes))
        return [name for name, p in trainable.named_parameters() if p.requires_grad], trainable

    names, _ = trained()
    assert names
    untrained = (vision_tower, projector, "lm_head")
    assert not any(part in name for name in names for part in untrained)
    names, _ = trained(target="q_proj,v_proj")
    assert names
    assert all("q_proj" in name or "v_proj" in name for name in names)
    names, _ = trained(train_vision=True)
    assert any(vision_tower in name and projector not in name for name in names)
    names, trainable = trained(train_projector=True, projector_lr=1e-5)
    assert any(projector in name and "modules_to_save" in name for name in names)
    assert not any(vision_tower in name and projector not in name for name in names)
    groups = trainable.parameter_groups(recipe(projector_lr=1e-5))
    assert [group["lr"] for group in groups] == [5e-3, 1e-5]
    samples = trainings.samples(root)
    torch.autograd.backward(trainable(samples))
    assert all(p.grad is not None for p in groups[1]["params"])
    with torch.no_grad():
        for p in groups[1]["params"]:
            p.add_(0.05 * torch.randn_like(p))
    trainable.eval().save(tmp_path)
    expected = log_odds(trainable.recognizer, samples[0].scene)
    reloaded = make_recognizer(replace(settings, adapter=str(tmp_path)))
    np.testing.assert_allclose(log_odds(reloaded, samples[0].scene), expected, atol=1e-4)
    with pytest.raises(ValueError, match="--target nose: the model has no such layer"):
        trained(target="nose")


def test_emotic_cnn_is_trained_and_served(root, tmp_path):
    untrained = cnn_settings(tmp_path / "untrained")
    options = recipe(steps=12, every=6, batch=4, lr=1e-3)
    usage = trainings.train(untrained, options, root, tmp_path / "run")
    logged = trainings.logged(tmp_path / "run")
    assert np.mean(logged[-3:]) < logged[0]
    assert usage.model == str(tmp_path / "run" / "model")
    trained = replace(untrained, model=str(tmp_path / "run" / "model"))
    (sample,) = trainings.samples(root, "val")
    before, after = (log_odds(make_recognizer(s), sample.scene) for s in (untrained, trained))
    assert np.abs(before - after).max() > 1e-2
    trainable = trainables.CnnTrainable(trained).eval()
    np.testing.assert_allclose(logit(trainable.scores(sample.scene)), after, atol=1e-6)


def test_emotic_cnn_refuses_balance_and_a_single_person(root, tmp_path):
    settings = cnn_settings(tmp_path / "untrained")
    with pytest.raises(ValueError, match="already weights rare labels"):
        trainings.train(settings, recipe(balance=True), root, tmp_path / "run")
    one_person = SampleReader(draw_people(emotic.load(root, "train"), 1, 0)).draw(0, 1)
    with pytest.raises(ValueError, match="at least two people"):
        trainables.CnnTrainable(settings).train()(one_person)


@pytest.mark.parametrize(
    ("name", "save"), [("two-stream", save_bridgetower), ("single-stream", save_vilt)]
)
def test_head_on_an_encoder_is_trained_and_served(root, tmp_path, name, save):
    encoder = save(tmp_path / "encoder")
    settings = recognizer_settings(name=name, model=str(encoder), device="cpu", scene_size=64)
    options = recipe(steps=12, every=6, batch=4, lr=1e-2, balance=True)
    trainings.train(settings, options, root, tmp_path / "run")
    logged = trainings.logged(tmp_path / "run")
    assert logged[-1] < 0.9 * logged[0]
    assert not (encoder / "head.json").exists()
    recognizer = make_recognizer(replace(settings, model=str(tmp_path / "run" / "model")))
    assert recognizer.name.endswith("+head")
    (sample,) = trainings.samples(root, "val")
    trainable = trainables.EncoderHead(settings, None)
    trainable.restore(tmp_path / "run" / "model")
    trainable.eval()
    np.testing.assert_allclose(
        logit(trainable.scores(sample.scene)), log_odds(recognizer, sample.scene), atol=1e-4
    )
    assessment, *_ = recognizer.assess(sample.scene, sample.scene.people)
    assert assessment.vad is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scoring": "letters"}, "cannot train with recognizer.scoring = letters"),
        ({"adapter": "somewhere"}, "cannot train with recognizer.adapter = somewhere"),
        ({"subtract_prior": True}, "cannot train with recognizer.subtract_prior = True"),
        ({"quantization": "4bit"}, "cannot train with recognizer.quantization = 4bit"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(smolvlm, changes, message):
    with pytest.raises(ValueError, match=message):
        trainables.make_trainable(vlm_settings(smolvlm, **changes), recipe())


def test_recognizer_without_trainable_part_is_refused():
    with pytest.raises(ValueError, match="cannot train face: it has no trainable part"):
        trainables.make_trainable(recognizer_settings(name="face"), recipe())


def test_model_that_cannot_be_packed_is_refused_with_the_families_that_can(tmp_path, captions):
    recurrent = save_tiny("qwen3_5", tmp_path / "qwen3_5")
    families = r"cannot train \S+ on scores.*(?=.*\bsmolvlm\b).*\bqwen3_vl\b"  # in any order
    with pytest.raises(ValueError, match=families):
        trainables.make_trainable(vlm_settings(recurrent), recipe())
    neox = save_tiny_text("gpt_neox", tmp_path / "neox")
    with pytest.raises(ValueError, match=r"cannot train \S+ on scores.*llama, .*qwen3"):
        trainables.make_trainable(llm_settings(neox, captions), recipe())


def test_person_without_a_caption_is_named(text_model, root, captions, tmp_path):
    header, *rows = captions.read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join([header, *rows[-1:]]) + "\n")
    with pytest.raises(ValueError, match="has no caption of"):
        trainings.train(
            llm_settings(text_model, tmp_path / "few.csv"), recipe(), root, tmp_path / "run"
        )


@pytest.mark.parametrize("system", ["vlm", "llm", "two-stream"])
def test_positive_weight_counts_only_where_the_label_is_present(
    smolvlm, text_model, captions, root, tmp_path, system
):
    if system == "vlm":
        settings = vlm_settings(smolvlm)
    elif system == "llm":
        settings = llm_settings(text_model, captions)
    else:
        encoder = str(save_bridgetower(tmp_path / "encoder"))
        settings = recognizer_settings(name=system, model=encoder, device="cpu", scene_size=64)
    (sample,) = trainings.samples(root)
    loss = {}
    for name, weighted in (
        ("none", np.zeros(26, bool)),
        ("present", sample.labels[0]),
        ("absent", ~sample.labels.any(axis=0)),
    ):
        weights = np.where(weighted, 10.0, 1.0)
        trainable = trainables.make_trainable(settings, recipe(), weights).eval()
        with torch.no_grad():
            loss[name] = float(trainable([sample]))
        trainable.close()
    assert loss["present"] > loss["none"] + 0.1
    assert loss["absent"] == pytest.approx(loss["none"], abs=1e-5)

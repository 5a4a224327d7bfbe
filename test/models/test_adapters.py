"""Adapters of other people: each tensor is placed on the right base model, or the load fails."""

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file
from support.trainings import vlm_settings

from emotion_perception.core.errors import ModelError
from emotion_perception.recognizers.vlm import adapters, loading
from emotion_perception.testing.checkpoints.vlm import save_tiny

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def base(build_once):
    return build_once("qwen2_vl", lambda folder: save_tiny("qwen2_vl", folder))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """An adapter on all linear layers of the language model, with a record of its base."""
    settings = vlm_settings(base)
    _, model = loading.load_vlm(settings)
    record = adapters.describe(model, settings)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapters") / "good"
    wrapped.save_pretrained(folder)
    (folder / adapters.RECORD).write_text(json.dumps(record))
    return folder


@pytest.fixture
def changed(adapter, tmp_path):
    """Return a function that copies the adapter with other tensors."""

    def change(edit):
        folder = tmp_path / "changed"
        shutil.copytree(adapter, folder)
        file = folder / "adapter_model.safetensors"
        save_file(edit(load_file(file)), file)
        return folder

    return change


def load(base, adapter, **options):
    return loading.load_vlm(vlm_settings(base, adapter=str(adapter), **options))[1]


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def count_changes(base, adapter):
    plain, adapted = weights(load(base, "")), weights(load(base, adapter))
    return sum(not torch.equal(plain[name], adapted[name]) for name in plain)


def test_each_adapted_weight_changes(base, adapter):
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert count_changes(base, adapter) == len(tensors) // 2 > 0


def renamed(prefix, replacement):
    return lambda tensors: {k.replace(prefix, replacement, 1): v for k, v in tensors.items()}


def without(fragment):
    return lambda tensors: {k: v for k, v in tensors.items() if fragment not in k}


def with_more_layers(tensors):
    more = {k.replace("layers.0.", "layers.7."): v.clone() for k, v in tensors.items()}
    return {**tensors, **more}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (renamed("base_model.model.", "module.base_model.model."), "module.base_model"),
        (renamed("language_model.", "decoder."), "decoder"),
        (renamed("self_attn", "attention"), "attention.k_proj"),
        (without("layers.1."), "layers.1."),
        (without("lora_B"), "lora_B"),
        (without("layers.0.mlp.up_proj.lora_A"), "layers.0.mlp.up_proj.lora_A"),
        (with_more_layers, "layers.7."),
        (lambda tensors: {}, "in the adapter"),
        (
            lambda tensors: {k: torch.full_like(v, torch.nan) for k, v in tensors.items()},
            "or NaN",
        ),
        (
            lambda tensors: {k: v[:1].clone() for k, v in tensors.items()},
            "does not match the model",
        ),
    ],
    ids=[
        "module prefix", "renamed part", "renamed layers", "lost layer", "lost B", "lost tensor",
        "more layers than the base", "empty", "NaN", "other shapes",
    ],
)  # fmt: skip
def test_adapter_that_does_not_fit_exactly_is_refused(base, changed, edit, message):
    with pytest.raises(ModelError, match=r"cannot use recognizer\.adapter") as error:
        load(base, changed(edit))
    assert message in str(error.value)


def test_former_names_of_transformers_are_mapped(base, adapter, changed):
    folder = changed(renamed("model.language_model.", "model."))
    expected, mapped = weights(load(base, adapter)), weights(load(base, folder))
    assert all(torch.equal(expected[name], mapped[name]) for name in expected)


def test_adapter_of_a_model_with_other_layers_is_refused(base, adapter, tmp_path):
    other = Path(shutil.copytree(base, tmp_path / "base"))
    config = json.loads((other / "config.json").read_text())
    text_config = config.get("text_config", config)
    layers = text_config["num_hidden_layers"]
    text_config |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    (other / "config.json").write_text(json.dumps(config))
    message = f"it was trained on a model with layers {layers}, and .* has 1"
    with pytest.raises(ModelError, match=message):
        load(other, adapter)
    without_record = tmp_path / "adapter"
    shutil.copytree(adapter, without_record)
    (without_record / adapters.RECORD).unlink()
    with pytest.raises(ModelError, match=r"layers\.1\."):
        load(other, without_record)


def test_adapter_of_other_weights_is_refused(adapter, tmp_path):
    other = save_tiny("qwen2_vl", tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="it was trained on other weights than those of"):
        load(other, adapter)


def test_base_of_another_name_is_reported_and_accepted(base, adapter, tmp_path, caplog):
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    load(moved, adapter)
    assert "names another base model" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_is_recognized_in_each_dtype(base, adapter, dtype):
    load(base, adapter, dtype=dtype)


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        peft.PromptEncoderConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_prompt_learning_is_named_as_unsupported(base, tmp_path, config):
    config.save_pretrained(tmp_path)
    save_file({"prompt_embeddings": torch.zeros(3, 8)}, tmp_path / "adapter_model.safetensors")
    message = f"adapters of type {config.peft_type.value} are not supported"
    with pytest.raises(ModelError, match=message):
        load(base, tmp_path)


@pytest.mark.parametrize("setting", [{"answer_format": "turn"}, {"scene_size": 96}])
def test_adapter_that_is_asked_otherwise_is_refused(base, adapter, setting):
    (name,) = setting
    with pytest.raises(ModelError, match=rf"with recognizer\.{name} = .*: it was trained with"):
        load(base, adapter, **setting)


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_damaged_record_is_an_error(base, adapter, tmp_path, content):
    folder = Path(shutil.copytree(adapter, tmp_path / "damaged"))
    (folder / adapters.RECORD).write_text(content)
    with pytest.raises(ModelError, match=r"cannot use recognizer\.adapter"):
        load(base, folder)

"""The prior of a model, cached on disk: what its key covers, and what is rebuilt."""

import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.vlm import families, prior
from emotion_perception.recognizers.vlm.loading import load_vlm
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.testing.checkpoints.vlm import save_tiny

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny("smolvlm", tmp_path_factory.mktemp("prior") / "smolvlm")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emotion_perception" / "calibration"


def settings(model, **changes):
    small = {"device": "cpu", "scene_size": 128, "crop_size": 64, "subtract_prior": True}
    return recognizer_settings(model=str(model), **{**small, **changes})


def answers_of(settings):
    return np.concatenate(make_recognizer(settings)._prior)


def write_adapter(model, folder, seed):
    _, loaded = load_vlm(settings(model))
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        target_modules=r".*text_model.*\.(q|v)_proj", init_lora_weights=False, r=4
    )
    peft.get_peft_model(loaded, config).save_pretrained(folder)
    return folder


def exchange(file, other):
    """Replace a file by another of its size, and keep its time."""
    status = file.stat()
    shutil.copyfile(other, file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


def test_an_adapter_has_a_prior_of_its_own(model, cache, tmp_path):
    base = answers_of(settings(model))
    adapted = settings(model, adapter=str(write_adapter(model, tmp_path / "one", 1)))
    first = answers_of(adapted)
    assert np.abs(first - base).max() > 0.01
    assert (answers_of(settings(model)) == base).all()
    assert len(list(cache.iterdir())) == 2
    other = write_adapter(model, tmp_path / "other", 2)
    exchange(tmp_path / "one" / "adapter_model.safetensors", other / "adapter_model.safetensors")
    assert np.abs(answers_of(adapted) - first).max() > 0.01


def test_scale_of_an_adapter_is_in_the_key(model, cache, tmp_path):
    adapted = settings(model, adapter=str(write_adapter(model, tmp_path / "one", 1)))
    first = answers_of(adapted)
    file = tmp_path / "one" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 32}))
    assert np.abs(answers_of(adapted) - first).max() > 0.01


def test_other_weights_of_the_same_name_size_and_time_have_another_prior(model, cache, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    first = answers_of(settings(copy))
    assert make_recognizer(settings(copy)).calibration == (
        make_recognizer(settings(model)).calibration
    )  # a copy is the same model
    weights = {name: -tensor for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(weights, tmp_path / "other.safetensors", {"format": "pt"})
    exchange(copy / "model.safetensors", tmp_path / "other.safetensors")
    assert np.abs(answers_of(settings(copy)) - first).max() > 0.01


@pytest.mark.parametrize("name", ["processor_config.json", "config.json"])
def test_configurations_are_in_the_key(model, cache, tmp_path, name):
    copy = shutil.copytree(model, tmp_path / "copy")
    first = make_recognizer(settings(copy)).calibration
    content = json.loads((copy / name).read_text())
    if name == "config.json":
        content["text_config"]["rms_norm_eps"] = 0.1
    else:
        content["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    (copy / name).write_text(json.dumps(content))
    assert make_recognizer(settings(copy)).calibration != first


@pytest.mark.parametrize(
    "change",
    [
        *({"scene_size": 64}, {"crop_size": 32}, {"person_view": "mark"}),
        *({"scoring": "letters"}, {"answer_format": "continuation"}, {"definitions": "question"}),
        {"dtype": "bfloat16"},
    ],
)
def test_settings_are_in_the_key(model, cache, change):
    first = settings(model)
    assert (
        make_recognizer(replace(first, **change)).calibration != make_recognizer(first).calibration
    )


@pytest.mark.parametrize(
    "change", [{"scoring": "labels"}, {"scoring": "letters"}, {"scoring": "yes_no"}]
)
@pytest.mark.parametrize("packed", [True, False])
def test_prior_is_measured_once(model, cache, monkeypatch, change, packed):
    if not packed and change["scoring"] != "labels":
        monkeypatch.delitem(families.FAMILIES, "smolvlm")
    first = answers_of(settings(model, **change))
    monkeypatch.setattr(VlmModel, "answer_logits", None)
    assert (answers_of(settings(model, **change)) == first).all()


def unfit(logits):
    return {
        "empty": b"",
        "cut": prior_bytes(logits)[:-4],
        "longer": prior_bytes(logits) + b"\0",
        "zero": prior_bytes(np.zeros_like(logits)),
        "constant": prior_bytes(np.full_like(logits, 2.5)),
        "nan": prior_bytes(np.where(logits == logits.max(), np.nan, logits)),
        "infinite": prior_bytes(np.where(logits == logits.max(), np.inf, logits)),
        "transposed": prior_bytes(np.ascontiguousarray(logits.T)),
        "flat": prior_bytes(logits.ravel()),
        "one row less": prior_bytes(logits[1:]),
        "integers": prior_bytes(logits.astype(np.int32)),
        "objects": b"\x93NUMPY\x01\x00" + b"\x46\x00" + b"{'descr': '|O', 'shape': (1,)}".ljust(70),
        "header that is no Python": prior_bytes(logits).replace(b"'descr'", b"('descr"),
        "garbage of the same size": bytes(len(prior_bytes(logits))),
    }


def prior_bytes(logits):
    buffer = io.BytesIO()
    np.save(buffer, logits)
    return buffer.getvalue()


KINDS = sorted(unfit(np.arange(6, dtype=np.float32).reshape(2, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_unfit_cache_file_is_rebuilt(model, cache, kind, caplog):
    expected = answers_of(settings(model))
    (file,) = cache.iterdir()
    right = file.read_bytes()
    file.write_bytes(unfit(np.load(file))[kind])
    assert (answers_of(settings(model)) == expected).all()
    assert "measured again" in caplog.text
    assert file.read_bytes() == right
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_folder_in_the_place_of_the_cache_file_costs_a_warning_only(model, cache, caplog):
    expected = answers_of(settings(model))
    (file,) = cache.iterdir()
    file.unlink()
    (file / "inside").mkdir(parents=True)
    assert (answers_of(settings(model)) == expected).all()
    assert "cannot keep the prior" in caplog.text


def test_interrupted_write_leaves_the_former_file(cache, monkeypatch, caplog):
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    prior.cached_prior("key", logits.shape, lambda: logits)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    prior.cached_prior("other", logits.shape, lambda: logits)
    assert [path.name for path in cache.iterdir()] == ["key.npy"]
    assert "No space left" in caplog.text


def test_prior_that_is_not_finite_is_an_error_and_is_not_kept(model, cache, monkeypatch):
    def overflow(self, prompt_images):
        sites, tokens = len(self.answers.sites), len(self.answers.ids)
        return np.full((1, sites, tokens), np.nan, np.float32)

    monkeypatch.setattr(VlmModel, "answer_logits", overflow)
    with pytest.raises(ModelError, match="not finite in torch.float32; set recognizer.dtype"):
        make_recognizer(settings(model))
    assert not cache.exists()

"""Models of other people: templates, layers and folders that do not fit are refused by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.trainings import vlm_settings

from emotion_perception.core.errors import ModelError
from emotion_perception.core.settings import Settings
from emotion_perception.installation.doctor import examine
from emotion_perception.recognizers.vlm import chat, families
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.testing.checkpoints.vlm import save_tiny
from emotion_perception.testing.checkpoints.vlm_base import chatml_template

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def qwen(build_once):
    return build_once("qwen3_vl", lambda folder: save_tiny("qwen3_vl", folder))


@pytest.fixture
def with_template(qwen, tmp_path):
    """Return a function that copies a model with another chat template."""

    def copy(template):
        folder = Path(shutil.copytree(qwen, tmp_path / "model"))
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return copy


IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
CHAT = chatml_template(IMAGE)
REJECTING = {
    "needs text": "{% for m in messages %}{{ '<|im_start|>' + m['content'] }}{% endfor %}",
    "needs a system prompt": "{{ raise_exception('a system message is needed') }}",
    "undefined name": "{{ tools.name.first }}" + CHAT,
    "unknown filter": "{{ messages | nonsense }}",
    "syntax error": "{% for m in messages %}",
    "arithmetic": "{{ messages[0] + 1 }}",
    "division": "{{ 1 // 0 }}",
    "missing key": "{{ messages[3]['content'] }}" + CHAT,
}


@pytest.mark.parametrize("kind", REJECTING)
def test_template_that_rejects_the_questions_is_an_error_with_its_complaint(with_template, kind):
    folder = with_template(REJECTING[kind])
    with pytest.raises(ModelError, match="cannot use the chat template of"):
        VlmModel(vlm_settings(folder))
    settings = Settings.from_dict({"recognizer.model": str(folder), "recognizer.device": "cpu"})
    (check,) = [c for c in examine(settings) if c.name == "chat template"]
    assert check.state == "missing"
    assert "cannot use the chat template of" in check.result
    assert check.remedy == ("# choose another model",)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "tokenizer.json", "tokenizer_config.json"),
        *("processor_config.json", "preprocessor_config.json", "generation_config.json"),
    ],
)
@pytest.mark.parametrize("content", ["[]", "5", "null", "{", "[" * 100_000, '{"model_type": 5}'])
def test_json_of_another_type_is_one_error_or_has_no_effect(qwen, tmp_path, name, content):
    folder = Path(shutil.copytree(qwen, tmp_path / "model"))
    (folder / name).write_text(content)
    try:
        VlmModel(vlm_settings(folder))
    except ModelError as error:
        reason = str(error)
    else:
        reason = "cannot be seen: the file is optional"
        assert name not in ("config.json", "tokenizer.json")
    assert reason.startswith("cannot ")
    assert "\n" not in reason


def test_doctor_accepts_a_template_that_works(qwen):
    settings = Settings.from_dict({"recognizer.model": str(qwen)})
    (check,) = [c for c in examine(settings) if c.name == "chat template"]
    assert check.state == "ok"


OPTIONAL = "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% else %}"
OPTIONAL += "<think>\n\n</think>\n\n{% endif %}"


def test_thinking_is_turned_off_where_the_template_can(with_template):
    loaded = VlmModel(vlm_settings(with_template(CHAT + OPTIONAL)))
    assert all("<think>\n\n</think>" in text for text in loaded.texts)


@pytest.mark.parametrize("marker", ["<think>\n", "<thinking>", "[THINK]", "◁think▷"])
def test_template_that_always_thinks_is_refused_for_scoring(with_template, marker):
    folder = with_template(CHAT + "{{ '" + marker.replace("\n", "\\n") + "' }}")
    with pytest.raises(ModelError, match="its chat template always thinks first"):
        VlmModel(vlm_settings(folder))
    generating = VlmModel(vlm_settings(folder, scoring="generate"))
    assert chat.open_thoughts(generating.chat("Which labels?")) == marker.strip()


@pytest.mark.parametrize(
    ("prompt", "marker"),
    [
        ("", ""),
        ("<think>", "<think>"),
        ("<think></think>", ""),
        ("<think>a</think><think>", "<think>"),
    ],
)
def test_open_thoughts_are_those_without_an_end(prompt, marker):
    assert chat.open_thoughts(prompt) == marker


def text_config(name, **values):
    config = transformers.AutoConfig.for_model(name)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 99,
             "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
             "max_position_embeddings": 4096}  # fmt: skip
    for key, value in {**sizes, **values}.items():
        setattr(config, key, value)
    return config


def language_models():
    """Language models of other kinds of layers, and whether a packed pass of them is exact."""
    full, sliding = ["full_attention"] * 2, ["sliding_attention", "full_attention"]
    yield "llama", text_config("llama"), True
    yield "qwen2", text_config("qwen2", layer_types=full), True
    yield (
        "qwen2 with windows",
        text_config("qwen2", layer_types=sliding, sliding_window=8, use_sliding_window=True),
        True,
    )
    yield "mistral", text_config("mistral", sliding_window=8), True
    yield "mistral without windows", text_config("mistral", sliding_window=None), True
    yield "lfm2", text_config("lfm2", layer_types=["conv", "full_attention"]), False
    yield (
        "qwen3_5_text",
        text_config("qwen3_5_text", layer_types=["linear_attention", "full_attention"]),
        False,
    )
    both_ways = {"layer_types": sliding, "use_bidirectional_attention": True}
    yield "gemma3_text in both directions", text_config("gemma3_text", **both_ways), False


@pytest.mark.parametrize(
    ("config", "packs"),
    [pytest.param(config, packs, id=name) for name, config, packs in language_models()],
)
def test_only_attention_to_earlier_tokens_is_packed(config, packs):
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 16, "image_size": [28, 28], "patch_size": [14, 14]}  # fmt: skip
    internvl = transformers.InternVLConfig(text_config=config.to_dict(), vision_config=vision)
    network = transformers.AutoModelForImageTextToText.from_config(internvl)
    reason = families.why_not_packed(network, vlm_settings("any"))
    assert (not reason) is packs, reason
    if not packs:
        assert "its language model" in reason


HOSTILE = """
import pathlib
pathlib.Path(__file__).with_name("MARKER").write_text("ran")
class Hostile: pass
"""
GUARD = """
import sys
def _audit(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("SOCKET", event, arguments, flush=True)
sys.addaudithook(_audit)
"""


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_of_a_model_never_runs_even_if_the_terminal_says_yes(qwen, tmp_path, part):
    folder = Path(shutil.copytree(qwen, tmp_path / "model"))
    (folder / "hostile.py").write_text(HOSTILE)
    content = json.loads((folder / part).read_text()) if (folder / part).is_file() else {}
    classes = ("AutoConfig", "AutoModelForImageTextToText", "AutoTokenizer", "AutoProcessor")
    content["auto_map"] = dict.fromkeys(classes, "hostile.Hostile")
    content["auto_map"]["AutoTokenizer"] = ["hostile.Hostile", None]
    if part == "config.json":
        content["model_type"] = "hostile"
    (folder / part).write_text(json.dumps(content))
    code = f"""{GUARD}
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.recognizers.vlm.model import VlmModel
try:
    VlmModel(recognizer_settings(model={str(folder)!r}, device="cpu"))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input="y\n" * 9, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("MARKER"))
    assert "SOCKET" not in done.stdout
    assert "[y/N]" not in done.stdout

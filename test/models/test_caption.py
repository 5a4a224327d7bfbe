"""Captioners on real checkpoints with random weights."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.text import caption
from emotion_perception.recognizers.text.caption import EMPTY_CAPTION, Captioner
from emotion_perception.recognizers.vlm import loading, prompts
from emotion_perception.testing.checkpoints.clip import save_blip, save_clip, save_florence2
from emotion_perception.testing.checkpoints.vlm import save_tiny

pytestmark = pytest.mark.models

CAPTION_FAMILIES = {"blip": save_blip, "florence2": save_florence2}
CHAT_FAMILIES = ("qwen3_vl", "smolvlm", "llava_onevision")
ALICE = Track("p00001", Box(10, 10, 90, 118), 0.9)
BOB = Track("p00002", Box(100, 20, 150, 100), 0.8)
TINY = Track("p00003", Box(50, 60, 51, 63), 0.5)
PEOPLE = (ALICE, BOB, TINY)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    plain = {family: save(root / family) for family, save in CAPTION_FAMILIES.items()}
    return plain | {family: save_tiny(family, root / family) for family in CHAT_FAMILIES}


@pytest.fixture(scope="module")
def captioners(folders):
    return {family: Captioner(settings(folder)) for family, folder in folders.items()}


@pytest.fixture(params=(*CAPTION_FAMILIES, *CHAT_FAMILIES))
def captioner(request, captioners):
    return captioners[request.param]


@pytest.fixture
def copied(folders, tmp_path):
    """A copy of the BLIP that a test may change."""
    return shutil.copytree(folders["blip"], tmp_path / "model")


def settings(model, **changes):
    defaults = {"name": "caption", "model": str(model), "device": "cpu", "scene_size": 128}
    return recognizer_settings(**{**defaults, **changes})


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (128, 160, 3), dtype=np.uint8)


def scene(image):
    return Scene(Frame(image, 7, "camera"), PEOPLE)


def parts(caption):
    """Return the captions of the scene and of the person."""
    around, person = caption.removeprefix("The scene: ").split(" This person: ")
    return around, person


def test_each_person_gets_a_caption_in_order(captioner):
    captions = captioner.describe(scene(noise()), PEOPLE)
    assert len(captions) == 3
    assert all(captions)
    assert captioner.describe(scene(noise()), PEOPLE) == captions
    assert captioner.describe(scene(noise()), PEOPLE[::-1]) == captions[::-1]
    assert captioner.describe(scene(noise()), ()) == []


def test_caption_depends_on_the_person_and_on_the_frame(captioner):
    alice, bob, _ = captioner.describe(scene(noise()), PEOPLE)
    assert alice != bob
    elsewhere = noise(1)
    elsewhere[10:118, 10:90] = noise()[10:118, 10:90]
    assert captioner.describe(scene(elsewhere), (ALICE,)) != [alice]


@pytest.mark.parametrize("family", CAPTION_FAMILIES)
def test_captioning_models_caption_the_frame_and_the_crop(captioners, family):
    alice, bob, _ = map(parts, captioners[family].describe(scene(noise()), PEOPLE))
    assert alice[0] == bob[0]
    elsewhere = noise(1)
    elsewhere[10:118, 10:90] = noise()[10:118, 10:90]
    (there,) = map(parts, captioners[family].describe(scene(elsewhere), (ALICE,)))
    assert there[0] != alice[0]
    assert there[1] == alice[1]


@pytest.mark.parametrize("family", CAPTION_FAMILIES)
def test_captions_equal_greedy_captions_of_transformers(folders, captioners, family):
    processor = transformers.AutoProcessor.from_pretrained(folders[family])
    auto = {
        "blip": transformers.BlipForConditionalGeneration,
        "florence2": transformers.Florence2ForConditionalGeneration,
    }[family]
    model = auto.from_pretrained(folders[family]).eval()
    task = {"text": "<MORE_DETAILED_CAPTION>"} if family == "florence2" else {}
    captions = []
    for image in (noise(), noise()[20:100, 100:150]):
        inputs = processor(images=Image.fromarray(image), return_tensors="pt", **task)
        written = model.generate(**inputs, max_new_tokens=60, do_sample=False)
        text = processor.batch_decode(written, skip_special_tokens=True)[0]
        captions.append(" ".join(text.split()).rstrip(". "))
    expected = f"The scene: {captions[0]}. This person: {captions[1]}."
    assert captioners[family].describe(scene(noise()), (BOB,)) == [expected]


def test_chat_model_sees_the_red_box_and_is_asked_about_it(folders, captioners):
    folder = folders["qwen3_vl"]
    processor, model = loading.load_vlm(settings(folder))
    marked = prompts.mark_person(noise(), ALICE.box, 128)
    content = [
        {"type": "image", "image": Image.fromarray(marked)},
        {"type": "text", "text": f"\n{caption.REQUEST}"},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    written = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    new = written[0, inputs["input_ids"].shape[1] :]
    expected = " ".join(processor.tokenizer.decode(new, skip_special_tokens=True).split())
    assert "red box" in caption.REQUEST
    assert captioners["qwen3_vl"].describe(scene(noise()), (ALICE,)) == [expected]


def test_caption_length_is_limited(captioner, monkeypatch):
    monkeypatch.setattr(caption, "MAX_CAPTION_TOKENS", 1)
    (short,) = captioner.describe(scene(noise()), (ALICE,))
    monkeypatch.setattr(caption, "MAX_CAPTION_TOKENS", 30)
    (long,) = captioner.describe(scene(noise()), (ALICE,))
    assert len(short) < len(long)


def test_empty_caption_is_replaced(captioners, monkeypatch):
    blip, qwen = captioners["blip"], captioners["qwen3_vl"]
    monkeypatch.setattr(blip, "_caption", lambda images: ["", " ."])
    assert blip.describe(scene(noise()), (ALICE,)) == [
        f"The scene: {EMPTY_CAPTION}. This person: {EMPTY_CAPTION}."
    ]
    monkeypatch.setattr(loading, "generate_text", lambda *_: "")
    assert qwen.describe(scene(noise()), (ALICE,)) == [EMPTY_CAPTION]


def test_thinking_is_disabled(folders, tmp_path):
    folder = shutil.copytree(folders["qwen3_vl"], tmp_path / "model")
    template = folder / "chat_template.jinja"
    wish = "{% if enable_thinking is defined and not enable_thinking %}(be brief){% endif %}"
    template.write_text(template.read_text() + wish)
    assert Captioner(settings(folder))._chat.endswith("(be brief)")


def test_adapter_is_not_loaded_into_the_captioner(folders):
    Captioner(settings(folders["qwen3_vl"], adapter="/no/such/folder"))


def test_name_and_close(folders):
    captioner = Captioner(settings(folders["florence2"]))
    assert captioner.name == "caption:florence2"
    captioner.close()
    assert not hasattr(captioner, "_model")


def test_model_that_writes_no_captions_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="clip: it is a model of type clip, which does not answer"):
        Captioner(settings(save_clip(tmp_path / "clip")))


def test_missing_chat_template_is_an_error(folders, tmp_path):
    folder = shutil.copytree(folders["qwen3_vl"], tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        Captioner(settings(folder))


def test_chat_template_without_image_is_an_error(folders, tmp_path):
    folder = shutil.copytree(folders["qwen3_vl"], tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ 'Hello.' }}")
    with pytest.raises(ModelError, match="places for 0 images"):
        Captioner(settings(folder))


def test_missing_folder_or_config_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        Captioner(settings(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=r"no config.json"):
        Captioner(settings(tmp_path))


def test_missing_or_mismatched_weights_are_an_error(copied):
    config = json.loads((copied / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] += 1
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lack .* tensors of BlipForConditionalGeneration"):
        Captioner(settings(copied))
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no weights as safetensors"):
        Captioner(settings(copied))


def test_missing_image_processor_is_an_error(copied):
    for file in copied.glob("*processor_config.json"):
        file.unlink()
    with pytest.raises(ModelError, match="cannot use the processor.*such as Salesforce/blip"):
        Captioner(settings(copied))

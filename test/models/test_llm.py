"""The recognizer `llm` on real checkpoints with random weights."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.text import llm
from emotion_perception.testing.checkpoints.text import TEXT_FAMILIES, save_tiny_text

pytestmark = pytest.mark.models

ANN, BOB = (Track(key, Box(10, 10, 90, 90), 1.0) for key in ("a_0.jpg", "a_1.jpg"))
SCENE = Scene(Frame(np.zeros((100, 100, 3), np.uint8), 7, "camera"), (ANN, BOB))
CAPTIONS = ["This person is a woman who is running in a park.", "A man. He looks at his phone."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    return {f: save_tiny_text(f, root / f) for f in TEXT_FAMILIES}


@pytest.fixture
def captions(tmp_path):
    file = tmp_path / "captions.csv"
    file.write_text("key,caption\n" + "\n".join(f"a_{i}.jpg,{c}" for i, c in enumerate(CAPTIONS)))
    return file


def settings(folder, captions, **changes):
    defaults = {
        "name": "llm",
        "device": "cpu",
        "captions": str(captions),
        "text_model": str(folder),
    }
    return recognizer_settings(**{**defaults, **changes})


@pytest.mark.parametrize("family", llm.FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"answer_format": "continuation"}, {"scoring": "letters"}])
def test_packed_logits_equal_those_of_single_prompts(folders, captions, family, changes):
    recognizer = make_recognizer(settings(folders[family], captions, **changes))
    packed, stock = recognizer.packed_logits(CAPTIONS), recognizer.batched_logits(CAPTIONS)
    np.testing.assert_allclose(packed, stock, atol=1e-4)
    assert np.abs(packed[0] - packed[1]).max() > 1e-2, "the captions make no difference"


def test_other_families_are_asked_in_batches(folders, captions):
    recognizer = make_recognizer(settings(folders["gpt_neox"], captions))
    assert llm.why_not_packed(recognizer.model)
    ann, bob = recognizer.assess(SCENE, (ANN, BOB))
    assert (ann.scores != bob.scores).any()
    with pytest.raises(ModelError, match=r"recognizer.scoring = labels needs a model"):
        make_recognizer(settings(folders["gpt_neox"], captions, scoring="labels"))


def test_sliding_windows_are_packed_exactly(captions, tmp_path):
    folder = save_tiny_text("mistral", tmp_path / "windowed", sliding_window=16)
    recognizer = make_recognizer(settings(folder, captions))
    packed, stock = recognizer.packed_logits(CAPTIONS), recognizer.batched_logits(CAPTIONS)
    np.testing.assert_allclose(packed, stock, atol=1e-4)


def test_rationale_is_the_caption_of_the_person(folders, captions):
    recognizer = make_recognizer(settings(folders["qwen3"], captions))
    assert [a.rationale for a in recognizer.assess(SCENE, (ANN, BOB))] == CAPTIONS


def test_generated_labels_are_those_of_the_text(folders, captions, monkeypatch):
    recognizer = make_recognizer(settings(folders["llama"], captions, scoring="generate"))
    (ann,) = recognizer.assess(SCENE, (ANN,))
    assert ann.rationale == recognizer._write(CAPTIONS[0])
    monkeypatch.setattr(recognizer, "_write", lambda caption: "Anger, and Doubt. Not fearful.")
    (ann,) = recognizer.assess(SCENE, (ANN,))
    named = [label for label, on in zip(recognizer.labels, ann.scores, strict=True) if on]
    assert named == ["anger", "doubt/confusion"]
    monkeypatch.setattr(recognizer, "_write", lambda caption: "I cannot say.")
    assert recognizer.assess(SCENE, (ANN,))[0].reason == "the model named no label"


def test_special_tokens_in_a_caption_are_removed(folders, captions):
    recognizer = make_recognizer(settings(folders["llama"], captions))
    evil = CAPTIONS[0] + "<|im_end|>"
    np.testing.assert_array_equal(
        recognizer.packed_logits([evil]), recognizer.packed_logits([CAPTIONS[0]])
    )


def test_adapter_changes_the_logits_and_a_wrong_one_is_an_error(folders, captions, tmp_path):
    peft = pytest.importorskip("peft")
    import torch

    plain = make_recognizer(settings(folders["qwen2"], captions))
    wrapped = peft.get_peft_model(plain.model, peft.LoraConfig(target_modules="all-linear", r=2))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    wrapped.eval().save_pretrained(tmp_path / "adapter")
    plain.model = wrapped.base_model.model
    wanted = plain.batched_logits(CAPTIONS)
    chosen = settings(folders["qwen2"], captions, adapter=str(tmp_path / "adapter"))
    np.testing.assert_allclose(make_recognizer(chosen).packed_logits(CAPTIONS), wanted, atol=1e-3)
    with pytest.raises(ModelError, match="the folder has no adapter_config.json"):
        make_recognizer(settings(folders["qwen2"], captions, adapter=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a,b\n", "needs the columns key and caption"),
        ("key,caption\na,x\nb,y\na,z\n", "more than one caption of 'a'"),
        ("key,caption\na\n", "line 2 is truncated or damaged"),
        (f"key,caption\na,{'x' * 131_073}\n", "line 2 is damaged: field larger"),
        ("key,caption\n" + "".join(f"{i},x\n" for i in range(10**5)) + "99999,y\n", "'99999'"),
    ],
    ids=range(5),
)
def test_invalid_caption_file_is_an_error(folders, captions, content, complaint):
    captions.write_text(content)
    with pytest.raises(ModelError, match=complaint):
        make_recognizer(settings(folders["llama"], captions))


def test_missing_captions_are_errors(folders, captions, tmp_path):
    with pytest.raises(ModelError, match="set recognizer.captions to a CSV file"):
        make_recognizer(settings(folders["llama"], ""))
    with pytest.raises(ModelError, match=r"cannot read recognizer.captions: .*nowhere"):
        make_recognizer(settings(folders["llama"], tmp_path / "nowhere"))
    recognizer = make_recognizer(settings(folders["llama"], captions))
    with pytest.raises(RecognizerError, match="has no caption of 'b.jpg'"):
        recognizer.assess(SCENE, (Track("b.jpg", Box(0, 0, 50, 50), 1.0),))

"""The vision-language recognizer on real checkpoints with random weights."""

import json
import socket
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.interfaces import Explainer
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.vlm import (
    attention,
    families,
    forking,
    loading,
    prompts,
    scoring,
)
from emotion_perception.recognizers.vlm import model as vlm_model
from emotion_perception.recognizers.vlm import recognizer as vlm_recognizer
from emotion_perception.testing.checkpoints.vlm import save_tiny

pytestmark = pytest.mark.models

FAMILIES = ("smolvlm", "qwen2_5_vl", "qwen3_vl", "gemma3", "qwen3_5")
ALICE = Track("p00001", Box(10, 10, 90, 118), 0.9)
BOB = Track("p00002", Box(100, 20, 150, 100), 0.8)
TINY = Track("p00003", Box(50, 60, 53, 63), 0.5)
CUT = Track("p00004", Box(-40, 30, 30, 200), 0.5)
OUTSIDE = Track("p00005", Box(500, 500, 600, 600), 0.5)
PEOPLE = (ALICE, BOB, TINY, CUT)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: save_tiny(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES)
def recognizer(request, folders):
    return make_recognizer(settings(folders[request.param]))


def settings(model, **changes):
    small = {"device": "cpu", "scene_size": 128, "crop_size": 64}
    return recognizer_settings(model=str(model), **{**small, **changes})


def scene(seed=0, height=128, width=160):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Scene(Frame(image, 1_000 + seed, "camera"), PEOPLE)


def scores(recognizer, scene, *people):
    return np.stack([a.scores for a in recognizer.assess(scene, people)])


def test_recognizer_declares_name_labels_and_thresholds(folders):
    recognizer = make_recognizer(settings(folders["smolvlm"]))
    assert recognizer.name == "vlm:smolvlm"
    assert recognizer.labels == EMOTIC_LABELS
    assert recognizer.calibration == ""
    assert (recognizer.thresholds == 0.5).all()
    assert recognizer.thresholds.shape == (26,)


def test_scores_do_not_depend_on_the_batch_size(recognizer, monkeypatch):
    once = scores(recognizer, scene(), ALICE)
    for rows in (1, 5, 100):
        monkeypatch.setattr(forking, "QUESTIONS_PER_BATCH", rows)
        np.testing.assert_allclose(scores(recognizer, scene(), ALICE), once, atol=1e-5)


@pytest.mark.parametrize("view", ["mark", "crop", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_those_of_stock_transformers(folders, family, view):
    crop_size = 128 if family == "smolvlm" else 64  # its processor has one size
    recognizer = make_recognizer(settings(folders[family], person_view=view, crop_size=crop_size))
    (assessment,) = recognizer.assess(scene(), (BOB,))
    prompt_images = prompts.make_prompt_images(
        scene().frame.image, [BOB.box], recognizer.vlm.settings
    )
    processor = transformers.AutoProcessor.from_pretrained(folders[family])
    if family == "gemma3":
        sizes = {}
    elif family == "smolvlm":
        sizes = {"size": {"longest_edge": 128}, "do_image_splitting": False}
    else:
        sizes = {"size": {"shortest_edge": 28 * 28, "longest_edge": 128 * 128}}
    model = transformers.AutoModelForImageTextToText.from_pretrained(folders[family])
    for index, text in ((0, "yes"), (9, "yes"), (27, "5")):
        question = (
            prompts.label_questions(recognizer_settings())
            + prompts.vad_questions(recognizer_settings())
        )[index]
        chat = prompts.messages(recognizer.vlm.settings, question.text)
        images = iter(prompt_images.images)
        for part in chat[0]["content"]:
            if part["type"] == "image":
                part["image"] = Image.fromarray(next(images))
        inputs = processor.apply_chat_template(
            chat,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"images_kwargs": sizes},
        )
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -1].double()
        vocabulary = processor.tokenizer.get_vocab()

        def logprob(word, logits=logits, vocabulary=vocabulary):
            spellings = {s + w for s in ("", "Ġ") for w in (word, word.capitalize(), word.upper())}
            ids = [vocabulary[s] for s in spellings if s in vocabulary]
            return torch.logsumexp(logits[ids], 0)

        if text == "yes":
            expected = torch.sigmoid(logprob("yes") - logprob("no")).item()
            assert assessment.scores[index] == pytest.approx(expected, abs=1e-5)
        else:
            weights = torch.softmax(torch.stack([logprob(d) for d in "123456789"]), 0)
            expected = ((weights * torch.arange(1, 10)).sum().item() - 5) / 4
            assert assessment.vad[index - 26] == pytest.approx(expected, abs=1e-5)


def test_no_socket_is_opened(folders, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for family in FAMILIES:
        make_recognizer(settings(folders[family])).assess(scene(), (ALICE,))
    with pytest.raises(ModelError):
        make_recognizer(settings("no-owner/no-such-model"))


def test_missing_model_is_an_error_with_the_command_to_fetch_it(tmp_path):
    with pytest.raises(
        ModelError, match="not on this computer; fetch it with `emotion-perception fetch a/b`"
    ):
        make_recognizer(settings("a/b"))
    with pytest.raises(ModelError, match="there is no folder"):
        make_recognizer(settings(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"no config\.json"):
        make_recognizer(settings(tmp_path))


def copy_of(folder, target, *, without=()):
    target.mkdir()
    for file in folder.iterdir():
        if file.name not in without:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_models_of_other_kinds_are_an_error(tmp_path):
    text = transformers.LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=1)
    text.save_pretrained(tmp_path / "llama")
    transformers.CLIPConfig().save_pretrained(tmp_path / "clip")
    for kind in ("llama", "clip"):
        with pytest.raises(ModelError, match=f"of type {kind}, which does not answer"):
            make_recognizer(settings(tmp_path / kind))


def test_model_that_needs_its_own_code_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "moondream1", "auto_map": {"AutoConfig": "x.Config"}})
    )
    with pytest.raises(ModelError, match="without running code from the model"):
        make_recognizer(settings(tmp_path))


def test_checkpoint_without_safetensors_is_an_error(folders, tmp_path):
    bare = copy_of(folders["smolvlm"], tmp_path / "bare", without=("model.safetensors",))
    (bare / "pytest_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="no weights as safetensors"):
        make_recognizer(settings(bare))


def test_index_of_weights_that_leads_out_of_the_folder_is_an_error(folders, tmp_path):
    model = copy_of(folders["smolvlm"], tmp_path / "model")
    for index, reason in (
        ({"weight_map": {"a": "../secret.safetensors"}}, "not a file of this folder"),
        ({"weight_map": {"a": "/secret.safetensors"}}, "not a file of this folder"),
        ({"weight_map": ["a"]}, "is damaged"),
    ):
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=reason):
            make_recognizer(settings(model))


def test_damaged_or_mismatched_weights_are_an_error(folders, tmp_path):
    damaged = copy_of(folders["smolvlm"], tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load .*damaged"):
        make_recognizer(settings(damaged))
    foreign = copy_of(folders["smolvlm"], tmp_path / "foreign")
    (foreign / "model.safetensors").write_bytes(
        (folders["qwen3_vl"] / "model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match=r"lack \d+ tensors of SmolVLM"):
        make_recognizer(settings(foreign))


def test_missing_processor_or_chat_template_is_an_error(folders, tmp_path):
    files = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
    no_processor = copy_of(folders["smolvlm"], tmp_path / "no_processor", without=files)
    with pytest.raises(ModelError, match="cannot use the processor of"):
        make_recognizer(settings(no_processor))
    no_template = copy_of(
        folders["smolvlm"], tmp_path / "no_template", without=("chat_template.jinja",)
    )
    with pytest.raises(ModelError, match="no chat template"):
        make_recognizer(settings(no_template))
    (no_template / "chat_template.jinja").write_text("{{ messages[0]['content'][-1]['text'] }}")
    with pytest.raises(ModelError, match="shows 0 of 2 images"):
        make_recognizer(settings(no_template))


def test_tokenizer_without_a_token_for_an_answer_is_an_error(folders):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["smolvlm"])
    with pytest.raises(ModelError, match="no single token for 'xylophone'"):
        scoring.AnswerTokens(tokenizer, [prompts.Question("What?", ("xylophone",))], ["What?"])


def test_all_spellings_of_an_answer_are_summed(folders):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["smolvlm"])
    answers = scoring.AnswerTokens(tokenizer, [prompts.Question("So?", ("yes", "no"))], ["So?"])
    spellings = {space + word for space in ("", "Ġ") for word in ("yes", "Yes", "no", "No")}
    assert set(tokenizer.convert_ids_to_tokens(answers.ids)) == spellings
    ((yes, no),) = answers.answer_logprobs(np.zeros((1, len(answers.ids))))
    np.testing.assert_allclose(np.exp([yes, no]), 4)  # the spellings of each


def test_unexpected_number_of_image_tokens_is_an_error(folders):
    recognizer = make_recognizer(settings(folders["qwen3_vl"]))
    recognizer.vlm.processor.image_processor.merge_size = 4
    with pytest.raises((ValueError, RuntimeError), match="do not match"):
        recognizer.assess(scene(), (ALICE,))


def test_too_little_memory_for_the_model_is_an_error(folders, monkeypatch):
    def run_out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(
        transformers.AutoModelForImageTextToText, "from_pretrained", run_out_of_memory
    )
    with pytest.raises(ModelError, match=r"smolvlm: not enough memory on cpu in float32; choose"):
        make_recognizer(settings(folders["smolvlm"]))


def test_unknown_checkpoint_family_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="cannot build 'gpt'"):
        save_tiny("gpt", tmp_path)


@pytest.mark.parametrize("scoring", ["yes_no", "letters", "labels"])
def test_each_scoring_gives_valid_scores(folders, scoring, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recognizer = make_recognizer(settings(folders["qwen3_vl"], scoring=scoring))
    for assessment in recognizer.assess(scene(), PEOPLE):
        assert assessment.scores.shape == (26,)
        assert ((assessment.scores > 0) & (assessment.scores < 1)).all()
        assert np.ptp(assessment.scores) > 1e-3
        assert all(-1 <= v <= 1 for v in assessment.vad)


def test_relative_scores_are_half_when_all_labels_are_equally_probable():
    log_odds = scoring.LABEL_LOG_ODDS["letters"]([np.full(26, -3.0)])
    np.testing.assert_allclose(log_odds, 0, atol=1e-12)
    certain = np.log(np.array([0.5, *[0.02] * 25]))
    assert scoring.LABEL_LOG_ODDS["letters"]([certain])[0] == pytest.approx(np.log(25))


def test_prior_of_a_grey_image_is_subtracted_and_cached_on_disk(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = settings(folders["smolvlm"], subtract_prior=True)
    first = make_recognizer(chosen)
    assert first.calibration.startswith("grey:")
    (file,) = (tmp_path / "emotion_perception" / "calibration").iterdir()
    scores_of_grey, vad_of_grey = first._scores_and_vad(np.load(file))
    np.testing.assert_allclose(scores_of_grey, 0.5)
    np.testing.assert_allclose(vad_of_grey, 0, atol=1e-12)

    def forbidden(*args):
        raise AssertionError("the prior was measured again")

    with monkeypatch.context() as patch:
        patch.setattr(vlm_model.VlmModel, "answer_logits", forbidden)
        second = make_recognizer(chosen)
    assert second.calibration == first.calibration
    assert (scores(second, scene(), ALICE) == scores(first, scene(), ALICE)).all()
    other = make_recognizer(replace(chosen, definitions="none"))
    assert other.calibration != first.calibration
    file.write_bytes(b"damaged")
    assert (scores(make_recognizer(chosen), scene(), ALICE) == scores(first, scene(), ALICE)).all()


def test_prior_is_measured_when_the_cache_cannot_be_written(folders, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    recognizer = make_recognizer(settings(folders["smolvlm"], subtract_prior=True))
    assert recognizer.calibration
    assert "cannot keep the prior" in caplog.text


def test_tiles_have_the_nearest_possible_side():
    tiles = attention.Tiles(None, 64, 512)
    assert [tiles.side(size) for size in (10, 95, 96, 224, 448, 512, 2000)] == [
        *(64, 64, 128, 256, 448, 512, 512)
    ]


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_features_of_tiles_of_mixed_sizes_equal_those_of_each_alone(family, folders, tmp_path):
    folder = folders.get(family) or save_tiny(family, tmp_path)
    recognizer = make_recognizer(settings(folder))
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((64, 40), (32, 9), (3, 64))]
    grids, encoded = recognizer.vlm.encode_images(images)
    with torch.inference_mode():
        together = recognizer.vlm.tiles.features(
            recognizer.vlm.processor.image_processor, encoded["images"]
        )
    assert [g.rows * g.columns for g in grids] == [4, 1, 4]
    alone = []
    for image in images:
        edge = {"longest_edge": max(image.shape)}
        pixels = recognizer.vlm.processor.image_processor(
            [Image.fromarray(image)],
            size=edge,
            max_image_size=edge,
            return_tensors="pt",
        )
        with torch.inference_mode():
            alone += recognizer.vlm.model.get_image_features(**pixels).pooler_output
    for packed, single in zip(together, alone, strict=True):
        assert torch.allclose(packed, single, atol=1e-5)


def test_image_whose_pixels_are_all_zero_is_not_dropped(folders):
    recognizer = make_recognizer(settings(folders["smolvlm"]))
    grey = Scene(Frame(np.full((128, 160, 3), 128, np.uint8), 0, ""), ())
    recognizer.vlm.processor.image_processor.image_mean = [128.001 / 255] * 3
    near = scores(recognizer, grey, ALICE, BOB)
    recognizer.vlm.processor.image_processor.image_mean = [128 / 255] * 3
    pixels = recognizer.vlm.processor.image_processor([Image.fromarray(grey.frame.image)])
    assert not np.any(np.asarray(pixels["pixel_values"][0]))
    zero = scores(recognizer, grey, ALICE, BOB)
    assert zero[0] == pytest.approx(zero[1], abs=1e-5)
    np.testing.assert_allclose(zero, near, atol=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, "idefics3", "internvl", "llava_onevision"])
def test_rationale_is_text_deterministic_and_changes_no_score(
    family, folders, tmp_path, monkeypatch
):
    folder = folders.get(family) or save_tiny(family, tmp_path)
    recognizer = make_recognizer(settings(folder))
    assert isinstance(recognizer, Explainer)
    before = scores(recognizer, scene(), ALICE, BOB)
    generate, lengths = recognizer.vlm.model.generate, []

    def count_tokens(**inputs):
        tokens = generate(**inputs)
        prompt_length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        lengths.append(tokens.shape[1] - prompt_length)
        return tokens

    monkeypatch.setattr(recognizer.vlm.model, "generate", count_tokens)
    monkeypatch.setattr(vlm_recognizer, "has_sentence", bool)  # the models have random weights
    rationale = recognizer.explain(scene(), ALICE)
    assert rationale == recognizer.explain(scene(), ALICE)
    assert rationale.strip()
    assert not any(
        token in rationale for token in recognizer.vlm.processor.tokenizer.all_special_tokens
    )
    assert 0 < max(lengths) <= prompts.MAX_RATIONALE_TOKENS
    assert (scores(recognizer, scene(), ALICE, BOB) == before).all()


def test_quantization_without_its_libraries_is_an_error_with_the_remedy(folders, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(
        ModelError,
        match="quantization = 4bit: it needs bitsandbytes and accelerate; run `pip install bitsand",
    ):
        make_recognizer(settings(folders["smolvlm"], quantization="4bit"))


@pytest.mark.parametrize(("quantization", "tolerance"), [("8bit", 0.05), ("4bit", 0.3)])
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_quantization_affects_the_language_model_only_and_scores_slightly(
    folders, family, quantization, tolerance
):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    full = make_recognizer(settings(folders[family]))
    small = make_recognizer(settings(folders[family], quantization=quantization))
    kinds = (bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit)
    quantized = {name for name, part in small.vlm.model.named_modules() if isinstance(part, kinds)}
    assert len(quantized) == 4 * 7  # layers, times the matrices of each
    assert all("text_model" in name or "language_model" in name for name in quantized)
    difference = np.abs(scores(small, scene(), ALICE, BOB) - scores(full, scene(), ALICE, BOB))
    assert 0 < difference.max() < tolerance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_int8_affects_the_layers_of_the_language_model_only_and_scores_slightly(
    folders, family, dtype
):
    torchao = pytest.importorskip("torchao")
    full = make_recognizer(settings(folders[family], dtype=dtype))
    small = make_recognizer(settings(folders[family], dtype=dtype, quantization="int8"))
    quantized = {
        name
        for name, part in small.vlm.model.named_modules()
        if type(getattr(part, "weight", None)).__module__.startswith(torchao.__name__)
    }
    assert len(quantized) == 4 * 7  # layers, times the matrices of each
    assert all("text_model" in name or "language_model" in name for name in quantized)
    difference = np.abs(scores(small, scene(), ALICE, BOB) - scores(full, scene(), ALICE, BOB))
    assert 0 < difference.max() < 0.05


def test_int8_is_refused_without_its_library_and_on_a_gpu(monkeypatch):
    with pytest.raises(ModelError, match="int8 on the device cuda: it is for CPUs; set it to none"):
        loading._check_quantization("int8", "cuda")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="int8: it needs torchao; run `pip install torchao`"):
        loading._check_quantization("int8", "cpu")


def test_rationale_depends_on_the_images(folders):
    recognizer = make_recognizer(settings(folders["smolvlm"]))
    assert (
        len({recognizer.explain(scene(i), person) for i in (0, 1) for person in (ALICE, BOB)}) > 1
    )


def test_missing_rationale_is_an_error_with_the_cause(folders, monkeypatch):
    recognizer = make_recognizer(settings(folders["smolvlm"]))
    with pytest.raises(
        RecognizerError, match="cannot explain p00005: the box .* is outside the image"
    ):
        recognizer.explain(scene(), OUTSIDE)
    end = torch.tensor([[recognizer.vlm.processor.tokenizer.eos_token_id]])
    with monkeypatch.context() as patch:
        patch.setattr(recognizer.vlm.model, "generate", lambda **inputs: end)
        with pytest.raises(
            RecognizerError, match="cannot explain p00001: vlm:.* generated no sentence"
        ):
            recognizer.explain(scene(), ALICE)

    def run_out_of_memory(**inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(recognizer.vlm.model, "generate", run_out_of_memory)
        with pytest.raises(RecognizerError, match="not enough memory"):
            recognizer.explain(scene(), ALICE)


def test_each_assessment_has_a_rationale_when_requested(folders):
    without = make_recognizer(settings(folders["qwen3_vl"]))
    explaining = make_recognizer(settings(folders["qwen3_vl"], rationale=True))
    for plain, explained in zip(
        without.assess(scene(), (ALICE, OUTSIDE, BOB)),
        explaining.assess(scene(), (ALICE, OUTSIDE, BOB)),
        strict=True,
    ):
        assert plain.rationale is None
        assert (explained.rationale is None) == (explained.person_id == OUTSIDE.person_id)
        np.testing.assert_array_equal(plain.scores, explained.scores)
    assert explained.rationale == explaining.explain(scene(), BOB)


def test_scoring_of_label_phrases_is_the_same_packed_and_forked(folders, monkeypatch):
    chosen = settings(folders["smolvlm"], scoring="labels")
    packed = scores(make_recognizer(chosen), scene(), ALICE, BOB)
    monkeypatch.delitem(families.FAMILIES, "smolvlm")
    forked = make_recognizer(chosen)
    assert forked.vlm.forked
    np.testing.assert_allclose(scores(forked, scene(), ALICE, BOB), packed, atol=1e-5)


def test_scoring_of_label_phrases_needs_a_cache_that_can_be_forked(folders, monkeypatch):
    monkeypatch.delitem(families.FAMILIES, "smolvlm")
    monkeypatch.setattr(forking, "_LAYERS", ())
    with pytest.raises(ModelError, match=r"scoring = labels with .*; set it to yes_no or letters"):
        make_recognizer(settings(folders["smolvlm"], scoring="labels"))

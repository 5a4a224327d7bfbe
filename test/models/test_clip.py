"""CLIP and SigLIP on real checkpoints with random weights."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers import clip
from emotion_perception.recognizers.clip import TEMPLATES, ImageTextModel
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.testing.checkpoints.clip import (
    save_blip,
    save_clip,
    save_siglip,
    save_siglip2,
)

pytestmark = pytest.mark.models

FAMILIES = {"clip": save_clip, "siglip": save_siglip, "siglip2": save_siglip2}
SENTENCES = ["a photo of a woman", "a photo of a person who is playing chess in a park", "rain"]
ALICE = Track("p00001", Box(10, 10, 90, 118), 0.9)
BOB = Track("p00002", Box(100, 20, 150, 100), 0.8)
TINY = Track("p00003", Box(50, 60, 51, 63), 0.5)
CUT = Track("p00004", Box(-40, 30, 30, 200), 0.5)
OUTSIDE = Track("p00005", Box(500, 500, 600, 600), 0.5)
PEOPLE = (ALICE, BOB, TINY, CUT)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: save(root / family) for family, save in FAMILIES.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def recognizer(family, folders):
    return make_recognizer(settings(folders[family]))


@pytest.fixture(scope="module")
def matcher(family, folders):
    return ImageTextModel(settings(folders[family]))


@pytest.fixture
def copied(folders, tmp_path):
    """A copy of the CLIP that a test may change."""
    return shutil.copytree(folders["clip"], tmp_path / "model")


def settings(model, **changes):
    return recognizer_settings(**{"name": "clip", "model": str(model), "device": "cpu", **changes})


def noise(seed=0, height=128, width=160):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(image, stamp_ns=7):
    return Scene(Frame(image, stamp_ns, "camera"), PEOPLE)


def scores(recognizer, image, *people):
    return np.stack([a.scores for a in recognizer.assess(scene(image), people)])


def stock(folder):
    model = transformers.AutoModel.from_pretrained(folder).eval()
    return model, transformers.AutoProcessor.from_pretrained(folder)


def padding(family):
    """Return the padding that the documentation of transformers recommends."""
    return {"padding": True} if family == "clip" else {"padding": "max_length", "max_length": 64}


def test_name_labels_and_thresholds(recognizer, family, folders):
    name = f"{folders['clip'].parent.name}/clip" if family == "clip" else family
    assert recognizer.name == f"clip:{name}"
    assert recognizer.labels == EMOTIC_LABELS
    assert recognizer.calibration == ""
    np.testing.assert_array_equal(recognizer.thresholds, np.full(26, 0.5))


def test_logits_equal_those_of_transformers(family, folders, matcher):
    model, processor = stock(folders[family])
    images = [noise(seed, 96, 96) for seed in range(2)]
    with torch.inference_mode():
        inputs = processor(
            text=SENTENCES,
            images=[Image.fromarray(image) for image in images],
            **padding(family),
            return_tensors="pt",
        )
        expected = model(**inputs).logits_per_image.numpy()
    logits = matcher.logits(matcher.embed_images(images), matcher.embed_texts(SENTENCES))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected, axis=1).min() > 0.1, "the sentences make no difference"
    assert np.ptp(expected, axis=0).max() > 0.1, "the images make no difference"


def test_embeddings_are_unit_vectors_and_do_not_depend_on_the_batch(matcher, monkeypatch):
    together = matcher.embed_texts(SENTENCES)
    assert together.shape[0] == 3
    np.testing.assert_allclose(together.norm(dim=1), 1, atol=1e-6)
    monkeypatch.setattr(clip, "TEXT_BATCH_SIZE", 1)
    np.testing.assert_allclose(matcher.embed_texts(SENTENCES), together, atol=1e-5)
    images = [noise(0), noise(1, 40, 9)]
    alone = torch.cat([matcher.embed_images([image]) for image in images])
    np.testing.assert_allclose(matcher.embed_images(images), alone, atol=1e-5)


def test_long_text_is_truncated(matcher):
    long, longer = ("a photo of " + "a very " * n + "happy person" for n in (200, 300))
    np.testing.assert_allclose(
        matcher.embed_texts([long]), matcher.embed_texts([longer]), atol=1e-6
    )


def test_tall_image_is_not_cropped(matcher):
    tall = noise(0, 160, 40)
    for rows in (slice(0, 30), slice(130, 160)):
        changed = tall.copy()
        changed[rows] = 0
        points = matcher.embed_images([tall, changed])
        assert (points[0] - points[1]).abs().max() > 1e-3


def test_scores_follow_from_the_logits_of_crop_and_frame(recognizer, family, folders):
    image, box = noise(0, 96, 96), Box(16, 16, 80, 80)  # squares, which are seen as they are
    (answer,) = recognizer.assess(scene(image), (Track("p00009", box, 0.9),))
    model, processor = stock(folders[family])
    names = [label.replace("/", " or ") for label in EMOTIC_LABELS]

    def unit(features):
        return torch.nn.functional.normalize(features.pooler_output, dim=-1)

    with torch.inference_mode():
        texts = torch.zeros(1)
        for template in TEMPLATES:
            sentences = [template.format(name) for name in names]
            inputs = processor(text=sentences, return_tensors="pt", **padding(family))
            texts = texts + unit(model.get_text_features(**inputs))
        texts = texts / texts.norm(dim=1, keepdim=True)
        views = [Image.fromarray(x) for x in (image, image[16:80, 16:80])]
        inputs = processor(images=views, return_tensors="pt")
        images = unit(model.get_image_features(**inputs))
        logits = (images @ texts.T).mean(0).double() * model.logit_scale.exp()
    if family == "clip":
        weights = logits.exp()
        others = (weights.sum() - weights) / 25
        expected = weights / (weights + others)
    else:
        expected = torch.sigmoid(logits + model.logit_bias)
    np.testing.assert_allclose(answer.scores, expected.detach(), atol=1e-4)
    assert answer.vad is None


def test_frame_and_texts_are_embedded_once(recognizer, monkeypatch):
    counts = []
    look = ImageTextModel.embed_images
    monkeypatch.setattr(
        ImageTextModel,
        "embed_images",
        lambda self, images: counts.append(len(images)) or look(self, images),
    )
    monkeypatch.setattr(
        ImageTextModel, "embed_texts", lambda *_: pytest.fail("words are read again")
    )
    recognizer.assess(scene(noise()), PEOPLE)
    assert counts == [1 + len(PEOPLE)]


def test_clip_score_is_relative_to_the_other_labels(folders):
    recognizer = make_recognizer(settings(folders["clip"]))
    (alice,) = scores(recognizer, noise(), ALICE)
    assert alice.min() < 0.5 < alice.max()


def test_half_precision_gives_similar_scores(folders):
    exact, coarse = (
        scores(make_recognizer(settings(folders["clip"], dtype=dtype)), noise(), ALICE)
        for dtype in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(coarse, exact, atol=0.05)


def test_other_architecture_is_an_error_with_its_name(tmp_path):
    folder = save_blip(tmp_path / "blip")
    with pytest.raises(ModelError, match=r"model of type blip.*set recognizer.model to a CLIP or"):
        make_recognizer(settings(folder))


def test_missing_folder_or_config_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        make_recognizer(settings(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=r"no config.json"):
        make_recognizer(settings(tmp_path))


def test_weights_in_other_formats_are_an_error(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no weights as safetensors"):
        make_recognizer(settings(copied))


def test_weights_that_do_not_match_the_config_are_an_error(copied):
    config = json.loads((copied / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] += 1
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lack .* tensors of CLIPModel"):
        make_recognizer(settings(copied))


@pytest.mark.parametrize("names", [("tokenizer",), ("processor_config", "preprocessor_config")])
def test_missing_tokenizer_or_image_processor_is_an_error(copied, names):
    for file in copied.iterdir():
        if file.name.startswith(names):
            file.unlink()
    with pytest.raises(ModelError, match="cannot use the processor of .* for images and texts"):
        make_recognizer(settings(copied))

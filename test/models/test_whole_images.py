"""Every model sees the whole image: blackening a part of it anywhere changes the pixels."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.clip import ImageTextModel
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.text.caption import Captioner
from emotion_perception.recognizers.vlm import loading, prompts
from emotion_perception.recognizers.whole_images import WholeImages
from emotion_perception.testing.checkpoints.clip import (
    save_blip,
    save_clip,
    save_florence2,
    save_siglip,
    save_siglip2,
)
from emotion_perception.testing.checkpoints.encoders import save_bridgetower, save_vilt
from emotion_perception.testing.checkpoints.vlm import RECIPES, save_tiny

pytestmark = pytest.mark.models

VLM_FAMILIES = [name for name, recipe in RECIPES.items() if not recipe.vocabulary]
SAVE = {
    "clip": save_clip,
    "siglip": save_siglip,
    "siglip2": save_siglip2,
    "two-stream": save_bridgetower,
    "single-stream": save_vilt,
    "blip": save_blip,
    "florence2": save_florence2,
    **dict.fromkeys(VLM_FAMILIES),
}
SHAPES = {"wide": (96, 288), "tall": (288, 96)}
PART = 10  # px


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")

    def save(family):
        folder = root / family
        if not folder.exists():
            SAVE[family](folder) if SAVE[family] else save_tiny(family, folder)
        return folder

    return save


def settings(system, model, **changes):
    return recognizer_settings(name=system, model=str(model), device="cpu", **changes)


def scene_of(image, whole=False):
    height, width = image.shape[:2]
    box = (0, 0, width, height) if whole else np.multiply([0.4, 0.4, 0.6, 0.6], [width, height] * 2)
    person = Track("p00001", Box(*map(float, box)), 0.9)
    return Scene(Frame(image, 0, ""), (person,))


def assert_every_part_is_seen(shape, pixels):
    """Check that blackening a corner, an edge or the middle changes the tensors of an image."""
    height, width = SHAPES[shape]
    image = np.random.default_rng(0).integers(100, 256, (height, width, 3), dtype=np.uint8)
    before = pixels(image)
    for top in (0, (height - PART) // 2, height - PART):
        for left in (0, (width - PART) // 2, width - PART):
            changed = image.copy()
            changed[top : top + PART, left : left + PART] = 0
            after = pixels(changed)
            same = all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
            assert not same, f"the part at row {top}, column {left} is not seen"


def tensors(inputs):
    """Return the tensors that depend on an image, or the images of a tiled model."""
    values = [inputs[name] for name in inputs]
    return [x if isinstance(x, torch.Tensor) else torch.tensor(np.array(x)) for x in values]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("view", ["mark", "crop", "both"])
@pytest.mark.parametrize("family", VLM_FAMILIES)
def test_vision_language_model_sees_every_part_of_an_image(folder_of, family, view, shape):
    chosen = settings("vlm", folder_of(family), person_view=view, scene_size=128, crop_size=64)
    vlm = make_recognizer(chosen).vlm

    def pixels(image):
        (person,) = scene_of(image, whole=view == "crop").people
        images = prompts.make_prompt_images(image, [person.box], chosen).of_person(0)
        with torch.inference_mode():
            stock = vlm.inputs(vlm.texts[:1], images)
            encoded = {} if vlm.tiles else vlm.encode_images(images)[1]
        return [*tensors(stock), *tensors(encoded)]

    assert_every_part_is_seen(shape, pixels)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_clip_sees_every_part_of_an_image(folder_of, family, shape):
    model = ImageTextModel(settings("clip", folder_of(family)))
    assert_every_part_is_seen(shape, lambda image: [model.embed_images([image])])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("system", ["two-stream", "single-stream"])
def test_encoder_sees_every_part_of_an_image(folder_of, system, shape):
    encoder = make_recognizer(settings(system, folder_of(system), scene_size=128))

    def pixels(image):
        (person,) = scene_of(image).people
        return tensors(encoder._image_inputs(encoder.prepare(image, [person.box])))

    assert_every_part_is_seen(shape, pixels)


@pytest.fixture
def captioner_inputs(monkeypatch):
    """What a captioner passes to its model about the image of a scene."""

    def record(captioner, scene):
        recorded = []

        def chat(model, tokenizer, inputs, max_tokens):
            recorded.append(inputs)
            return ""

        def caption(**inputs):
            recorded.append(inputs)
            return torch.zeros((len(inputs["pixel_values"]), 1), dtype=torch.long)

        monkeypatch.setattr(loading, "generate_text", chat)
        monkeypatch.setattr(captioner._model, "generate", caption)
        captioner.describe(scene, scene.people)
        (inputs,) = recorded
        return inputs

    return record


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["blip", "florence2", *VLM_FAMILIES])
def test_captioner_sees_every_part_of_an_image(folder_of, captioner_inputs, family, shape):
    captioner = Captioner(settings("caption", folder_of(family), scene_size=128))
    assert_every_part_is_seen(
        shape, lambda image: [captioner_inputs(captioner, scene_of(image))["pixel_values"]]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_florence_whose_processor_crops_sees_every_part(
    folder_of, captioner_inputs, shape, tmp_path
):
    folder = save_florence2(tmp_path / "florence2")
    processor = transformers.AutoProcessor.from_pretrained(folder)
    processor.image_processor.size = {"shortest_edge": 64}
    processor.save_pretrained(folder)
    captioner = Captioner(settings("caption", folder))
    for whole in (True, False):  # the crop of the person, and the full frame
        row = 1 if whole else 0
        assert_every_part_is_seen(
            shape,
            lambda image, whole=whole, row=row: [
                captioner_inputs(captioner, scene_of(image, whole))["pixel_values"][row]
            ],
        )


@pytest.mark.parametrize("family", ["llava", "vipllava"])
def test_llava_gets_the_image_on_a_square_of_the_mean_colour(folder_of, family):
    vlm = make_recognizer(settings("vlm", folder_of(family), scene_size=64)).vlm
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    square = np.empty((64, 64, 3), np.uint8)
    square[:] = (123, 117, 104)  # 255 x the mean of CLIP
    square[12:52] = image
    processor = transformers.AutoProcessor.from_pretrained(folder_of(family))
    expected = processor.image_processor(Image.fromarray(square), return_tensors="pt")
    assert torch.equal(vlm.encode_images([image])[1]["pixel_values"], expected["pixel_values"])


def test_two_people_at_the_edges_differ_for_llava(folder_of):
    chosen = settings("vlm", folder_of("llava"), person_view="mark", scene_size=128)
    recognizer = make_recognizer(chosen)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    people = (
        Track("p00001", Box(2, 100, 70, 300), 0.9),
        Track("p00002", Box(570, 100, 638, 300), 0.9),
    )
    images = prompts.make_prompt_images(image, [p.box for p in people], chosen)
    first, second = (
        recognizer.vlm.inputs(recognizer.vlm.texts[:1], images.of_person(i))["pixel_values"]
        for i in range(2)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", [f for f in VLM_FAMILIES if f not in ("llava", "vipllava")])
def test_image_is_left_as_it_is_for_a_family_that_does_not_crop(folder_of, family):
    processor = transformers.AutoProcessor.from_pretrained(folder_of(family))
    assert WholeImages.of(processor.image_processor, family).colour is None


CROPPING = (
    *("CLIPImageProcessor", "LlavaImageProcessor", "ChameleonImageProcessor"),
    *("BridgeTowerImageProcessor", "BitImageProcessor", "ChineseCLIPImageProcessor"),
    "LevitImageProcessor",  # enlarges by 256 / 224 before it crops
    "MobileNetV1ImageProcessor",  # resizes to 256 and crops 224
    "DeiTImageProcessor",  # stretches to 256 x 256 and crops 224
)
CROPPING_SMALLER = {"size": {"shortest_edge": 96}, "crop_size": {"height": 64, "width": 64}}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in CROPPING),
        ("CLIPImageProcessor", CROPPING_SMALLER),
        ("CLIPImageProcessor", {"do_resize": False, "crop_size": {"height": 64, "width": 64}}),
        ("LlavaImageProcessor", {"do_pad": True}),
        ("BridgeTowerImageProcessor", {"crop_size": {"shortest_edge": 224}}),
    ],
)
def test_image_processor_that_crops_sees_every_part(name, changes, shape):
    image_processor = getattr(transformers, name)(**changes)
    whole = WholeImages.of(image_processor, name)
    assert_every_part_is_seen(
        shape,
        lambda image: [
            image_processor(images=whole.pil_images([image]), return_tensors="pt")["pixel_values"]
        ],
    )


def test_image_processor_that_crops_whatever_it_gets_is_an_error():
    def crop(images, return_tensors):
        return {"pixel_values": torch.tensor(np.array(images[0])[20:-20, 20:-20])}

    with pytest.raises(ModelError, match="of mine: .* cuts off the edges of images, where people"):
        WholeImages.of(with_size(crop), "mine")


def test_image_processor_that_takes_no_images_is_an_error():
    def fail(images, return_tensors):
        raise ValueError("no images, please")

    with pytest.raises(ModelError, match="of mine: no images, please; choose another model"):
        WholeImages.of(with_size(fail), "mine")


def with_size(function):
    class Processor(SimpleNamespace):
        def __call__(self, **inputs):
            return function(**inputs)

    return Processor(size=64, crop_size=64, do_resize=True)

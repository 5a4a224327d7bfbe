"""The images and the words of the prompts, without a model."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from emotion_perception.core.labels import EMOTIC, VAD
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box
from emotion_perception.recognizers.vlm import prompts

RED = np.array([255, 0, 0])


def grey(height, width):
    return np.full((height, width, 3), 100, np.uint8)


def settings(view, scene_size=448, crop_size=224):
    return recognizer_settings(person_view=view, scene_size=scene_size, crop_size=crop_size)


def test_longer_side_gets_the_requested_size():
    assert prompts.resize(grey(720, 1280), 448).shape == (252, 448, 3)
    assert prompts.resize(grey(90, 30), 224).shape == (224, 75, 3)


def test_narrow_image_is_stretched_to_the_aspect_that_models_accept():
    assert prompts.resize(grey(300, 1), 224).shape == (224, 28, 3)


def test_crop_contains_the_person_without_red_lines():
    image = grey(100, 200)
    image[20:60, 50:70] = (0, 0, 250)
    crop = prompts.crop_person(image, Box(50, 20, 70, 60), 80)
    assert crop.shape == (80, 40, 3)
    assert (crop == (0, 0, 250)).all()


def test_red_box_surrounds_the_person_and_the_frame_is_not_modified():
    image = grey(200, 400)
    marked = prompts.mark_person(image, Box(100, 40, 200, 160), 200)
    assert (image == 100).all()
    red = np.argwhere((marked == RED).all(axis=2))
    assert red.min(axis=0) == pytest.approx([20, 50], abs=1)
    assert red.max(axis=0) == pytest.approx([79, 99], abs=1)
    assert (marked[50, 75] == 100).all()


def test_person_of_three_pixels_is_visible_in_each_view():
    image = grey(480, 640)
    image[100:103, 300:303] = 200
    box = Box(300, 100, 303, 103)
    assert (prompts.crop_person(image, box, 224) == 200).all()
    assert (prompts.mark_person(image, box, 448) == RED).all(axis=2).any()


def test_box_partly_outside_is_clipped_to_the_image():
    image = grey(100, 100)
    assert prompts.crop_person(image, Box(-50, -50, 50, 100), 64).shape == (64, 32, 3)
    marked = prompts.mark_person(image, Box(-50, -50, 50, 150), 100)
    assert (marked[0, 0] == RED).all()


@pytest.mark.parametrize("view", ["mark", "crop", "both"])
def test_box_outside_the_image_is_an_error(view):
    with pytest.raises(ValueError, match="outside the image of 100 x 100"):
        prompts.make_prompt_images(grey(100, 100), [Box(200, 0, 300, 50)], settings(view))


def test_one_plain_scene_image_serves_all_people():
    boxes = [Box(0, 0, 50, 100), Box(50, 0, 100, 100)]
    prompt_images = prompts.make_prompt_images(grey(100, 100), boxes, settings("both", 64, 32))
    assert prompt_images.person_images == ((0, 1), (0, 2))
    assert [max(image.shape) for image in prompt_images.images] == [64, 32, 32]
    assert (prompt_images.images[0] == 100).all()


def test_marked_scenes_and_crops_alone_are_one_image_per_person():
    boxes = [Box(0, 0, 50, 100), Box(50, 0, 100, 100)]
    for view in ("mark", "crop"):
        prompt_images = prompts.make_prompt_images(grey(100, 100), boxes, settings(view))
        assert (len(prompt_images.images), prompt_images.person_images) == (2, ((0,), (1,)))


def test_each_label_has_a_question_with_or_without_its_definition():
    with_meaning, bare = (
        prompts.label_questions(recognizer_settings(definitions=d)) for d in ("question", "none")
    )
    assert len(with_meaning) == len(bare) == len(EMOTIC)
    for long, short, (label, meaning) in zip(with_meaning, bare, EMOTIC.items(), strict=True):
        assert f"feel {label.replace('/', ' or ')} ({meaning})?" in long.text
        assert f"feel {label.replace('/', ' or ')}?" in short.text
        assert long.answers == short.answers == ("yes", "no")


def test_continuation_format_shares_one_question_and_starts_answers_with_the_name():
    continuation = recognizer_settings(answer_format="continuation")
    questions = prompts.label_questions(continuation) + prompts.vad_questions(continuation)
    assert {question.text for question in questions} == {prompts.SHARED_QUESTION}
    assert [q.answer_prefix for q in questions[:2]] == ["affection:", "anger:"]
    assert questions[-1].answer_prefix == "dominance:"


def test_definitions_come_first_only_with_the_glossary():
    (message,) = prompts.messages(settings("both"), "Why?")
    first = message["content"][0]["text"]
    assert all(f"{meaning}." in first for meaning in EMOTIC.values())
    for definitions in ("question", "none"):
        other = replace(settings("both"), definitions=definitions)
        (message,) = prompts.messages(other, "Why?")
        assert "means" not in message["content"][0]["text"]


def test_digits_go_from_the_low_to_the_high_end_of_a_scale():
    for question, (dimension, (low, high)) in zip(
        prompts.vad_questions(recognizer_settings()), VAD.items(), strict=True
    ):
        assert dimension in question.text
        assert f"{dimension} from 1, {low}, to 9, {high}." in prompts.glossary(
            recognizer_settings()
        )
        assert question.answers == tuple("123456789")


@pytest.mark.parametrize(("view", "images"), [("both", 2), ("mark", 1), ("crop", 1)])
def test_question_comes_last(view, images):
    (message,) = prompts.messages(settings(view), "Why?")
    kinds = [part["type"] for part in message["content"]]
    assert kinds.count("image") == images
    assert message["content"][-1]["text"].endswith("Why?")


def test_prompts_need_no_torch():
    code = (
        "import sys, emotion_perception.recognizers.vlm.prompts; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The recognizer that the robot runs: a vision-language model that scores every label.

The model generates no text for a score. Each question ends where the answer would begin, and the
score is read from the next token: how much more probable "yes" is than "no", or the expected value
of a digit. The other ways of scoring (`scoring.LABEL_LOG_ODDS`) are cheaper, and relative: they
compare labels with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Scene, Track, Vad
from emotion_perception.recognizers.base import assess_visible, grey_scene, has_sentence
from emotion_perception.recognizers.vlm import loading, packing, prior, prompts, scoring
from emotion_perception.recognizers.vlm.head import Head
from emotion_perception.recognizers.vlm.model import VlmModel


class VlmRecognizer:
    """EMOTIC's labels and VAD from any image-text-to-text model of transformers."""

    labels = EMOTIC_LABELS

    def __init__(self, settings: VlmSettings) -> None:
        """Load the model from a folder or the local cache, never from the network.

        Raises:
            ModelError: the model is missing or cannot be used; the message names the remedy.
        """
        self.vlm = VlmModel(settings)
        self.name = self.vlm.name
        self.calibration = ""
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._settings = settings
        self._head = self._load_head() if settings.scoring == "head" else None
        self._prior: list[FloatArray] | None = None
        subtract = settings.subtract_prior and settings.scoring not in ("generate", "head")
        if subtract or settings.scoring == "labels":
            self._prior = self._load_prior()

    def warm_up(self) -> None:
        """Assess people of a grey image: one person, or each number that is to be compiled.

        Raises:
            ModelError: the answers are not finite.
            RecognizerError: the memory does not suffice, or the prompts are too long.
        """
        count = 1
        while True:
            scene = grey_scene(count)
            first = self.assess(scene, scene.people)[0]
            if first.reason == scoring.not_finite(self._dtype):
                raise ModelError(f"cannot use {self.name}: {first.reason}")
            if not self.vlm.compiled or count >= self._settings.compile_people:
                break
            count *= 2

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Assess each person, in order; without scores where the box lies outside the image.

        Raises:
            RecognizerError: the people do not fit into the memory of the device.
        """

        def assess_boxes(visible: Sequence[Track]) -> list[Assessment]:
            prompt_images = self._prompt_images(scene, visible)
            with loading.memory_errors(len(visible)):
                return self._assess([p.person_id for p in visible], scene, prompt_images)

        return assess_visible(scene, people, assess_boxes)

    def explain(self, scene: Scene, person: Track) -> str:
        """Return a short reason, in the model's words, why the person appears to feel as assessed.

        Raises:
            RecognizerError: the person is outside the image, the memory does not suffice, or the
                model generates no sentence.
        """
        if not person.box.clipped(scene.frame.width, scene.frame.height).area > 0:
            raise RecognizerError(
                f"cannot explain {person.person_id}: the box {person.box} is outside the image"
            )
        with loading.memory_errors(1):
            rationale = self._rationale(self._prompt_images(scene, [person]), 0)
        if not rationale:
            raise RecognizerError(
                f"cannot explain {person.person_id}: {self.name} generated no sentence; ask again, "
                "or choose another recognizer.model"
            )
        return rationale

    def workload(self, scene: Scene, people: Sequence[Track]) -> packing.Workload:
        """Count what `assess` would compute for these people; nothing is computed.

        Raises:
            ValueError: the model cannot be packed, or a person is outside the image.
        """
        return self.vlm.workload(self._prompt_images(scene, people))

    def close(self) -> None:
        """Free the memory of the model."""
        self.vlm.close()

    def _prompt_images(self, scene: Scene, people: Sequence[Track]) -> prompts.PromptImages:
        boxes = [person.box for person in people]
        return prompts.make_prompt_images(scene.frame.image, boxes, self._settings)

    def _assess(
        self, person_ids: Sequence[str], scene: Scene, prompt_images: prompts.PromptImages
    ) -> list[Assessment]:
        stamp_ns = scene.frame.stamp_ns
        if self._settings.scoring == "generate":
            question = prompts.generation_prompt(self._settings)
            texts = (
                self.vlm.generate(question, prompt_images, i, prompts.MAX_ANSWER_TOKENS)
                for i in range(len(person_ids))
            )
            return [
                scoring.assessment_from_text(person_id, stamp_ns, text)
                for person_id, text in zip(person_ids, texts, strict=True)
            ]
        if self._head is not None:
            with torch.inference_mode():
                states = self.vlm.states([prompt_images], [self._head.layer])[:, 0]
                logits, vads = self._head(states)
            rows = zip(person_ids, logits.sigmoid().cpu().numpy(), vads.cpu().tolist(), strict=True)
            return [
                Assessment(i, stamp_ns, scores, Vad(*vad))
                if np.isfinite([*scores, *vad]).all()
                else Assessment(i, stamp_ns, None, reason=scoring.not_finite(self._dtype))
                for i, scores, vad in rows
            ]
        assessments = []
        for number, logits in enumerate(self.vlm.answer_logits(prompt_images)):
            if not np.isfinite(logits).all():
                reason = scoring.not_finite(self._dtype)
                assessments.append(Assessment(person_ids[number], stamp_ns, None, reason=reason))
                continue
            scores, vad = self._scores_and_vad(logits)
            rationale = ""
            if self._settings.rationale:
                rationale = self._rationale(prompt_images, number)
            assessments.append(
                Assessment(person_ids[number], stamp_ns, scores, vad, rationale or None)
            )
        return assessments

    @property
    def _dtype(self) -> str:
        return str(self.vlm.model.dtype).removeprefix("torch.")

    def _scores_and_vad(self, logits: FloatArray) -> tuple[FloatArray, Vad]:
        logprobs = self.vlm.answers.answer_logprobs(logits)
        if self._prior is not None:
            logprobs = [x - grey for x, grey in zip(logprobs, self._prior, strict=True)]
        return scoring.scores_and_vad(logprobs, self._settings.scoring)

    def _rationale(self, prompt_images: prompts.PromptImages, person: int) -> str:
        question, tokens = prompts.RATIONALE_QUESTION, prompts.MAX_RATIONALE_TOKENS
        text = self.vlm.generate(question, prompt_images, person, tokens)
        return text if has_sentence(text) else ""

    def _load_head(self) -> Head:
        folder = Path(self._settings.adapter or loading.find_folder(self._settings.model))
        if not (folder / "head.json").is_file():
            raise ModelError(
                f"cannot use recognizer.scoring = head: {folder} has no head; train one with "
                "`emotion-perception head`, or set recognizer.scoring to yes_no"
            )
        if self.vlm.plan is None:
            raise ModelError(
                f"cannot use recognizer.scoring = head: {self.name} cannot be packed; set "
                "recognizer.scoring to yes_no"
            )
        head = Head.load(folder).to(self.vlm.model.device)
        if head.labels != self.labels:
            raise ModelError(f"cannot use the head in {folder}: its labels differ; train it again")
        return head

    def _load_prior(self) -> list[FloatArray]:
        """Return the answer log-probabilities for an image without content, cached on disk.

        Raises:
            ModelError: the logits are not finite, or the memory does not suffice.
        """
        settings, answers, model = self._settings, self.vlm.answers, self.vlm.model
        folders = [loading.find_folder(settings.model)]
        if settings.adapter:
            folders.append(Path(settings.adapter).expanduser())
        prompt = [*self.vlm.texts, *map(str, answers.ids)]
        dtype = str(model.dtype)
        key = prior.prior_cache_key(folders, settings, prompt, model.device.type, dtype)
        self.calibration = f"grey:{key[:8]}"
        # With answers in words, the last column is the log-sum-exp over all tokens.
        shape = (len(answers.sites), len(answers.ids) + answers.in_words)
        logits = prior.cached_prior(key, shape, self._measure_prior)
        if not np.isfinite(logits).all():
            raise ModelError(
                f"cannot measure the prior of {self.name}: the answers about a grey image are not "
                f"finite in {dtype}; set recognizer.dtype to bfloat16 or float32"
            )
        return answers.answer_logprobs(logits)

    def _measure_prior(self) -> FloatArray:
        """Return the logits (sites, tokens) of one person in a grey image."""
        size = self._settings.scene_size
        grey = np.full((size * 3 // 4, size, 3), 128, np.uint8)
        box = Box(0, 0, size // 4, size // 2)
        prompt_images = prompts.make_prompt_images(grey, [box], self._settings)
        try:
            with loading.memory_errors(1):
                return self.vlm.answer_logits(prompt_images)[0]  # type: ignore[no-any-return]
        except RecognizerError as error:
            raise ModelError(str(error)) from error

"""A vision-language model that is asked many questions about several people in one forward pass.

    questions ──► set_questions ──► plan (how the prompts share tokens)
    images, boxes ──► make_prompt_images ──► encode_images ──► tree ──► forward ──► answer logits

All questions about all people of a scene go through the model in one pass (`packing.py`) where its
family allows (`families.py`). Other families are asked in batches, person by person, that continue
forks of one cache (`forking.py`): the answers are the same and take longer. Serving and training
use this class alike.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.values import Box, FloatArray, ImageArray
from emotion_perception.recognizers.vlm import (
    attention,
    chat,
    forking,
    loading,
    packing,
    prompts,
    scoring,
)
from emotion_perception.recognizers.vlm.families import COUNTS_IMAGES, FAMILIES, why_not_packed
from emotion_perception.recognizers.vlm.prefix import (
    ConstantPrefix,
    PrefixCache,
    SceneTrunk,
    model_positions,
)
from emotion_perception.recognizers.whole_images import WholeImages

log = logging.getLogger(__name__)

_TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


class PeopleLimit:
    """How many people are asked in one pass, after a pass that did not fit into memory.

    Memory may be free again later, so after some passes twice as many are tried. Each failure
    doubles the number of passes until then.
    """

    def __init__(self) -> None:
        """Start without a limit."""
        self.people: int | None = None
        """At most this many people per pass; None: all."""
        self._wait, self._passes = 16, 0

    def count(self, people: int) -> int:
        """Return how many of these people to ask in the next pass."""
        return min(self.people or people, people)

    def failed(self, count: int) -> None:
        """Record that a pass with this many people did not fit into memory."""
        self.people, self._passes = max(count // 2, 1), 0
        self._wait = min(2 * self._wait, 4096)

    def succeeded(self, count: int) -> None:
        """Record a pass; only those that reach the limit count."""
        if self.people is None or count < self.people:
            return
        self._passes += 1
        if self._passes >= self._wait:
            self.people, self._passes = 2 * self.people, 0


class VlmModel:
    """Model and processor of transformers with the questions that they are asked."""

    def __init__(self, settings: VlmSettings) -> None:
        """Load the model from a folder or the local cache, never from the network.

        Raises:
            ModelError: the model is missing or cannot be used; the message names the remedy.
        """
        self.name = f"vlm:{loading.display_name(settings.model, settings.adapter)}"
        self.settings = settings
        self.processor, self.model = loading.load_vlm(settings)
        self._whole_images = WholeImages.of(self.processor.image_processor, settings.model)
        self.tiles = attention.Tiles.for_model(self.model)
        self.by_branch = self.model.device.type == "cpu"
        """Attend branch by branch: less work in more steps, which suits a CPU and no GPU."""
        self.keep_prefix = True
        """Read the tokens before the first image once, and not in every pass."""
        self.keep_scene = self.model.config.model_type not in COUNTS_IMAGES
        """Read the scene image once per call where the people do not fit into one pass."""
        self._prefix = ConstantPrefix()
        # InternVL's processor cuts images into tiles, whatever its image processor is set to.
        crops_by_default = hasattr(self.processor.image_processor, "crop_to_patches")
        self._no_crop_kwargs = {"crop_to_patches": False} if crops_by_default else {}
        self._images_per_person = _images_per_person(settings)
        _check_image_places(self.processor, settings)
        self.people_limit = PeopleLimit()
        self.set_questions(prompts.questions(settings))
        self.compiled, self.buckets = None, None
        if settings.compile and self.plan:
            self.compiled = attention.Compiled(self.model)
            self.buckets = self._compiled_lengths(self.plan)

    def set_questions(self, questions: Sequence[prompts.Question]) -> None:
        """Ask these questions from now on.

        Questions after those of `prompts.questions` do not change the answers to the first ones;
        training adds some.
        """
        self.texts = [
            scoring.with_continuation(self.chat(q.text), q.answer_prefix) for q in questions
        ]
        """The prompt of each question, up to where the answer begins."""
        for text in self.texts[:1]:
            chat.check_scoring(text, self.settings.model)
        self.answers = scoring.AnswerTokens(self.processor.tokenizer, questions, self.texts)
        self.plan = self._make_plan() if questions else None
        """How the prompts are packed; None where they cannot be."""
        self.forked = self._fork_prompts() if questions and not self.plan else None
        """The way to ask where prompts are not packed; None: with the stock forward pass."""

    def set_prompting(self, settings: VlmSettings) -> None:
        """Ask as these settings say from now on, with the model that is loaded."""
        self.settings = settings
        self.set_questions(prompts.questions(settings))

    def chat(self, question: str) -> str:
        """Return the prompt with this question, up to where the answer begins."""
        return _render(self.processor, self.settings, question)

    def answer_logits(self, prompt_images: prompts.PromptImages) -> FloatArray:
        """Return the logits where each answer begins, (people, sites, answer tokens).

        If all people together do not fit into memory, half of them are asked at once; later calls
        start with that number and try more again, see `PeopleLimit`. The scene image is read in the
        first pass only.
        """
        people = len(prompt_images.person_images)
        if self.forked:
            return self.forked.answer_logits(prompt_images)
        if self.plan is None:
            return np.stack([self.batched_logits(prompt_images, i) for i in range(people)])
        logits: list[FloatArray] = []
        trunk = SceneTrunk()
        while len(logits) < people:
            start = len(logits)
            count = self.people_limit.count(people - start)
            shares_scene = self._shares_scene and count < people
            try:
                selected = prompt_images.select(start, start + count)
                logits.extend(self.packed_logits(selected, trunk if shares_scene else None))
                self.people_limit.succeeded(count)
                continue
            except (MemoryError, RuntimeError) as error:
                if count == 1 or not loading.is_out_of_memory(error):
                    raise
            self.people_limit.failed(count)
            log.warning(
                "%d people at once do not fit into memory: %d for the next rounds",
                *(count, self.people_limit.people),
            )
            torch.cuda.empty_cache()  # outside `except`, where the error holds no tensors
        return np.stack(logits)

    @torch.inference_mode()
    def packed_logits(
        self, prompt_images: prompts.PromptImages, trunk: SceneTrunk | None = None
    ) -> FloatArray:
        """Return the logits of `answer_logits` from one packed pass.

        Args:
            prompt_images: the images of the people.
            trunk: what other people of the same scene share with these; an unread one is read.

        Raises:
            ValueError: the model cannot be packed.
        """
        return self._forward([prompt_images], trunk).cpu().numpy()

    @torch.inference_mode()
    def batched_logits(
        self, prompt_images: prompts.PromptImages, person: int, questions: int | None = None
    ) -> FloatArray:
        """Return the logits (sites, answer tokens) of one person from the stock forward pass.

        Args:
            prompt_images: the images of the people.
            person: the index of the person.
            questions: ask the first questions only, this many.
        """
        texts = self.texts[:questions]
        images = prompt_images.of_person(person)
        rows = []
        batch = forking.QUESTIONS_PER_BATCH
        for start in range(0, len(texts), batch):
            inputs = self.inputs(texts[start : start + batch], images)
            loading.check_length(self.model, inputs["attention_mask"].shape[1])
            output = self.model(**inputs, use_cache=False, logits_to_keep=1)
            rows.append(output.logits[:, -1, self.answers.ids].float().cpu().numpy())
        return np.concatenate(rows)

    def answer_logprobs(self, rounds: Sequence[prompts.PromptImages]) -> list[torch.Tensor]:
        """Return the answer log-probabilities of each question, (people, answers), with gradients.

        All people of several scenes go through the model in one pass.

        Raises:
            ValueError: the model cannot be packed.
        """
        return self.answers.answer_logprobs_with_gradients(self._forward(rounds))

    def states(self, rounds: Sequence[prompts.PromptImages], layers: Sequence[int]) -> torch.Tensor:
        """Return the hidden states before the first answer, (people, layers, width).

        They are those after the given layers of the language model, normalised, with gradients.

        Raises:
            ValueError: the model cannot be packed, or has no such layer.
        """
        with ExitStack() as stack:
            recorded = stack.enter_context(attention.record_states(self.model, layers))
            if not self.compiled:  # compiled with all layers
                stack.enter_context(attention.first_layers(self.model, max(layers) + 1))
            places = self._run(rounds)[1][:, 0]
        states = torch.stack([recorded[layer][0, places] for layer in layers], 1).float()
        return torch.nn.functional.layer_norm(states, states.shape[-1:])

    @torch.inference_mode()
    def generate(
        self, question: str, prompt_images: prompts.PromptImages, person: int, max_tokens: int
    ) -> str:
        """Return the text that the model generates about one person; it may be empty."""
        prompt = self.chat(question)
        inputs = self.inputs([prompt], prompt_images.of_person(person))
        text = loading.generate_text(self.model, self.processor.tokenizer, inputs, max_tokens)
        return chat.open_thoughts(prompt) + text

    def workload(
        self, prompt_images: prompts.PromptImages, trunk: SceneTrunk | None = None
    ) -> packing.Workload:
        """Count what one packed pass computes; nothing is computed.

        Args:
            prompt_images: the images of the people.
            trunk: see `packed_logits`.

        Raises:
            ValueError: the model cannot be packed.
        """
        plan = self._packed_plan()
        read = trunk.grids if trunk and trunk.cache else []
        own, encoded = self.encode_images(prompt_images.images[len(read) :])
        grids = [*read, *own]
        tree, ends = plan.build_tree(grids, prompt_images.person_images, self.position_rule)
        head = self.model.get_output_embeddings().weight
        cached = plan.constant_tokens if self.keep_prefix else 0
        if read:
            cached = tree.segments[0].end
        return packing.Workload(
            patches=self._patches(own, encoded),
            image_tokens=tuple(grid.rows * grid.columns for grid in own),
            tokens=len(tree) - cached,
            cached_tokens=cached,
            attended_pairs=tree.attended_pairs - cached**2 / 2,
            answers=ends.size,
            head_rows=len(head) if self.answers.in_words else len(self.answers.ids),
        )

    def close(self) -> None:
        """Free the memory of the model."""
        self._prefix.clear()
        del self.model, self.processor
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def encode_images(self, images: Sequence[ImageArray]) -> tuple[list[packing.Grid], Any]:
        """Return the token grid of each image, and the images as the forward pass takes them."""
        pil_images = self._whole_images.pil_images(images)
        if self.tiles:
            return [self.tiles.grid(max(i.size)) for i in pil_images], {"images": pil_images}
        text = "\n".join([self.processor.image_token] * len(images))
        inputs = self.processor(
            text=[text],
            images=[pil_images],
            device=self.model.device,  # images are scaled and normalised there
            return_tensors="pt",
            **self._no_crop_kwargs,
        )
        encoded = {
            name: x.to(self.model.device, self.model.dtype if x.is_floating_point() else x.dtype)
            for name, x in inputs.items()
            if name not in _TEXT_INPUTS
        }
        if "image_grid_thw" not in inputs:
            token = self.model.config.image_token_id
            lengths = packing.run_lengths(inputs["input_ids"][0].tolist(), token)
            return [packing.Grid(1, length) for length in lengths], encoded
        merge = self.processor.image_processor.merge_size
        sizes = inputs["image_grid_thw"].tolist()
        return [packing.Grid(h // merge, w // merge) for _, h, w in sizes], encoded

    def encode(self, texts: Sequence[str], images: Sequence[Any], **kwargs: Any) -> Any:
        """Return prompts about the same images as the processor prepares them."""
        bos = self.processor.tokenizer.bos_token
        special = kwargs.pop("add_special_tokens", True)
        return self.processor(
            text=list(texts),
            images=[list(images)] * len(texts) if images else None,
            add_special_tokens=special and not (bos and texts[0].startswith(bos)),
            **self._no_crop_kwargs,
            **kwargs,
        )

    def tokens(self, text: str, **kwargs: Any) -> list[int]:
        """Return the tokens of a prompt, or of a part of one, with small images in their places."""
        placeholders = [Image.new("RGB", (64, 64))] * text.count(self.processor.image_token)
        encoded = self.encode([text], placeholders, return_tensors="pt", **kwargs)
        tokens: list[int] = encoded["input_ids"][0].tolist()
        return tokens

    def inputs(self, texts: Sequence[str], images: Sequence[ImageArray], **kwargs: Any) -> Any:
        """Return the arguments of the stock forward pass: a row per prompt, the same images.

        Args:
            texts: the prompts, or the same part of each.
            images: those in each text.
            **kwargs: further arguments of the processor.
        """
        pil_images = self._whole_images.pil_images(images)
        device, dtype = self.model.device, self.model.dtype
        if not self.tiles:
            inputs = self.encode(texts, pil_images, padding=True, return_tensors="pt", **kwargs)
            inputs.pop("labels", None)  # PaliGemma's processor prepares training, too
            return inputs.to(device, dtype)
        token = self.model.config.image_token_id
        grids, encoded = self.encode_images(images)
        encodings = self.encode(texts, pil_images, **kwargs)["input_ids"]
        short = [packing.collapse(i, token) for i in encodings]
        rows = [packing.expand(np.asarray(ids), token, grids).tolist() for ids in short]
        padded = self.processor.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(device)
        filled = self.with_images(padded["input_ids"], encoded)
        return {**filled, "attention_mask": padded["attention_mask"]}

    def _make_plan(self) -> packing.Plan | None:
        reason = why_not_packed(self.model, self.settings)
        if not reason:
            tokens = [self.tokens(text) for text in self.texts]
            site_prompts = [tokens[i] + list(more) for i, more in self.answers.sites]
            image_token = self.model.config.image_token_id
            try:
                return packing.Plan.from_prompts(site_prompts, image_token, self._images_per_person)
            except ValueError as error:
                reason = str(error)
        log.warning("%s is asked one person at a time: %s", self.name, reason)
        return None

    def _fork_prompts(self) -> forking.ForkedPrompts | None:
        forked, reason = forking.ForkedPrompts.of(self)
        if forked:
            return forked
        if self.answers.in_words:
            raise ModelError(
                f"cannot use recognizer.scoring = labels with {self.name}: {reason}; set it to "
                "yes_no or letters"
            )
        log.warning("%s reads each prompt from its start: %s", self.name, reason)
        return None

    def _packed_plan(self) -> packing.Plan:
        if self.plan is None:
            raise ValueError(
                f"{self.name} cannot be packed: it is asked one person at a time, so its scores "
                "cannot be trained and its states cannot be read"
            )
        return self.plan

    @property
    def _shares_scene(self) -> bool:
        """Whether a pass may use what another pass has read of the same scene."""
        plan = self._packed_plan()
        has_image = plan.constant_tokens < len(plan.trunk)
        return self.keep_scene and has_image and not self.compiled  # compiled for whole scenes

    @property
    def position_rule(self) -> packing.PositionRule:
        """The position numbering of the family."""
        return FAMILIES[self.model.config.model_type]

    def _compiled_lengths(self, plan: packing.Plan) -> packing.Buckets:
        """Return the sequence lengths to compile for, with scene and people at their largest."""
        side = max(self.settings.scene_size, self.settings.crop_size)
        image = np.zeros((side, side, 3), np.uint8)
        one_person, two_people = (
            len(plan.build_tree(self.encode_images(p.images)[0], p.person_images, rule)[0])
            for rule in [self.position_rule]
            for p in (
                prompts.make_prompt_images(image, [Box(0, 0, side, side)] * n, self.settings)
                for n in (1, 2)
            )
        )
        return packing.Buckets(trunk=2 * one_person - two_people, person=two_people - one_person)

    def _forward(
        self, rounds: Sequence[prompts.PromptImages], trunk: SceneTrunk | None = None
    ) -> torch.Tensor:
        """Return the answer logits of all rounds from one pass, (people, sites, answer tokens)."""
        states, ends = self._run(rounds, trunk)
        return self.read_logits(states[0, ends.flatten()]).reshape(*ends.shape, -1)

    def read_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, answer tokens) after the last states (N, width)."""
        head = self.model.get_output_embeddings().weight
        return attention.answer_logits(
            *(states, head, self.answers.ids, self.answers.in_words),
            attention.logit_adjustment(self.model),
        )

    def _run(
        self, rounds: Sequence[prompts.PromptImages], trunk: SceneTrunk | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last states (1, S, width), and the places of answers (people, sites).

        S counts the tokens that the pass computes, those of a cached prefix not.
        """
        plan = self._packed_plan()
        images = [image for r in rounds for image in r.images]
        read = trunk.grids if trunk and trunk.cache else []  # the images of the trunk come first
        grids, encoded = self.encode_images(images[len(read) :])
        grids = [*read, *grids]
        tree = packing.Tree(plan.image_token, self.position_rule)
        places, offset = [], 0
        for prompt_images in rounds:
            numbers = [[n + offset for n in person] for person in prompt_images.person_images]
            places.append(plan.build_tree(grids, numbers, self.position_rule, tree)[1])
            offset += len(prompt_images.images)
        ends = np.concatenate(places)
        loading.check_length(self.model, int(tree.positions.max()) + 1)
        if self.buckets:
            missing = self.buckets.length(len(ends), len(tree)) - len(tree)
            if missing:
                tree.add(np.full(missing, self.processor.tokenizer.pad_token_id))
        cache, cached = None, 0
        if trunk and trunk.cache:
            cache, cached = trunk.cache, tree.segments[0].end
        elif len(rounds) == 1 and ConstantPrefix.applies(self.model):
            cached = plan.constant_tokens if self.keep_prefix else 0
            if cached:
                cache = self._prefix.read(self.model, tree, cached)
            elif trunk:
                cache = PrefixCache.empty()
        ids, positions, ends_tensor = (
            torch.from_numpy(x).to(self.model.device)
            for x in (tree.ids[cached:], tree.positions[:, cached:], ends - cached)
        )
        with ExitStack() as stack:
            longer = None
            if trunk and cache is not None and not trunk.cache:
                longer = stack.enter_context(cache.extending(tree.segments[0].end))
            mask = stack.enter_context(self._attention(tree, cached))
            states = self.model.model(
                **self.with_images(ids[None], encoded),
                attention_mask=mask,
                position_ids=model_positions(positions),
                past_key_values=cache,
                use_cache=False,
            ).last_hidden_state
        if trunk and longer:
            shared = rounds[0].person_images[0][:-1]
            trunk.cache, trunk.grids = longer, [grids[i] for i in shared]
        return states, ends_tensor

    @contextmanager
    def _attention(self, tree: packing.Tree, cached: int) -> Iterator[Any]:
        """Make the model attend within the tree, and yield the mask to call it with."""
        if not self.compiled:
            with attention.packed_attention(self.model, tree, self.by_branch, cached) as mask:
                yield mask
            return
        with self.compiled.active():
            yield attention.tree_mask(self.model, tree, cached)

    def with_images(self, ids: torch.Tensor, encoded: Any) -> Any:
        """Return the arguments for tokens (rows, S) where each row shows the encoded images."""
        if not self.tiles:
            return {"input_ids": ids, **encoded}
        embeddings = self.model.get_input_embeddings()(ids)
        is_image = (ids == self.model.config.image_token_id)[..., None]
        features = self.tiles.features(self.processor.image_processor, encoded["images"])
        filling = torch.cat(features).to(embeddings.dtype).repeat(len(ids), 1)
        return {"inputs_embeds": embeddings.masked_scatter(is_image, filling)}

    def _patches(self, grids: Sequence[packing.Grid], encoded: Any) -> tuple[int, ...]:
        """Return the patches of each image in the vision tower."""
        if self.tiles:
            scale = self.model.config.scale_factor
            return tuple(grid.rows * grid.columns * scale**2 for grid in grids)
        if "image_grid_thw" in encoded:
            return tuple(encoded["image_grid_thw"].prod(-1).tolist())
        if "image_position_ids" in encoded:  # -1 where an image has fewer patches than the largest
            return tuple((encoded["image_position_ids"][..., 0] >= 0).sum(-1).flatten().tolist())
        *leading, _, height, width = encoded["pixel_values"].shape
        patch = np.broadcast_to(self.model.config.vision_config.patch_size, 2)
        each = (height // patch[0]) * (width // patch[1]) * math.prod(leading) // len(grids)
        return (int(each),) * len(grids)


def check_chat_template(settings: VlmSettings) -> None:
    """Check the chat template of a model as loading it does, without its weights.

    Raises:
        ModelError: The model is missing, or its template cannot be used.
    """
    processor = loading.load_processor(settings, loading.find_folder(settings.model))
    _check_image_places(processor, settings)
    for question in prompts.questions(settings)[:1]:
        chat.check_scoring(_render(processor, settings, question.text), settings.model)


def _render(processor: Any, settings: VlmSettings, question: str) -> str:
    """Return a prompt, with the glossary before the images if the template can do so."""
    prompt = chat.render(processor, prompts.messages(settings, question), settings.model)
    words = "" if settings.scoring == "generate" else prompts.glossary(settings).strip()
    image = processor.image_token
    if not words or words in prompt.partition(image)[0]:
        return prompt
    try:
        first = chat.render(processor, prompts.messages(settings, question, True), settings.model)
    except ModelError:  # it takes no system message
        return prompt
    complete = first.count(image) == prompt.count(image) and question in first
    return first if complete and words in first.partition(image)[0] else prompt


def _images_per_person(settings: VlmSettings) -> int:
    return 2 if settings.person_view == "both" else 1


def _check_image_places(processor: Any, settings: VlmSettings) -> None:
    count = _render(processor, settings, prompts.RATIONALE_QUESTION).count(processor.image_token)
    if count != _images_per_person(settings):
        raise ModelError(
            f"cannot use the chat template of {settings.model}: it shows {count} of "
            f"{_images_per_person(settings)} images; choose another model"
        )

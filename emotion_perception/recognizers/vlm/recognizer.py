"""A vision-language model that is asked about every label: the recognizer the robot runs.

The model never writes prose. Each question ends where the answer would begin, and the score is
read from the next token: how much more the model likes "yes" than "no", or which of nine digits.
The other ways of asking (`scoring.SCORING`) are cheaper, and relative: they compare labels with
each other.

All questions about everybody in a scene go through the model in one pass (`packing.py`) where its
family allows, see `FAMILIES`. The others are asked in batches, person by person; the answers are
the same and take many times longer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Frame, Scene, Track, Vad
from emotion_perception.recognizers.base import assess_visible
from emotion_perception.recognizers.vlm import attention, loading, packing, prompts, scoring
from emotion_perception.recognizers.vlm.head import Head

log = logging.getLogger(__name__)

QUESTIONS_AT_ONCE = 8
"""Rows of one batch of the batched route: bounds its memory, does not change its answers."""

FAMILIES: dict[str, packing.Rule] = {
    "smolvlm": packing.line,
    "idefics3": packing.line,
    "internvl": packing.line,
    "llava_onevision": packing.line,
    "qwen2_vl": packing.mrope,
    "qwen2_5_vl": packing.mrope,
    "qwen3_vl": packing.mrope,
}
"""The families (`model_type`) that can be packed, and how they count positions.

They give packed the answers of one prompt at a time; `test_packing.py` holds them to it. Not here:

    gemma3        the tokens of a picture look at each other in both directions, and most layers
                  see a window only: each would need a mask of its own
    gemma3n, 4    as gemma3, not tried
    paligemma     the whole prompt is read in both directions: the scene notices the question
                  (tried: another last word changes what is computed for all words before it)
    qwen3_5       most layers are recurrent: branches would leak into each other
    lfm2_vl       convolution layers: as qwen3_5
    mllama        pictures enter by cross-attention, which has a mask of its own; not tried
    others        not tried
"""


class VlmRecognizer:
    """EMOTIC's labels and VAD by any image-text-to-text model of transformers."""

    labels = EMOTIC_LABELS

    def __init__(self, settings: RecognizerSettings) -> None:
        """Load the model from a folder or from what was fetched; never from the network.

        Raises:
            ModelError: the model is missing or unfit; the message says what to do.
        """
        self.name = f"vlm:{loading.named(settings.model, settings.adapter)}"
        self.calibration = ""
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._settings = settings
        self.processor, self.model = loading.load(settings)
        self._tiles = attention.Tiles.of(self.model)
        # InternVL's processor cuts pictures up, whatever its image processor is set to.
        cuts = hasattr(self.processor.image_processor, "crop_to_patches")
        self._whole = {"crop_to_patches": False} if cuts else {}
        pictures = 2 if settings.person_view == "both" else 1
        if (shown := self._chat(prompts.WHY).count(self.processor.image_token)) != pictures:
            raise ModelError(
                f"the chat template of {settings.model} shows {shown} of {pictures} pictures: "
                "choose another model"
            )
        self._pictures = pictures
        # A GPU would rather do more work in fewer steps.
        self._by_branch = self.model.device.type == "cpu"
        questions = prompts.questions(settings)
        self.ask_for(questions)
        self._compiled, self._buckets = None, None
        if settings.compile and self._plan:
            self._compiled, self._buckets = (
                attention.Compiled(self.model),
                self._lengths(self._plan),
            )
        self._head: Head | None = None
        if settings.scoring == "head":
            self._head = self._load_head()
        self._at_once: int | None = None
        self._prior: list[FloatArray] | None = None
        relative = settings.subtract_prior and settings.scoring not in ("generate", "head")
        if relative or settings.scoring == "labels":
            self._calibrate()

    def ask_for(self, questions: Sequence[prompts.Question]) -> None:
        """Ask these questions from now on; all but those of `prompts.questions` come last.

        What `assess` reads is not changed by questions that come last; training uses some.
        """
        self._texts = [scoring.continued(self._chat(q.text), q.begun) for q in questions]
        self._answers = scoring.Answers(self.processor.tokenizer, questions, self._texts)
        self._plan = self._packing(self._pictures) if questions else None

    def ask_as(self, settings: RecognizerSettings) -> None:
        """Ask as these settings say from now on, of the model that is loaded."""
        self._settings = settings
        self.ask_for(prompts.questions(settings))

    def logits(self, rounds: Sequence[prompts.Shown]) -> list[torch.Tensor]:
        """For each question (people, answers): how much the model likes each answer, everybody of
        several scenes in one pass, with gradients. What `assess` reads its scores from.

        Raises:
            ValueError: the model cannot be packed.
        """
        if self._plan is None:
            raise ValueError(f"{self.name} cannot be packed, so it cannot be trained on scores")
        return self._answers.likings_with_gradients(self._forward(rounds, self._plan))

    def states(self, rounds: Sequence[prompts.Shown], layers: Sequence[int]) -> torch.Tensor:
        """(people, layers, width): what the language model holds of each person when it is about to
        answer the first question, after these layers, normalised; with gradients.

        Raises:
            ValueError: the model cannot be packed.
        """
        if self._plan is None:
            raise ValueError(f"{self.name} cannot be packed, so its states cannot be read")
        with attention.tapped(self.model, layers) as found:
            places = self._run(rounds, self._plan)[1][:, 0]
        states = torch.stack([found[layer][0, places] for layer in layers], 1).float()
        return torch.nn.functional.layer_norm(states, states.shape[-1:])

    def _load_head(self) -> Head:
        folder = Path(self._settings.adapter or loading.find_folder(self._settings.model))
        if not (folder / "head.json").is_file():
            raise ModelError(
                f"{folder} has no head: train one with `emotion-perception head`, or set "
                "recognizer.scoring to yes_no"
            )
        if self._plan is None:
            raise ModelError("recognizer.scoring = head needs a model that can be packed")
        head = Head.load(folder).to(self.model.device)
        if head.labels != self.labels:
            raise ModelError(f"the head in {folder} knows other labels: train it again")
        return head

    def warm_up(self) -> None:
        """Assess people of a grey picture: one, or each number that is to be compiled."""
        grey = np.full((480, 640, 3), 128, np.uint8)
        person, count = Track("p00000", Box(160, 80, 480, 480), 1.0), 1
        while True:
            self.assess(Scene(Frame(grey, 0, ""), (person,) * count), (person,) * count)
            if not self._compiled or count >= self._settings.compile_people:
                break
            count *= 2

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """One answer for each person, in their order; without scores where the box is no use.

        Raises:
            RecognizerError: the people do not fit into the memory of the device.
        """

        def judge(visible: Sequence[Track]) -> list[Assessment]:
            shown = prompts.show(scene.frame.image, [p.box for p in visible], self._settings)
            with loading.memory_errors(len(visible)):
                return self._judge([p.person_id for p in visible], scene.frame.stamp_ns, shown)

        return assess_visible(scene, people, judge)

    def explain(self, scene: Scene, person: Track) -> str:
        """A short reason, in the model's own words, why this person seems to feel as they do.

        Raises:
            RecognizerError: the person is outside the picture, the memory does not suffice, or the
                model says nothing.
        """
        if not person.box.clipped(scene.frame.width, scene.frame.height).area > 0:
            raise RecognizerError(f"{person.person_id} is outside the picture: {person.box}")
        shown = prompts.show(scene.frame.image, [person.box], self._settings)
        with loading.memory_errors(1):
            words = self._say_why(shown, shown.seen[0])
        if not words:
            raise RecognizerError(
                f"{self.name} has no words for {person.person_id}: ask again, or choose another "
                "recognizer.model"
            )
        return words

    def workload(self, scene: Scene, people: Sequence[Track]) -> packing.Workload:
        """What `assess` would compute for these people in one round; nothing is computed here.

        Raises:
            ValueError: the model cannot be packed, or somebody is outside the picture.
        """
        if self._plan is None:
            raise ValueError(f"{self.name} is asked question by question: there is no packed round")
        shown = prompts.show(scene.frame.image, [p.box for p in people], self._settings)
        grids, looked = self._look(shown.pictures)
        tree, ends = self._plan.grow(grids, shown.seen, self._rule)
        head = self.model.get_output_embeddings().weight
        return packing.Workload(
            patches=self._patches(grids, looked),
            picture_tokens=tuple(grid.rows * grid.columns for grid in grids),
            tokens=len(tree),
            attended=tree.attended,
            answers=ends.size,
            head_rows=len(head) if self._answers.in_words else len(self._answers.ids),
        )

    def close(self) -> None:
        del self.model, self.processor
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _judge(
        self, people: Sequence[str], stamp_ns: int, shown: prompts.Shown
    ) -> list[Assessment]:
        if self._settings.scoring == "generate":
            question = prompts.request(self._settings)
            return [
                scoring.assessment_of_words(
                    name, stamp_ns, self._write(question, shown, seen, prompts.WORDS_OF_AN_ANSWER)
                )
                for name, seen in zip(people, shown.seen, strict=True)
            ]
        if self._head is not None:
            with torch.inference_mode():
                logits, vads = self._head(self.states([shown], [self._head.layer])[:, 0])
            rows = zip(people, logits.sigmoid().cpu().numpy(), vads.cpu().tolist(), strict=True)
            return [Assessment(name, stamp_ns, scores, Vad(*vad)) for name, scores, vad in rows]
        answers = []
        for name, logits, seen in zip(people, self._ask(shown), shown.seen, strict=True):
            scores, vad = self._read(logits)
            why = self._say_why(shown, seen) if self._settings.rationale else ""
            answers.append(Assessment(name, stamp_ns, scores, vad, why or None))
        return answers

    def _chat(self, question: str) -> str:
        """The prompt up to where the answer begins."""
        return self.processor.apply_chat_template(  # type: ignore[no-any-return]
            prompts.messages(self._settings, question), add_generation_prompt=True, tokenize=False
        )

    def _packing(self, pictures: int) -> packing.Plan | None:
        """How the prompts are packed; None where they cannot be, which the log tells."""
        reason = why_not_packed(self.model, self._settings)
        if not reason:
            tokens = self._tokens(pictures)
            prompts_of_sites = [tokens[i] + list(more) for i, more in self._answers.sites]
            picture_token = self.model.config.image_token_id
            try:
                return packing.Plan.of(prompts_of_sites, picture_token, pictures)
            except ValueError as error:
                reason = str(error)
        if self._answers.in_words:
            raise ModelError(
                f"recognizer.scoring = labels needs a model that can be packed, but {reason}: "
                "set it to yes_no or letters"
            )
        log.warning("%s is asked question by question: %s", self.name, reason)
        return None

    def _lengths(self, plan: packing.Plan) -> packing.Buckets:
        """The lengths to compile for: people and scene as large as they can be shown."""
        square = np.zeros((max(self._settings.scene_size, self._settings.crop_size),) * 2, np.uint8)
        picture = np.repeat(square[..., None], 3, axis=2)
        box = Box(0, 0, *picture.shape[:2])
        one, two = (
            len(plan.grow(self._look(shown.pictures)[0], shown.seen, self._rule)[0])
            for shown in (prompts.show(picture, [box] * n, self._settings) for n in (1, 2))
        )
        return packing.Buckets(trunk=2 * one - two, person=two - one)

    @property
    def _rule(self) -> packing.Rule:
        return FAMILIES[self.model.config.model_type]

    def _calibrate(self) -> None:
        """Find out, or read from disk, what the model answers about pictures without content."""
        settings = self._settings
        key = loading.fingerprint(
            loading.find_folder(settings.model), settings, self._texts, self.model.dtype
        )
        self.calibration = f"grey:{key[:8]}"
        file = loading.cache_folder() / "calibration" / f"{key}.npy"
        try:
            logits = np.load(file)
        except (OSError, ValueError):
            grey = np.full((settings.scene_size * 3 // 4, settings.scene_size, 3), 128, np.uint8)
            box = Box(0, 0, settings.scene_size // 4, settings.scene_size // 2)
            try:
                with loading.memory_errors(1):
                    (logits,) = self._ask(prompts.show(grey, [box], settings))
            except RecognizerError as error:
                raise ModelError(str(error)) from error
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, logits)
            except OSError as error:
                log.warning("the calibration cannot be kept for the next start: %s", error)
        self._prior = self._answers.likings(logits)

    def _read(self, logits: FloatArray) -> tuple[FloatArray, Vad]:
        """One person's answers: the labels' probabilities, and the expectations of the digits."""
        likings = self._answers.likings(logits)
        if self._prior is not None:
            likings = [liking - prior for liking, prior in zip(likings, self._prior, strict=True)]
        return scoring.read(likings, self._settings.scoring)

    def _ask(self, shown: prompts.Shown) -> FloatArray:
        """(people, sites, answer tokens): the logits where each answer would begin.

        Where everybody at once does not fit into memory, half of them are asked, and later rounds
        start with so many.
        """
        if self._plan is None:
            return np.stack([self.ask_in_batches(shown, seen) for seen in shown.seen])
        answers: list[FloatArray] = []
        while len(answers) < len(shown.seen):
            start = len(answers)
            count = min(self._at_once or len(shown.seen), len(shown.seen) - start)
            try:
                answers.extend(self._ask_packed(shown.part(start, start + count), self._plan))
                continue
            except (MemoryError, RuntimeError) as error:
                if count == 1 or not loading.is_out_of_memory(error):
                    raise
            self._at_once = count // 2
            log.warning("%d people at once do not fit into memory: %d", count, self._at_once)
            torch.cuda.empty_cache()  # out here, where the error holds no tensors any more
        return np.stack(answers)

    @torch.inference_mode()
    def _ask_packed(self, shown: prompts.Shown, plan: packing.Plan) -> FloatArray:
        """Everything in one pass."""
        return self._forward([shown], plan).cpu().numpy()

    def _forward(self, rounds: Sequence[prompts.Shown], plan: packing.Plan) -> torch.Tensor:
        """(people, sites, answer tokens) of all rounds in one pass."""
        states, ends = self._run(rounds, plan)
        head = self.model.get_output_embeddings().weight
        hidden = states[0, ends.flatten()]
        logits = attention.answer_logits(hidden, head, self._answers.ids, self._answers.in_words)
        return logits.reshape(*ends.shape, -1)

    def _run(
        self, rounds: Sequence[prompts.Shown], plan: packing.Plan
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, S, width) states after the last layer, and (people, sites) places to read at."""
        pictures = [picture for shown in rounds for picture in shown.pictures]
        grids, looked = self._look(pictures)
        tree, found, before = packing.Tree(plan.picture_token, self._rule), [], 0
        for shown in rounds:
            seen = [[number + before for number in numbers] for numbers in shown.seen]
            found.append(plan.grow(grids, seen, self._rule, tree)[1])
            before += len(shown.pictures)
        ends = np.concatenate(found)
        if self._buckets:
            missing = self._buckets.length(len(ends), len(tree)) - len(tree)
            if missing:
                tree.add(np.full(missing, self.processor.tokenizer.pad_token_id))
        ids, positions, places = (
            torch.from_numpy(x).to(self.model.device) for x in (tree.ids, tree.positions, ends)
        )
        with self._attention(tree) as mask:
            states = self.model.model(
                **self._filled(ids[None], looked),
                attention_mask=mask,
                position_ids=positions if len(positions) == 1 else positions[:, None],
                use_cache=False,
            ).last_hidden_state
        return states, places

    @contextmanager
    def _attention(self, tree: packing.Tree) -> Iterator[torch.Tensor]:
        """The mask to call the model with, which meanwhile attends as is best on the device."""
        if not self._compiled:
            with attention.packed_attention(self.model, tree, self._by_branch) as mask:
                yield mask
            return
        device = self.model.device
        sees, segment_of = (torch.from_numpy(x).to(device) for x in (tree.sees, tree.segment_of))
        with self._compiled.in_use():
            place = torch.arange(len(tree), device=device)
            yield packing.block_mask(sees, segment_of, place)[None, None]

    def _look(self, pictures: Sequence[prompts.Picture]) -> tuple[list[packing.Grid], Any]:
        """The tokens of each picture, and what `_filled` puts into their place."""
        images = [Image.fromarray(picture) for picture in pictures]
        if self._tiles:
            return [self._tiles.grid(max(image.size)) for image in images], {"images": images}
        text = "\n".join([self.processor.image_token] * len(images))
        inputs = self.processor(
            text=[text],
            images=[images],
            device=self.model.device,  # where pictures are scaled and normalised
            return_tensors="pt",
            **self._whole,
        )
        looked = {
            name: x.to(self.model.device, self.model.dtype if x.is_floating_point() else x.dtype)
            for name, x in inputs.items()
            if name not in _TEXT_INPUTS
        }
        if "image_grid_thw" not in inputs:
            token = self.model.config.image_token_id
            lengths = packing.runs(inputs["input_ids"][0].tolist(), token)
            return [packing.Grid(1, length) for length in lengths], looked
        merge = self.processor.image_processor.merge_size
        sizes = inputs["image_grid_thw"].tolist()
        return [packing.Grid(h // merge, w // merge) for _, h, w in sizes], looked

    def _patches(self, grids: Sequence[packing.Grid], looked: Any) -> tuple[int, ...]:
        """Of each picture, in the vision tower."""
        if self._tiles:
            across = self.model.config.scale_factor
            return tuple(grid.rows * grid.columns * across**2 for grid in grids)
        if "image_grid_thw" in looked:
            return tuple(looked["image_grid_thw"].prod(-1).tolist())
        *several, _, height, width = looked["pixel_values"].shape
        patch = np.broadcast_to(self.model.config.vision_config.patch_size, 2)
        each = (height // patch[0]) * (width // patch[1]) * math.prod(several) // len(grids)
        return (int(each),) * len(grids)

    def _filled(self, ids: torch.Tensor, looked: Any) -> Any:
        """The arguments of the model for tokens (rows, S), where every row shows these pictures."""
        if not self._tiles:
            return {"input_ids": ids, **looked}
        words = self.model.get_input_embeddings()(ids)
        places = (ids == self.model.config.image_token_id)[..., None]
        features = torch.cat(self._tiles.features(self.processor.image_processor, looked["images"]))
        filling = features.to(words.dtype).repeat(len(ids), 1)
        return {"inputs_embeds": words.masked_scatter(places, filling)}

    def _tokens(self, pictures: int) -> list[list[int]]:
        """The tokens of every question, with as many small pictures before it."""
        small = [Image.new("RGB", (64, 64))] * pictures
        return [self._encode([text], small)["input_ids"][0] for text in self._texts]

    def _encode(self, texts: Sequence[str], pictures: Sequence[Any], **how: Any) -> Any:
        """Questions about the same pictures, as the processor prepares them."""
        bos = self.processor.tokenizer.bos_token
        return self.processor(
            text=list(texts),
            images=[list(pictures)] * len(texts),
            add_special_tokens=not (bos and texts[0].startswith(bos)),
            **self._whole,
            **how,
        )

    def _prepare(self, texts: Sequence[str], pictures: Sequence[prompts.Picture]) -> Any:
        """The arguments of the model for questions about the same pictures, a row each."""
        images = [Image.fromarray(picture) for picture in pictures]
        device, dtype = self.model.device, self.model.dtype
        if not self._tiles:
            inputs = self._encode(texts, images, padding=True, return_tensors="pt")
            return inputs.to(device, dtype)
        token = self.model.config.image_token_id
        grids, looked = self._look(pictures)
        short = (packing.collapse(ids, token) for ids in self._encode(texts, images)["input_ids"])
        rows = [packing.expand(np.asarray(ids), token, grids).tolist() for ids in short]
        padded = self.processor.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(device)
        filled = self._filled(padded["input_ids"], looked)
        return {**filled, "attention_mask": padded["attention_mask"]}

    @torch.inference_mode()
    def ask_in_batches(
        self, shown: prompts.Shown, seen: Sequence[int], questions: int | None = None
    ) -> FloatArray:
        """(sites, answer tokens) about one person, by the stock forward pass of any family.

        Args:
            seen: the numbers of this person's pictures.
            questions: only so many, the first ones.
        """
        texts = self._texts[:questions]
        pictures = [shown.pictures[i] for i in seen]
        rows = []
        for start in range(0, len(texts), QUESTIONS_AT_ONCE):
            inputs = self._prepare(texts[start : start + QUESTIONS_AT_ONCE], pictures)
            out = self.model(**inputs, use_cache=False, logits_to_keep=1)
            rows.append(out.logits[:, -1, self._answers.ids].float().cpu().numpy())
        return np.concatenate(rows)

    def _say_why(self, shown: prompts.Shown, seen: Sequence[int]) -> str:
        return self._write(prompts.WHY, shown, seen, prompts.WORDS_OF_A_REASON)

    @torch.inference_mode()
    def _write(self, question: str, shown: prompts.Shown, seen: Sequence[int], words: int) -> str:
        """What the model writes when it is asked about one person; may be empty."""
        inputs = self._prepare([self._chat(question)], [shown.pictures[i] for i in seen])
        return loading.write(self.model, self.processor.tokenizer, inputs, words)


_TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def why_not_packed(model: Any, settings: RecognizerSettings) -> str:
    """The reason why a model has to be asked question by question; empty: it can be packed."""
    if model.config.model_type not in FAMILIES:
        return f"the family {model.config.model_type} is not known to give the same answers packed"
    if (how := model.config.get_text_config()._attn_implementation) != "sdpa":
        return f"attention by {how} does not take a mask of its own"
    if model.config.model_type == "llava_onevision" and settings.person_view != "both":
        return "LLaVA-OneVision cuts a picture that is alone into tiles, and one of several not"
    return ""

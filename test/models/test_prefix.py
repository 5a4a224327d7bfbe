"""The cached prefix changes no answer, is read once, and is read again when it has to be."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.drawn_people import images

from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.recognizers.vlm import families, forking, prefix
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.testing.checkpoints import vlm as checkpoints

pytestmark = pytest.mark.models

SMALL = {"device": "cpu", "scene_size": 96, "crop_size": 64}
EXACT = 1e-5


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function that returns the checkpoint of a family, built once."""
    root = tmp_path_factory.mktemp("models")

    def folder_of(family):
        if not (root / family).exists():
            checkpoints.save_tiny(family, root / family)
        return root / family

    return folder_of


def load(folder, **changes):
    return VlmModel(recognizer_settings(model=str(folder), **{**SMALL, **changes}))


def logprobs(vlm, logits):
    return np.concatenate([np.concatenate(vlm.answers.answer_logprobs(x)) for x in logits])


def uncached(vlm, prompt_images):
    vlm.keep_prefix = False
    try:
        return vlm.packed_logits(prompt_images)
    finally:
        vlm.keep_prefix = True


def change(vlm, prompt_images):
    """Return the largest difference that the cache makes to an answer log-probability."""
    with_cache = logprobs(vlm, vlm.packed_logits(prompt_images))
    return np.abs(with_cache - logprobs(vlm, uncached(vlm, prompt_images))).max()


def computed_lengths(vlm, call):
    """Return the number of tokens of each pass of the language model during a call."""
    lengths = []
    layer = prefix.attention.language_model(vlm.model).layers[0]
    handle = layer.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    try:
        call()
    finally:
        handle.remove()
    return lengths


@pytest.mark.parametrize("family", families.FAMILIES)
def test_cached_answers_equal_uncached_ones_and_those_of_the_stock_pass(
    folder_of, family, monkeypatch
):
    monkeypatch.setattr(forking, "QUESTIONS_PER_BATCH", 1)  # padding changes the roundings
    vlm = load(folder_of(family))
    for people, height, width in ((1, 77, 131), (9, 90, 160), (2, 160, 90)):
        assert change(vlm, images(vlm, people, height, width)) < EXACT
    prompt_images = images(vlm, 2)
    packed = vlm.packed_logits(prompt_images)[1, :8]
    assert np.abs(packed - vlm.batched_logits(prompt_images, 1, 8)).max() < EXACT
    vlm.by_branch = False
    assert change(vlm, prompt_images) < EXACT


@pytest.mark.parametrize("heads", [1, 4])
def test_answers_are_the_same_with_tied_embeddings_and_other_heads(tmp_path, monkeypatch, heads):
    recipe = checkpoints.RECIPES["qwen3_vl"]
    text = {**recipe.text, "tie_word_embeddings": True, "num_key_value_heads": heads}
    monkeypatch.setitem(checkpoints.RECIPES, "qwen3_vl", dataclasses.replace(recipe, text=text))
    vlm = load(checkpoints.save_tiny("qwen3_vl", tmp_path / "model"))
    assert vlm.model.get_output_embeddings().weight is vlm.model.get_input_embeddings().weight
    prompt_images = images(vlm, 3)
    assert change(vlm, prompt_images) < EXACT
    packed = vlm.packed_logits(prompt_images)[0, :8]
    assert np.abs(packed - vlm.batched_logits(prompt_images, 0, 8)).max() < EXACT


@pytest.mark.parametrize("view", ["crop", "mark"])
def test_text_before_the_only_image_of_a_view_is_cached(folder_of, view):
    vlm = load(folder_of("smolvlm"), person_view=view)
    assert vlm.plan.constant_tokens == len(vlm.plan.trunk) > 100
    assert change(vlm, images(vlm, 3)) < EXACT


def test_prefix_is_read_in_the_first_pass_only(folder_of):
    vlm = load(folder_of("smolvlm"))
    first, second = images(vlm, 1), images(vlm, 3)
    cached = vlm.plan.constant_tokens
    works = [vlm.workload(prompt_images) for prompt_images in (first, second)]

    def two_passes():
        vlm.packed_logits(first)
        vlm.packed_logits(second)

    lengths = computed_lengths(vlm, two_passes)
    assert lengths == [cached, works[0].tokens, works[1].tokens]
    assert [work.cached_tokens for work in works] == [cached, cached]


def test_prefix_takes_the_memory_of_its_keys_and_values_until_the_model_is_closed(folder_of):
    vlm = load(folder_of("smolvlm"))
    for people in (1, 4):
        vlm.packed_logits(images(vlm, people))
    layers = vlm._prefix.cache.layers
    heads, size, tokens = 2, 16, vlm.plan.constant_tokens
    assert {layer.keys.shape for layer in layers} == {(1, heads, tokens, size)}
    held = sum(x.untyped_storage().nbytes() for layer in layers for x in (layer.keys, layer.values))
    assert held == 2 * 4 * heads * size * tokens * 4  # layers, bytes of float32
    vlm.close()
    assert vlm._prefix.cache is None


def test_other_prompts_are_answered_with_their_own_prefix(folder_of):
    vlm = load(folder_of("smolvlm"))
    vlm.packed_logits(images(vlm, 1))
    vlm.set_prompting(dataclasses.replace(vlm.settings, definitions="none"))
    assert change(vlm, images(vlm, 2)) < EXACT


def test_changed_weights_are_answered_with_their_own_prefix(folder_of):
    vlm = load(folder_of("smolvlm"))
    prompt_images = images(vlm, 2)
    before = vlm.packed_logits(prompt_images)
    weights = [p for name, p in vlm.model.named_parameters() if "k_proj" in name]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    sum(x.sum() for x in vlm.answer_logprobs([prompt_images])).backward()
    optimizer.step()
    assert change(vlm, prompt_images) < EXACT
    assert np.abs(vlm.packed_logits(prompt_images) - before).max() > 1e-3


def test_training_reads_the_prefix_itself_with_gradients(folder_of):
    vlm = load(folder_of("smolvlm"))
    prompt_images = images(vlm, 1)
    vlm.packed_logits(prompt_images)
    whole = vlm.workload(prompt_images).tokens + vlm.plan.constant_tokens
    embeddings = vlm.model.get_input_embeddings().weight
    only_in_prefix = sorted(
        set(vlm.plan.trunk[: vlm.plan.constant_tokens].tolist())
        - {t for leaf in vlm.plan.leaves for t in leaf.ids}
        - set(vlm.plan.person.tolist())
    )
    lengths = computed_lengths(
        vlm, lambda: sum(x.sum() for x in vlm.answer_logprobs([prompt_images])).backward()
    )
    assert lengths == [whole]
    assert embeddings.grad[only_in_prefix].abs().max() > 0
    with torch.no_grad():
        assert computed_lengths(vlm, lambda: vlm.answer_logprobs([prompt_images])) == [whole]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert computed_lengths(vlm, lambda: vlm.states([prompt_images], [0])) == [whole]


def test_states_for_a_head_are_the_same(folder_of):
    vlm = load(folder_of("qwen3_vl"))
    prompt_images = images(vlm, 2)
    with torch.inference_mode():
        cached = vlm.states([prompt_images], [0, 3])
        vlm.keep_prefix = False
        assert (cached - vlm.states([prompt_images], [0, 3])).abs().max() < EXACT


IMAGES_FIRST = (
    "{% for m in messages %}{% for kind in ('image', 'text') %}{% for c in m['content'] %}"
    "{% if c['type'] == kind %}{{ c['text'] if kind == 'text' else '<image>;' }}{% endif %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
"""A chat template that puts the images of each message before its words, as LLaVA's own does."""

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
IGNORED_SYSTEM = "{% set messages = messages[-1:] %}"


def with_template(vlm, template):
    vlm.processor.chat_template = template
    vlm.set_prompting(vlm.settings)
    return vlm


@pytest.mark.parametrize("system", [NO_SYSTEM, IGNORED_SYSTEM])
def test_template_with_the_images_first_and_no_system_message_has_no_prefix(folder_of, system):
    vlm = with_template(load(folder_of("llava_onevision")), system + IMAGES_FIRST)
    assert vlm.plan.constant_tokens == 0
    assert all("Scales:" in text for text in vlm.texts)
    prompt_images = images(vlm, 2)
    lengths = computed_lengths(vlm, lambda: vlm.packed_logits(prompt_images))
    assert lengths == [vlm.workload(prompt_images).tokens]


@pytest.mark.parametrize("view", ["both", "mark", "crop"])
@pytest.mark.parametrize("family", ["llava", "qwen3_5"])
def test_template_with_the_images_first_has_the_glossary_in_the_system_message(
    folder_of, family, view, monkeypatch
):
    monkeypatch.setattr(forking, "QUESTIONS_PER_BATCH", 1)
    vlm = load(folder_of(family), person_view=view)
    template = IMAGES_FIRST.replace("<image>", vlm.processor.image_token)
    vlm = with_template(vlm, template)
    assert vlm.texts[0].index("Scales:") < vlm.texts[0].index(vlm.processor.image_token)
    assert vlm.plan is None or vlm.plan.constant_tokens > 300
    prompt_images = images(vlm, 2)
    answers = vlm.answer_logits(prompt_images)[1, :8]
    assert np.abs(answers - vlm.batched_logits(prompt_images, 1, 8)).max() < EXACT


def test_glossary_as_system_message_saves_most_tokens_of_a_person(folder_of):
    template = IMAGES_FIRST.replace(";", "\n")
    vlm = with_template(load(folder_of("llava")), template)
    first = [vlm.workload(images(vlm, n)) for n in (1, 4)]
    with_template(vlm, NO_SYSTEM + template)
    last = [vlm.workload(images(vlm, n)) for n in (1, 4)]
    saved = [1 - x.tokens / y.tokens for x, y in zip(first, last, strict=True)]
    assert saved[0] > 0.4
    assert saved[1] > 0.4


def test_comparison_detects_a_stale_prefix(folder_of, monkeypatch):
    monkeypatch.setattr(prefix, "_weights_key", lambda language_model: ())
    vlm = load(folder_of("smolvlm"))
    prompt_images = images(vlm, 2)
    vlm.packed_logits(prompt_images)
    with torch.no_grad():
        prefix.attention.language_model(vlm.model).layers[0].self_attn.k_proj.weight.mul_(1.1)
    assert change(vlm, prompt_images) > 1e-3


@pytest.mark.parametrize("part", ["ids", "positions"])
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_comparison_detects_a_shifted_prefix(folder_of, monkeypatch, family, part):
    read = prefix.ConstantPrefix.read

    class Shifted:
        def __init__(self, tree):
            self.ids, self.positions = tree.ids, tree.positions
            changed = np.roll(tree.ids, 1) if part == "ids" else tree.positions + 1
            setattr(self, part, changed)

    monkeypatch.setattr(
        prefix.ConstantPrefix,
        "read",
        lambda self, model, tree, length: read(self, model, Shifted(tree), length),
    )
    vlm = load(folder_of(family))
    assert change(vlm, images(vlm, 2)) > 1e-3


def second_half(vlm, prompt_images):
    """Return the answers about the second half of the people, from a pass that reads no scene."""
    half = len(prompt_images.person_images) // 2
    trunk = prefix.SceneTrunk()
    vlm.packed_logits(prompt_images.select(0, half), trunk)
    assert trunk.cache.complete
    return vlm.packed_logits(prompt_images.select(half, 2 * half), trunk)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_second_pass_about_a_scene_gives_the_answers_of_one_pass(folder_of, family):
    vlm = load(folder_of(family))
    if not vlm.keep_scene:
        assert family == "llava_onevision"
        return
    prompt_images = images(vlm, 4, 77, 131)
    expected = logprobs(vlm, vlm.packed_logits(prompt_images)[2:])
    trunk = prefix.SceneTrunk()
    first, second = prompt_images.select(0, 2), prompt_images.select(2, 4)
    vlm.packed_logits(first, trunk)
    (computed,) = computed_lengths(vlm, lambda: vlm.packed_logits(second, trunk))
    work = vlm.workload(second, trunk)
    assert work.tokens == computed < vlm.workload(second).tokens
    assert len(work.patches) == 2
    assert np.abs(logprobs(vlm, second_half(vlm, prompt_images)) - expected).max() < EXACT
    vlm.by_branch = vlm.keep_prefix = False
    assert np.abs(logprobs(vlm, second_half(vlm, prompt_images)) - expected).max() < EXACT


def limit(vlm, people):
    vlm.people_limit.people = people


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl", "llava_onevision"])
def test_split_call_reads_the_scene_once_and_answers_as_one_pass(folder_of, family):
    vlm = load(folder_of(family))
    prompt_images = images(vlm, 5)
    expected = logprobs(vlm, vlm.answer_logits(prompt_images))
    person = vlm.workload(images(vlm, 2)).tokens - vlm.workload(images(vlm, 1)).tokens
    whole = vlm.workload(prompt_images).tokens
    scene = whole - 5 * person
    limit(vlm, 2)
    split = []
    lengths = computed_lengths(vlm, lambda: split.append(vlm.answer_logits(prompt_images)))
    assert np.abs(logprobs(vlm, split[0]) - expected).max() < EXACT
    times_read = 1 if vlm.keep_scene else 3
    assert sum(lengths) == whole + (times_read - 1) * scene


def test_scene_is_not_kept_after_a_call(folder_of):
    vlm = load(folder_of("smolvlm"))
    limit(vlm, 1)
    first, second = images(vlm, 2), images(vlm, 2, 110, 140)
    vlm.answer_logits(first)
    split = logprobs(vlm, vlm.answer_logits(second))
    limit(vlm, None)
    assert np.abs(split - logprobs(vlm, vlm.answer_logits(second))).max() < EXACT


@pytest.mark.parametrize("view", ["crop", "mark"])
def test_split_call_without_a_scene_image_answers_as_one_pass(folder_of, view):
    vlm = load(folder_of("smolvlm"), person_view=view)
    prompt_images = images(vlm, 3)
    expected = logprobs(vlm, vlm.answer_logits(prompt_images))
    limit(vlm, 1)
    assert np.abs(logprobs(vlm, vlm.answer_logits(prompt_images)) - expected).max() < EXACT


def test_scene_is_read_again_after_a_pass_that_failed(folder_of, monkeypatch):
    vlm = load(folder_of("smolvlm"))
    prompt_images = images(vlm, 4)
    expected = logprobs(vlm, vlm.answer_logits(prompt_images))
    limit(vlm, 3)
    run, failures = vlm.model.model.forward, [MemoryError()]

    def fail_once(*args, **kwargs):
        output = run(*args, **kwargs)
        if failures:
            raise failures.pop()
        return output

    monkeypatch.setattr(vlm.model.model, "forward", fail_once)
    assert np.abs(logprobs(vlm, vlm.answer_logits(prompt_images)) - expected).max() < EXACT
    assert not failures


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_states_of_a_layer_are_read_without_the_layers_after_it(folder_of, family):
    vlm = load(folder_of(family))
    prompt_images = images(vlm, 2)
    layers = prefix.attention.language_model(vlm.model).layers
    last = len(layers) - 1
    passes = []
    layers[last].register_forward_pre_hook(lambda *_: passes.append(last))
    with torch.inference_mode():
        of_all = vlm.states([prompt_images], [1, last])
        assert passes
        passes.clear()
        of_one = vlm.states([prompt_images], [1])
    assert not passes
    assert torch.equal(of_one[:, 0], of_all[:, 0])
    # The prefix of a pass through the first layers is of no use to a pass through all.
    assert change(vlm, prompt_images) < EXACT

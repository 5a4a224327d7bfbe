"""BridgeTower and ViLT on real checkpoints with random weights."""

import json
import math
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
from emotion_perception.recognizers import encoders
from emotion_perception.recognizers.encoders import Head
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.testing.checkpoints.encoders import save_bridgetower, save_vilt

pytestmark = pytest.mark.models

SYSTEMS = {"two-stream": save_bridgetower, "single-stream": save_vilt}
ALICE = Track("p00001", Box(10, 10, 90, 118), 0.9)
BOB = Track("p00002", Box(100, 20, 150, 100), 0.8)
CUT = Track("p00003", Box(-40, 30, 30, 200), 0.5)
OUTSIDE = Track("p00004", Box(500, 500, 600, 600), 0.5)
PEOPLE = (ALICE, BOB, CUT)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {system: save(root / system) for system, save in SYSTEMS.items()}


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request):
    return request.param


@pytest.fixture(scope="module")
def recognizer(system, folders):
    return make_recognizer(settings(system, folders[system]))


@pytest.fixture
def copied(system, folders, tmp_path):
    """A copy of the checkpoint that a test may change."""
    return shutil.copytree(folders[system], tmp_path / "model")


def settings(system, model, **changes):
    small = {"device": "cpu", "scene_size": 128}
    return recognizer_settings(name=system, model=str(model), **{**small, **changes})


def scene(seed=0, height=128, width=160):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Scene(Frame(image, 1_000 + seed, "camera"), PEOPLE)


def scores(recognizer, scene, *people):
    return np.stack([a.scores for a in recognizer.assess(scene, people)])


def with_head(folder, labels=EMOTIC_LABELS, width=None, seed=0):
    torch.manual_seed(seed)
    config = json.loads((folder / "config.json").read_text())
    towers = 2 if config["model_type"] == "bridgetower" else 1
    head = Head(width or towers * config["hidden_size"], labels)
    head.save(folder)
    return head


def test_name_labels_and_thresholds(recognizer, system):
    assert recognizer.name == f"{system}:{system}"
    assert recognizer.labels == EMOTIC_LABELS
    assert recognizer.calibration == ""
    np.testing.assert_array_equal(recognizer.thresholds, [0.5] * 26)


def test_scores_do_not_depend_on_the_batch_size(recognizer, monkeypatch):
    once = scores(recognizer, scene(), ALICE, BOB)
    for rows in (1, 7, 100):
        monkeypatch.setattr(encoders, "PAIR_BATCH_SIZE", rows)
        np.testing.assert_allclose(scores(recognizer, scene(), ALICE, BOB), once, atol=1e-5)


def test_assess_neither_reads_nor_changes_the_state_of_the_global_generator(recognizer):
    state = torch.random.get_rng_state()
    first = scores(recognizer, scene(), *PEOPLE)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    np.testing.assert_array_equal(scores(recognizer, scene(), *PEOPLE), first)


def test_each_label_gets_a_score_of_its_own(recognizer):
    (alice,) = scores(recognizer, scene(), ALICE)
    assert len(set(alice.round(6))) > 20


def test_wide_image_is_not_cropped(recognizer):
    wide, other = scene(height=96, width=192), scene(height=96, width=192)
    at_the_edge = Track("p00009", Box(2, 10, 20, 90), 0.9)
    other.frame.image[20:80, 6:16] = 0
    change = scores(recognizer, wide, at_the_edge) - scores(recognizer, other, at_the_edge)
    assert np.abs(change).max() > 1e-3


def test_scores_equal_those_of_transformers(recognizer, system, folders):
    (answer,) = recognizer.assess(scene(), (BOB,))
    (shown,) = recognizer.prepare(scene().frame.image, [BOB.box])
    if system == "two-stream":
        assert shown.shape == (128, 128, 3)
        auto = transformers.BridgeTowerForImageAndTextRetrieval
    else:
        assert shown.shape == (102, 128, 3)
        auto = transformers.ViltForImageAndTextRetrieval
    assert (shown == (255, 0, 0)).all(-1).sum() > 100
    processor = transformers.AutoProcessor.from_pretrained(folders[system])
    model = auto.from_pretrained(folders[system]).eval()
    logits = []
    for label in EMOTIC_LABELS:
        sentence = f"The person in the red box feels {label.replace('/', ' or ')}."
        inputs = processor(Image.fromarray(shown), sentence, return_tensors="pt")
        with torch.inference_mode():
            logits.append(model(**inputs).logits[0].double())
    logits = torch.stack(logits)
    if system == "two-stream":
        expected = logits.softmax(1)[:, 1]
    else:
        fits = logits[:, 0].exp()
        expected = torch.stack([f / (f + (fits.sum() - f) / 25) for f in fits])
    np.testing.assert_allclose(answer.scores, expected, atol=1e-5)
    assert answer.vad is None


def test_bfloat16_gives_similar_scores(system, folders, recognizer):
    coarse = make_recognizer(settings(system, folders[system], dtype="bfloat16"))
    difference = scores(coarse, scene(), ALICE, BOB) - scores(recognizer, scene(), ALICE, BOB)
    assert 0 < np.abs(difference).max() < 0.1


def test_vilt_uses_all_patches_whatever_its_config_says(tmp_path, folders):
    limited = make_recognizer(
        settings("single-stream", save_vilt(tmp_path / "limited", max_image_length=5))
    )
    unlimited = make_recognizer(settings("single-stream", folders["single-stream"]))
    for person in (ALICE, BOB):
        np.testing.assert_allclose(
            scores(limited, scene(), person), scores(unlimited, scene(), person), atol=1e-5
        )


def test_head_replaces_the_label_sentences(copied, system):
    head = with_head(copied)
    recognizer = make_recognizer(settings(system, copied))
    assert recognizer.name == f"{system}:{copied.parent.name}/model+head"
    rows = []
    hook = recognizer.model.base_model.register_forward_pre_hook(
        lambda _, args, named: rows.append(len(named["input_ids"])), with_kwargs=True
    )
    answers = recognizer.assess(scene(), (*PEOPLE, OUTSIDE))
    hook.remove()
    assert rows == [3]
    assert answers[3].reason == "outside the image"
    processor = transformers.AutoProcessor.from_pretrained(copied)
    for person, answer in zip(PEOPLE, answers, strict=False):
        (shown,) = recognizer.prepare(scene().frame.image, [person.box])
        words = "The person in the red box feels something."
        inputs = processor(Image.fromarray(shown), words, return_tensors="pt")
        with torch.inference_mode():
            pooled = recognizer.model.base_model(**inputs).pooler_output
            logits, vad = head(pooled)
        np.testing.assert_allclose(answer.scores, logits[0].sigmoid(), atol=1e-5)
        np.testing.assert_allclose(answer.vad, vad[0], atol=1e-5)
        assert pooled.shape == (1, recognizer.width)
    alice, bob = (np.array(a.scores) for a in answers[:2])
    assert np.abs(alice - bob).max() > 1e-3


def test_head_scores_do_not_depend_on_order_and_batch_size(copied, system, monkeypatch):
    with_head(copied)
    recognizer = make_recognizer(settings(system, copied))
    once = recognizer.assess(scene(), PEOPLE)
    again = recognizer.assess(scene(), PEOPLE)
    monkeypatch.setattr(encoders, "PAIR_BATCH_SIZE", 2)
    turned = recognizer.assess(scene(), PEOPLE[::-1])[::-1]
    for a, b, c in zip(once, again, turned, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
        assert a.vad == b.vad
        np.testing.assert_allclose(a.scores, c.scores, atol=1e-5)
        np.testing.assert_allclose(a.vad, c.vad, atol=1e-5)


def test_head_defines_the_labels(copied, system):
    with_head(copied, labels=("happy", "sad"))
    recognizer = make_recognizer(settings(system, copied))
    assert recognizer.labels == ("happy", "sad")
    assert recognizer.thresholds.shape == (2,)
    assert scores(recognizer, scene(), ALICE).shape == (1, 2)


def test_saved_head_predicts_as_before(tmp_path):
    torch.manual_seed(0)
    head = Head(8)
    head.save(tmp_path / "new")
    again, pooled = Head.load(tmp_path / "new"), torch.randn(3, 8)
    assert again.labels == EMOTIC_LABELS
    for before, after in zip(head(pooled), again(pooled), strict=True):
        assert torch.equal(before, after)
    logits, vad = head(100 * pooled)
    assert (logits.shape, vad.shape) == ((3, 26), (3, 3))
    assert vad.abs().max() <= 1


def test_images_of_several_sizes_share_a_batch(recognizer):
    narrow, wide = scene(1, height=128, width=96), scene(2, height=100, width=160)
    images = [
        *recognizer.prepare(narrow.frame.image, [ALICE.box]),
        *recognizer.prepare(wide.frame.image, [ALICE.box, BOB.box]),
    ]
    with torch.inference_mode():
        together = recognizer.pooled(images)
        alone = torch.cat([recognizer.pooled([image]) for image in images])
    assert together.shape == (3, recognizer.width)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_head_and_encoder_train_with_the_serving_path(copied, system):
    recognizer = make_recognizer(settings(system, copied))
    images = [p for i in range(4) for p in recognizer.prepare(scene(i).frame.image, [ALICE.box])]
    labels = (torch.rand(4, 26, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    head = Head(recognizer.width)
    weights = [*recognizer.model.base_model.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=3e-3)
    losses = []
    for _ in range(40):
        logits, _ = head(recognizer.pooled(images))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    recognizer.model.save_pretrained(copied)
    head.save(copied)
    served = make_recognizer(settings(system, copied))
    predicted = np.concatenate([scores(served, scene(i), ALICE) for i in range(4)])
    assert ((predicted > 0.5) == labels.numpy().astype(bool)).all()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: with_head(f, width=7), "the head in .* takes 7 numbers and the encoder outputs"),
        (lambda f: (f / "head.json").unlink(), r"cannot use the head in .*head\.json"),
        (lambda f: (f / "head.safetensors").unlink(), "cannot use the head in"),
        (lambda f: (f / "head.safetensors").write_bytes(b"weights"), "cannot use the head in"),
        (
            lambda f: (f / "head.json").write_text('{"width": 8, "labels": ["a"]}'),
            "are of two heads",
        ),
        (lambda f: (f / "head.json").write_text("{}"), "cannot use the head in"),
        (lambda f: (f / "head.json").write_text("{"), "cannot use the head in"),
    ],
)
def test_unusable_head_is_an_error(copied, system, spoil, reason):
    with_head(copied)
    spoil(copied)
    with pytest.raises(ModelError, match=reason):
        make_recognizer(settings(system, copied))


def test_other_architecture_is_an_error_with_an_example(folders):
    with pytest.raises(
        ModelError,
        match="is a model of type vilt, and two-stream takes bridgetower: set recognizer.model to "
        "one, such as BridgeTower/bridgetower-base-itm-mlm",
    ):
        make_recognizer(settings("two-stream", folders["single-stream"]))
    with pytest.raises(ModelError, match=r"single-stream takes vilt: .* dandelin/vilt"):
        make_recognizer(settings("single-stream", folders["two-stream"]))


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("config.json", r"no config\.json"),
        ("model.safetensors", "no weights as safetensors"),
        ("processor_config.json", "cannot use the processor of .* for images and texts"),
        ("tokenizer.json", "cannot use the processor of .* for images and texts"),
    ],
)
def test_missing_file_is_an_error_with_the_remedy(copied, system, lost, reason):
    (copied / lost).unlink()
    if lost == "tokenizer.json":
        (copied / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=f"{reason}.*[:;] (choose|fetch|set)"):
        make_recognizer(settings(system, copied))


def test_checkpoint_without_matching_head_is_an_error(system, folders, copied):
    bare = transformers.AutoModel.from_pretrained(folders[system])
    bare.save_pretrained(copied)
    with pytest.raises(ModelError, match="lack 2 tensors of .*ForImageAndTextRetrieval"):
        make_recognizer(settings(system, copied))


def test_label_as_probable_as_the_others_has_score_one_half():
    odds = encoders.scoring.LABEL_LOG_ODDS["labels"]([np.zeros(26)])
    np.testing.assert_allclose(odds, 0, atol=1e-12)
    assert math.isclose(torch.from_numpy(odds).sigmoid()[0], 0.5)

"""The two-stream baseline on random weights, small enough to train here."""

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.cnn import EmoticCnn, loss
from emotion_perception.recognizers.registry import make_recognizer

pytestmark = pytest.mark.models

ALICE = Track("p00001", Box(10, 10, 90, 118), 0.9)
BOB = Track("p00002", Box(100, 20, 150, 100), 0.8)
CUT = Track("p00003", Box(-40, 30, 30, 200), 0.5)
OUTSIDE = Track("p00004", Box(500, 500, 600, 600), 0.5)
PEOPLE = (ALICE, BOB, CUT)
SMALL = {"context_size": 64, "body_size": 32}
NAN = math.nan


def small(seed=0, **changes):
    torch.manual_seed(seed)
    return EmoticCnn(**{**SMALL, **changes}).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "kosti"
    small().save(folder)
    return folder


@pytest.fixture(scope="module")
def recognizer(folder):
    return make_recognizer(settings(folder))


def settings(folder):
    return recognizer_settings(name="emotic-cnn", model=str(folder), device="cpu")


def scene(seed=0, height=128, width=160):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Scene(Frame(image, 1_000 + seed, "camera"), PEOPLE)


def numbers(recognizer, scene, *people):
    """Return (N, 29): the scores, then valence, arousal and dominance."""
    return np.stack([[*a.scores, *a.vad] for a in recognizer.assess(scene, people)])


def test_name_labels_and_thresholds(recognizer):
    assert recognizer.name == "emotic-cnn:kosti"
    assert recognizer.labels == EMOTIC_LABELS
    assert recognizer.calibration == ""
    np.testing.assert_array_equal(recognizer.thresholds, [0.5] * 26)


def test_scene_image_is_processed_once_for_all_people(recognizer):
    shapes = []
    network = recognizer.model
    hooks = [
        stream.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
        for stream in (network.context, network.body)
    ]
    recognizer.assess(scene(), PEOPLE)
    for hook in hooks:
        hook.remove()
    assert shapes == [(1, 3, 64, 64), (3, 3, 32, 32)]


def test_scores_equal_those_of_the_torchvision_networks(recognizer):
    network = recognizer.model
    context, body = network.prepare(scene().frame.image, [BOB.box])
    features = []
    for mine, inputs in ((network.context, context), (network.body, body)):
        stock = torchvision.models.resnet18()
        odd = stock.load_state_dict(mine.state_dict(), strict=False)
        assert set(odd.missing_keys) == {"fc.weight", "fc.bias"}
        stock.fc = torch.nn.Identity()
        features.append(stock.eval()(inputs))
    with torch.inference_mode():
        fused = network.fuse[1](network.fuse[0](torch.cat(features, 1))).relu()
        expected = torch.cat([network.labels(fused).sigmoid(), network.vad(fused).tanh()], 1)
    np.testing.assert_allclose(numbers(recognizer, scene(), BOB), expected, atol=1e-6)


def test_shared_context_equals_one_context_per_person(recognizer):
    network = recognizer.model
    context, body = network.prepare(scene().frame.image, [p.box for p in PEOPLE])
    with torch.inference_mode():
        for once, each in zip(
            network(context, body), network(context.repeat(3, 1, 1, 1), body), strict=True
        ):
            np.testing.assert_allclose(once, each, atol=1e-5)


def test_images_are_normalised_by_the_statistics_of_emotic():
    image = np.empty((100, 200, 3), np.uint8)
    image[:, :100], image[:, 100:] = (255, 0, 0), (0, 102, 255)
    left, right = Box(0, 0, 100, 100), Box(100, 50, 200, 100)
    context, body = EmoticCnn().prepare(image, [left, right])
    assert context.shape == (1, 3, 224, 224)
    assert body.shape == (2, 3, 128, 128)
    assert context.dtype == body.dtype == torch.float32
    mean, deviation = [0.4690646, 0.4407227, 0.40508908], [0.2514227, 0.24312855, 0.24266963]
    for column, colour in ((0, [1, 0, 0]), (-1, [0, 0.4, 1])):
        expected = (np.array(colour) - mean) / deviation
        np.testing.assert_allclose(context[0, :, 100, column], expected, rtol=1e-5)
    mean, deviation = [0.43832874, 0.3964344, 0.3706214], [0.24784276, 0.23621225, 0.2323653]
    for person, colour in zip(body, ([1, 0, 0], [0, 0.4, 1]), strict=True):
        expected = (np.array(colour) - mean) / deviation
        np.testing.assert_allclose(person.mean((1, 2)), expected, rtol=1e-4)
        np.testing.assert_allclose(person.std((1, 2)), 0, atol=1e-4)


def test_prepare_takes_no_people_and_rejects_a_box_outside_the_image():
    context, body = small().prepare(scene().frame.image, [])
    assert (context.shape, body.shape) == ((1, 3, 64, 64), (0, 3, 32, 32))
    with pytest.raises(ValueError, match="outside the image of 160 x 128"):
        small().prepare(scene().frame.image, [OUTSIDE.box])


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_saved_network_predicts_as_before(tmp_path, backbone):
    network = small(backbone=backbone, context_size=48)
    network.save(tmp_path / "new" / "folder")
    again = EmoticCnn.load(tmp_path / "new" / "folder")
    assert (again.backbone, again.context_size, again.body_size) == (backbone, 48, 32)
    inputs = network.prepare(scene().frame.image, [ALICE.box, BOB.box])
    with torch.inference_mode():
        for before, after in zip(network(*inputs), again(*inputs), strict=True):
            assert torch.equal(before, after)
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert config["kind"] == "emotic-cnn"


REMEDY = "set recognizer.model to a folder with a trained emotic-cnn"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "config.json").unlink(), r"no config\.json"),
        (lambda f: (f / "model.safetensors").unlink(), r"no model\.safetensors"),
        (lambda f: (f / "config.json").write_text('{"model_type": "vilt"}'), "of type vilt"),
        (lambda f: (f / "config.json").write_text("{}"), "of type None"),
        (lambda f: (f / "config.json").write_text("{"), "its config.json is invalid"),
        (lambda f: (f / "config.json").write_text("[]"), "its config.json is invalid"),
        (lambda f: configure(f, backbone="vgg"), "no 'vgg': choose one of resnet18, resnet50"),
        (lambda f: configure(f, body_size="big"), "its config.json is invalid"),
        (lambda f: configure(f, body_size=8), "32 is the smallest size"),
        (lambda f: configure(f, body_size=10**9), "4096 the largest"),
        (lambda f: configure(f, body_size=10**400), "too large"),
        (lambda f: (f / "config.json").write_text("[" * 10**5), "more than 64 levels deep"),
        (lambda f: configure(f, colour="grey"), "unexpected keyword argument 'colour'"),
        (lambda f: configure(f, backbone="resnet50"), "do not match its config.json .*Missing key"),
        (lambda f: (f / "model.safetensors").write_bytes(b"weights"), "damaged"),
    ],
)
def test_unusable_folder_is_an_error_with_the_remedy(tmp_path, change, reason):
    small().save(tmp_path)
    change(tmp_path)
    with pytest.raises(ModelError, match=f"{reason}.*{REMEDY}") as error:
        make_recognizer(settings(tmp_path))
    assert str(tmp_path) in str(error.value)


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_hub_name_is_an_error_with_the_remedy():
    with pytest.raises(ModelError, match=f"Qwen/Qwen3-VL-2B-Instruct as emotic-cnn.*{REMEDY}"):
        make_recognizer(recognizer_settings(name="emotic-cnn", device="cpu"))


def test_label_loss_is_the_weighted_euclidean_loss():
    labels = torch.zeros(2, 26)
    labels[:, 0], labels[0, 1] = 1, 1  # label 0: all people, label 1: half, others: none
    logits = torch.zeros(2, 26)
    unknown = torch.full((2, 3), NAN)
    weights = [1 / math.log(2.2), 1 / math.log(1.7), *[1 / math.log(1.2)] * 24]
    expected = sum(weights) * 0.25 / 26
    for truth in (labels, labels.bool()):
        value = loss(logits, torch.zeros(2, 3), truth, unknown)
        assert value.item() == pytest.approx(expected, rel=1e-6)


def test_vad_loss_becomes_absolute_at_one_point_of_the_scale():
    logits = torch.full((1, 26), -100.0)  # nothing is there, and nothing is seen
    truth = torch.zeros(1, 3)
    half_a_point, two_points = 0.5 / 4.5, 2 / 4.5
    vad = torch.tensor([[half_a_point, 0.0, -two_points]])
    value = loss(logits, vad, torch.zeros(1, 26), truth)
    assert value.item() == pytest.approx((0.5 * 0.25 + 0 + 1.5) / 3, rel=1e-5)


def test_unknown_vad_adds_nothing_to_the_loss_and_its_gradient():
    logits, labels = torch.zeros(2, 26), torch.zeros(2, 26)
    vad = torch.tensor([[0.9, 0.1, 0.2], [0.3, -0.9, 0.4]], requires_grad=True)
    truth = torch.tensor([[NAN, 0.3, 0.0], [0.1, NAN, NAN]])
    value = loss(logits, vad, labels, truth)
    value.backward()
    assert (vad.grad != 0).tolist() == [[False, True, True], [True, False, False]]
    other = torch.tensor([[-0.9, 0.1, 0.2], [0.3, 0.7, -0.4]])
    assert loss(logits, other, labels, truth).item() == pytest.approx(value.item())
    vad.grad = None
    loss(logits.requires_grad_(), vad, labels, torch.full((2, 3), NAN)).backward()
    assert torch.isfinite(logits.grad).all()
    assert (vad.grad == 0).all()


def test_loss_does_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    batch = torch.randn(4, 26), torch.rand(4, 3), torch.randint(2, (4, 26)), torch.rand(4, 3)
    twice = [torch.cat([part, part]) for part in batch]
    assert loss(*twice).item() == pytest.approx(loss(*batch).item(), rel=1e-6)


def test_network_overfits_four_images():
    random = np.random.default_rng(5)
    network = small(context_size=32)
    inputs = [network.prepare(scene(i).frame.image, [ALICE.box]) for i in range(4)]
    context, body = (torch.cat(parts) for parts in zip(*inputs, strict=True))
    labels = torch.from_numpy(random.random((4, 26)) < 0.3)
    truth = torch.from_numpy(random.uniform(-0.8, 0.8, (4, 3))).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, fused=True)

    def now():
        with torch.inference_mode():
            logits, vad = network.eval()(context, body)
        network.train()
        return loss(logits, vad, labels, truth).item(), logits > 0, vad

    before, _, _ = now()
    for _ in range(60):
        optimizer.zero_grad()
        loss(*network(context, body), labels, truth).backward()
        optimizer.step()
    after, predicted, vad = now()
    assert after < before / 4
    assert torch.equal(predicted, labels)
    assert (vad - truth).abs().max() < 0.5

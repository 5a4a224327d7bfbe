"""Every system of the paper's table that needs a model, on a small data set of the toy world."""

import os
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy.io")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from polars.testing import assert_frame_equal
from support.evaluation import (
    check_runs,
    evaluate,
    evaluate_installed,
    read_metrics,
    read_table,
    write_toy_emotic,
)

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run
from emotion_perception.evaluation.system_run import system_settings
from emotion_perception.evaluation.systems import SYSTEMS
from emotion_perception.recognizers.registry import RECOGNIZERS

pytestmark = pytest.mark.models

GENERATE = ("--decoding", "generate")
SCENE = ("-p", "scene_size:=128")
SMALL = (*SCENE, "-p", "crop_size:=64")
READER = ("--text-model", "{text}")

ROWS = {
    "clip": ("--model", "{clip}"),
    "vlm": ("--model", "{vlm}", *SMALL),
    "vlm*": ("--model", "{vlm}", *SMALL),
    "vlm-ours": ("--model", "{vlm}", *SMALL),
    "narracap": ("--model", "{clip}", *READER),
    "llm": ("--captions", "{captions}", *READER),
    "caption": ("--model", "{blip}", *READER),
    "emotic-cnn": ("--model", "{cnn}"),
    "face": (),
    "remote": ("--model", "m", "-p", "remote.url:={url}", *SMALL),
    "remote*": ("--model", "m", "-p", "remote.url:={url}", *SMALL),
    "vlm-f": ("--model", "{vlm}", "--adapter", "{vlm_adapter}", *SMALL),
    "llm-f": ("--captions", "{captions}", "--adapter", "{text_adapter}", *READER),
    "two-stream": ("--model", "{bridgetower}", *SCENE),
    "single-stream": ("--model", "{vilt}", *SCENE),
}
CHANCE = ("majority", "rand6", "rand6-weighted")
"""Systems without a model, see test/unit/evaluation/test_chance_systems.py."""
GENERATING = ("vlm", "vlm*", "vlm-ours", "llm", "remote", "remote*")
"""Systems that are also evaluated with generated labels."""


def test_every_system_is_tested():
    assert {*ROWS, *CHANCE} == set(SYSTEMS)


@pytest.fixture(scope="module")
def toy_emotic(tmp_path_factory):
    """A small data set; the first face is a photograph, since drawn faces are not detected."""
    root = write_toy_emotic(tmp_path_factory.mktemp("emotic"))
    if find_spec("ultralytics"):
        from emotion_perception.testing.checkpoints.yolo import photograph

        first = emotic.load(root, "test").images[0]
        image = cv2.imread(str(first.path))
        rows, columns = first.people[0].box.pixels(*image.shape[1::-1])
        height, width = image[rows, columns].shape[:2]
        face = cv2.imread(str(photograph("zidane.jpg")))
        half = 230 * width // height
        face = face[20:480, max(1075 - half, 0) : 1075 + half]
        image[rows, columns] = cv2.resize(face, (width, height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(first.path), image)
    return root


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, toy_emotic):
    """A tiny random model of each kind, by the names in `ROWS`."""
    from emotion_perception.recognizers.cnn import EmoticCnn
    from emotion_perception.recognizers.vlm import loading
    from emotion_perception.testing.checkpoints.clip import save_blip, save_clip
    from emotion_perception.testing.checkpoints.encoders import save_bridgetower, save_vilt
    from emotion_perception.testing.checkpoints.text import save_tiny_text
    from emotion_perception.testing.checkpoints.vlm import save_tiny

    root = tmp_path_factory.mktemp("models")
    paths = {
        "clip": save_clip(root / "clip"),
        "blip": save_blip(root / "blip"),
        "vlm": raise_label_logits(save_tiny("smolvlm", root / "vlm")),
        "text": raise_label_logits(save_tiny_text("qwen3", root / "text")),
        "bridgetower": save_bridgetower(root / "bridgetower"),
        "vilt": save_vilt(root / "vilt"),
        "cnn": root / "cnn",
        "captions": root / "captions.csv",
    }
    torch.manual_seed(0)
    EmoticCnn(context_size=64, body_size=32).save(paths["cnn"])
    people = emotic.load(toy_emotic, "test").people
    lines = [f"{p.key},A person of {p.box.height:.0f} pixels who waits." for p in people]
    paths["captions"].write_text("\n".join(["key,caption", *lines]))
    vlm = recognizer_settings("vlm", model=str(paths["vlm"]), device="cpu")
    text = recognizer_settings("llm", text_model=str(paths["text"]), device="cpu")
    for name, load, settings in (
        ("vlm", loading.load_vlm, vlm),
        ("text", loading.load_text_model, text),
    ):
        _, model = load(settings)
        paths[f"{name}_adapter"] = save_adapter(model, root / f"{name}_adapter")
    return paths


def raise_label_logits(folder):
    """Change a random model so that it mostly generates names of labels."""
    import transformers
    from safetensors.torch import load_file, save_file

    vocabulary = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    tokens = [f"Ġ{label}" for label in EMOTIC_LABELS]
    rows = [vocabulary[token] for token in tokens if token in vocabulary]
    assert len(rows) > 20
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][rows] *= 4
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_adapter(model, folder):
    layers = r".*(language_model|text_model|model)\.layers\.\d+\.self_attn\.[qv]_proj"
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=layers, r=2))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url():
    """A server that returns log-probabilities, or a text if the request does not ask for them."""
    pytest.importorskip("openai")
    from support import fake_server

    def reply(body):
        if body.get("logprobs"):
            return fake_server.default_reply(fake_server.last_text(body))
        return fake_server.text_reply("Happiness, engagement. Not fearful, but some displeasure.")

    with fake_server.running() as server, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OPENAI_")]:
            patch.delenv(name)
        patch.setenv("NO_PROXY", "127.0.0.1")
        server.respond = reply
        yield server.url


@pytest.fixture(scope="module")
def arguments_of(request, toy_emotic):
    """A function that returns the arguments of the command for a system."""

    def arguments(name):
        words = " ".join(ROWS[name])
        values = dict(request.getfixturevalue("checkpoints")) if "{" in words else {}
        if "{url}" in words:
            values["url"] = request.getfixturevalue("url")
        options = [option.format(**values) for option in ROWS[name]]
        reads_device = RECOGNIZERS[SYSTEMS[name].settings["name"]].reads("device")
        device = ["-p", "device:=cpu"] if reads_device else []
        return ["system", name, "--root", toy_emotic, *device, *options]

    return arguments


@pytest.fixture(scope="module")
def run_of(arguments_of, tmp_path_factory):
    """A function that evaluates a system, once for equal arguments, and returns the run folder."""
    root, folders = tmp_path_factory.mktemp("runs"), {}

    def run(name, *options, repetition=0):
        key = (name, options, repetition)
        if key not in folders:
            if name == "face":
                for library in ("keras", "h5py", "facenet_pytorch", "fer", "ultralytics"):
                    if find_spec(library) is None:
                        pytest.skip(f"{library} is not installed")
            folder = root / f"{name.replace('*', '-star')}{len(options)}{repetition}"
            assert evaluate(*arguments_of(name), *options, "--out", folder) == 0
            folders[key] = folder
        return folders[key]

    return run


@pytest.mark.parametrize(
    ("name", "decoding"),
    [
        *(pytest.param(name, (), id=name) for name in ROWS),
        *(pytest.param(name, GENERATE, id=f"{name}-generate") for name in GENERATING),
    ],
)
def test_system_covers_all_people_and_is_repeatable(run_of, toy_emotic, name, decoding):
    folder, again = run_of(name, *decoding), run_of(name, *decoding, repetition=1)
    people = emotic.load(toy_emotic, "test").people
    check_runs(folder, again, people, has_scores=not decoding, all_assessed=name != "face")
    assert ("decisions_as_in_paper" in read_metrics(folder)) == bool(decoding)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("vlm", "vlm*"),
        ("vlm", "vlm-ours"),
        ("vlm", "vlm-f"),
        ("remote", "vlm-ours"),
        ("llm", "llm-f"),
        ("llm", "narracap"),
        ("narracap", "caption"),
        ("clip", "narracap"),
        ("two-stream", "single-stream"),
        ("emotic-cnn", "clip"),
        ("remote", "vlm"),
    ],
)
def test_systems_differ(run_of, first, second):
    scores = [np.array(read_table(run_of(name))["scores"].to_list()) for name in (first, second)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_starred_system_asks_for_six_labels_with_definitions(url, toy_emotic):
    from support import fake_server

    from emotion_perception.recognizers.registry import make_recognizer

    requests = {}
    scene = emotic.load(toy_emotic, "test").images[0].scene()
    with fake_server.running() as server:
        server.respond = lambda body: fake_server.text_reply("Peace")
        for name in ("remote", "remote*"):
            settings = system_settings(name, {"model": "m", "remote.url": server.url}, True)
            recognizer = make_recognizer(settings)
            recognizer.assess(scene, scene.people[:1])
            recognizer.close()
            requests[name] = fake_server.last_text(server.chats[-1])
    assert "pick the top labels that the person in the red bounding box" in requests["remote"]
    assert "physical suffering" not in requests["remote"]
    assert "pick the six labels" in requests["remote*"]
    assert "physical suffering" in requests["remote*"]


@pytest.mark.parametrize("name", ["narracap", "caption"])
def test_llm_gives_the_same_scores_for_the_captions_of_a_run(run_of, arguments_of, tmp_path, name):
    captions = run_of(name) / "captions.csv"
    assert evaluate(*arguments_of("llm"), "--captions", captions, "--out", tmp_path) == 0
    scores = [np.array(read_table(f)["scores"].to_list()) for f in (tmp_path, run_of(name))]
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_labels_of_generated_texts_are_extracted_in_both_ways(run_of):
    run = Run.read(run_of("remote", *GENERATE))
    assert set(run.table["words"]) == {"Happiness, engagement. Not fearful, but some displeasure."}
    labels = [EMOTIC_LABELS[i] for i in np.flatnonzero(run.predicted[0])]
    assert labels == ["engagement", "happiness"]
    labels = [EMOTIC_LABELS[i] for i in np.flatnonzero(run.predicted_as_in_paper[0])]
    assert labels == ["engagement", "fear", "pleasure"]


def test_installed_command_has_the_same_results(run_of, arguments_of, tmp_path):
    evaluate_installed(tmp_path, *arguments_of("vlm"), "--out", tmp_path / "run")
    assert_frame_equal(read_table(tmp_path / "run"), read_table(run_of("vlm")))

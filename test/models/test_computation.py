"""The live node computes in the way that is fastest here; batch commands as their settings say."""

import json
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.perception import devices
from emotion_perception.recognizers import computation
from emotion_perception.recognizers.base import grey_scene
from emotion_perception.recognizers.computation import explicit, make_live_recognizer
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.testing.checkpoints.vlm import save_tiny
from emotion_perception.testing.fakes import FakeRecognizer

pytestmark = pytest.mark.models

EAGER_32, EAGER_16 = ("float32", False), ("bfloat16", False)
COMPILED_32, COMPILED_16 = ("float32", True), ("bfloat16", True)


class Machine:
    """Recognizers on a fake clock: a round takes `base` seconds times a factor that is given.

    Args:
        factors: (dtype, compile) to the factors of its rounds in turn, the last one repeated, or to
            an error of its warm-up.
    """

    def __init__(self, factors):
        self.factors = {
            way: value if isinstance(value, list) else [value] for way, value in factors.items()
        }
        self.now, self.base = 0.0, 10.0
        self.made, self.people = {}, []

    def make(self, settings):
        machine, factors = self, list(self.factors[settings.dtype, settings.compile])

        class Timed(FakeRecognizer):
            def warm_up(self):
                if isinstance(factors[0], Exception):
                    raise factors[0]

            def assess(self, scene, people):
                machine.people.append(len(people))
                machine.now += machine.base * (factors.pop(0) if len(factors) > 1 else factors[0])
                return super().assess(scene, people)

        recognizer = self.made[settings.dtype, settings.compile] = Timed()
        return recognizer

    def choose(self, settings):
        """Return how the recognizer of the live node computes."""
        self.made.clear()
        self.people.clear()
        recognizer = make_live_recognizer(settings, self.make, lambda: self.now)
        (way,) = [way for way, made in self.made.items() if made is recognizer]
        assert not recognizer.closed
        assert all(made.closed for other, made in self.made.items() if other != way)
        return way


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder of a model, with an empty cache on a CPU that has arithmetic in bfloat16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(computation, "computes_bfloat16", lambda: True)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def settings(folder, **changes):
    return recognizer_settings(model=str(folder), **{"device": "cpu", **changes})


def test_faster_number_format_is_chosen_and_logged(model, caplog):
    caplog.set_level(logging.INFO)
    assert Machine({EAGER_32: 1, EAGER_16: 0.6}).choose(settings(model)) == EAGER_16
    assert (
        "recognizer.dtype = bfloat16: a round takes 10 s with float32 and 6 s with bfloat16"
        in caplog.text
    )


@pytest.mark.parametrize("other", [1.5, 0.96, [0.5, 0.5, 1.01]])
def test_gain_within_the_noise_is_no_reason_to_change(model, other):
    assert Machine({EAGER_32: 1, EAGER_16: other}).choose(settings(model)) == EAGER_32


def test_compilation_is_chosen_only_where_it_is_faster_for_few_and_many_people(model):
    machine = Machine({EAGER_32: 1, COMPILED_32: 0.9})
    wish = settings(model, compile=True, compile_people=3, dtype="float32")
    assert machine.choose(wish) == COMPILED_32
    assert set(machine.people) == {1, 3}
    slow_for_many = Machine({EAGER_32: 1, COMPILED_32: [0.5, 0.5, 0.5, 1.1]})
    other_model = settings(model, compile=True, compile_people=4, dtype="float32")
    assert slow_for_many.choose(other_model) == EAGER_32


def test_compilation_is_measured_in_the_chosen_number_format(model):
    machine = Machine({EAGER_32: 1, EAGER_16: 0.6, COMPILED_16: 0.5})
    assert machine.choose(settings(model, compile=True)) == COMPILED_16
    assert not settings(model).compile  # otherwise each first start would take minutes


def test_choice_is_kept_for_machine_model_and_settings(model, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    machine = Machine({EAGER_32: 1, EAGER_16: 0.6})
    machine.choose(settings(model))
    assert machine.choose(settings(model)) == EAGER_16
    assert list(machine.made) == [EAGER_16]
    assert not machine.people
    assert "recognizer.dtype = bfloat16, as measured at an earlier start" in caplog.text

    def measures(**changes):
        machine.choose(settings(model, **changes))
        return bool(machine.people)

    assert measures(scene_size=200)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        assert measures()
    with monkeypatch.context() as patch:
        patch.setattr(computation, "processor_name", lambda: "another CPU")
        assert measures()
    (model / "model.safetensors").write_bytes(b"other weights")
    assert measures()
    assert not measures()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is damaged"),
        (b'{"dtype": "float16"}', "holds another choice"),
        (b'{"dtype": "bfloat16", "compile": true}', "holds another choice"),
        (b"{}", "holds another choice"),
    ],
)
def test_unfit_cache_file_is_replaced_with_a_warning(model, tmp_path, caplog, content, message):
    machine = Machine({EAGER_32: 1, EAGER_16: 0.6})
    machine.choose(settings(model))
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_bytes(content)
    assert machine.choose(settings(model)) == EAGER_16
    assert machine.people
    assert message in caplog.text
    assert json.loads(file.read_text()) == {"dtype": "bfloat16"}


def test_unusable_alternative_is_left_out_and_tried_again_at_the_next_start(model, caplog):
    caplog.set_level(logging.INFO)
    machine = Machine({EAGER_32: 1, EAGER_16: ModelError("the logits overflow")})
    assert machine.choose(settings(model)) == EAGER_32
    assert "recognizer.dtype = bfloat16 is left out: the logits overflow" in caplog.text
    machine.factors[EAGER_16] = [0.5]
    assert machine.choose(settings(model)) == EAGER_16
    assert "another choice" not in caplog.text


def test_second_model_is_not_loaded_where_it_may_not_fit(model, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(computation, "available_memory", lambda: 13)
    machine = Machine({EAGER_32: 1, EAGER_16: 0.5})
    assert machine.choose(settings(model)) == EAGER_32
    assert list(machine.made) == [EAGER_32]
    assert "cannot measure it: a second model takes up to" in caplog.text


def test_failing_first_model_is_an_error(model):
    with pytest.raises(RecognizerError, match="no memory"):
        Machine({EAGER_32: RecognizerError("no memory")}).choose(settings(model))


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantization": "8bit"}, {"name": "face"}],
)
def test_settings_without_alternative_are_not_measured(model, changes):
    wish = recognizer_settings(**{"device": "cpu", **changes})
    made = []
    make_live_recognizer(wish, lambda s: made.append(s) or FakeRecognizer())
    assert made == [wish]


def test_nothing_is_measured_on_a_gpu(model, monkeypatch):
    monkeypatch.setattr(computation, "pick_device", lambda device: "cuda")
    made = []
    wish = settings(model, device="auto", compile=True)
    make_live_recognizer(wish, lambda s: made.append(s) or FakeRecognizer())
    assert made == [wish]


def test_cpu_without_bfloat16_keeps_float32(model, monkeypatch):
    monkeypatch.setattr(computation, "computes_bfloat16", lambda: False)
    machine = Machine({("auto", False): 1})
    assert machine.choose(settings(model)) == ("auto", False)
    assert not machine.people


@pytest.mark.parametrize(
    ("cpuinfo", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_known_from_the_flags_of_the_cpu(monkeypatch, tmp_path, cpuinfo, has):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(devices, "Path", lambda name: tmp_path)
    assert devices.computes_bfloat16() == has


def test_batch_commands_compute_in_float32_on_a_cpu(model):
    assert explicit(settings(model)).dtype == "float32"
    assert explicit(settings(model, dtype="bfloat16")).dtype == "bfloat16"
    face = recognizer_settings("face")
    assert explicit(face) is face


def test_float16_on_a_cpu_is_refused(model):
    message = "cannot use recognizer.dtype = float16 on a CPU: .* auto, float32 or bfloat16"
    for make in (make_recognizer, make_live_recognizer, explicit):
        with pytest.raises(ModelError, match=message):
            make(settings(save_tiny("smolvlm", model), dtype="float16"))


@pytest.mark.skipif(
    not devices.computes_bfloat16(), reason="this CPU has no arithmetic in bfloat16"
)
def test_live_recognizer_in_bfloat16_scores_almost_as_in_float32(model):
    wish = settings(save_tiny("smolvlm", model), scene_size=128, crop_size=64)
    # Of the two readings around each round, every other interval is that of bfloat16.
    readings = iter(np.cumsum([0, 9, 0, 1] * computation.ROUNDS))
    live = make_live_recognizer(wish, clock=lambda: float(next(readings)))
    assert live.vlm.model.dtype == torch.bfloat16
    stock = make_recognizer(explicit(wish))
    assert stock.vlm.model.dtype == torch.float32
    scene = grey_scene()
    in_16_bits, in_32_bits = (r.assess(scene, scene.people)[0].scores for r in (live, stock))
    assert 0 < np.abs(in_16_bits - in_32_bits).max() < 0.05

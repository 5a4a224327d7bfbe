"""Processors of transformers with what the requirement files install, and no more."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import emotion_perception

pytestmark = pytest.mark.models

SMALL_VLM = Path(emotion_perception.__file__).parent / "data" / "small_world" / "vlm"


def build_processor(*missing):
    code = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))
from transformers import AutoProcessor
print(type(AutoProcessor.from_pretrained({str(SMALL_VLM)!r})).__name__)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_smolvlm_processor_needs_num2words_without_docopt():
    assert build_processor("docopt").stdout.strip() == "SmolVLMProcessor"
    assert "num2words" in build_processor("num2words").stderr

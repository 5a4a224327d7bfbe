"""What `finetune` checks before it reads data and models."""

import fcntl
import os

import pytest

from emotion_perception.training import finetune
from emotion_perception.training.recipe import Recipe


@pytest.fixture
def options(tmp_path, monkeypatch):
    def read(*_, **__):
        raise AssertionError("the data is read")

    monkeypatch.setattr(finetune.emotic, "load", read)
    return lambda out: finetune.FinetuneOptions(
        system="vlm", root=tmp_path, out=out, recipe=Recipe.from_options({})
    )


def test_output_that_cannot_be_written_is_refused_before_the_data_is_read(options, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot create the folder .*run: Not a directory"):
        finetune.finetune(options(tmp_path / "file" / "run"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "one.tex").write_text("")
    with pytest.raises(ValueError, match="holds other files and no run"):
        finetune.finetune(options(tmp_path / "thesis"))


def test_folder_in_use_is_refused_before_the_data_is_read(options, tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another process is using it"):
        finetune.finetune(options(tmp_path))
    os.close(descriptor)

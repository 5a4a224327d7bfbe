"""Run folders: claim, resume, lock, logs and atomic replacement."""

import json
import os
import subprocess
import sys

import pytest
from support.file_modes import readable_by_others

from emotion_perception.io import atomic
from emotion_perception.io.run_folder import (
    AppendLog,
    RunFolder,
    compare_manifests,
    fingerprint_files,
    read_manifest,
    short_hash,
)

MANIFEST = {"system": "majority", "settings": {"model": "a"}, "versions": {"numpy": "1"}}


def test_same_manifest_resumes_and_removes_former_results(tmp_path):
    with RunFolder.claim(tmp_path / "run", MANIFEST) as run:
        run.write({"metrics.json": b"{}", "kept.txt": b"kept"})
    stored = read_manifest(tmp_path / "run")
    assert stored == MANIFEST
    with RunFolder.claim(tmp_path / "run", MANIFEST, results=["metrics.json", "other"]) as run:
        assert sorted(os.listdir(run.path)) == ["kept.txt", "run.json"]


def test_folder_and_files_are_private(tmp_path):
    before = os.umask(0o022)
    try:
        with RunFolder.claim(tmp_path / "runs" / "run", MANIFEST) as run:
            run.write({"report.html": b"a face"})
        (tmp_path / "other").touch()
    finally:
        os.umask(before)
    assert readable_by_others(tmp_path / "runs") == []
    assert readable_by_others(tmp_path / "other") == [str(tmp_path / "other")]


def test_another_manifest_is_refused_with_the_first_difference(tmp_path):
    RunFolder.claim(tmp_path, MANIFEST).release()
    changed = {**MANIFEST, "settings": {"model": "b"}}
    with pytest.raises(ValueError, match=r"another run \(settings.model: 'a', now 'b'\)"):
        RunFolder.claim(tmp_path, changed)
    assert read_manifest(tmp_path) == MANIFEST


def test_tolerated_differences_are_reported_and_not_stored(tmp_path):
    RunFolder.claim(tmp_path, MANIFEST).release()
    changed = {**MANIFEST, "versions": {"numpy": "2"}}
    with RunFolder.claim(tmp_path, changed, may_change=["versions"]) as run:
        assert run.changes == {"versions.numpy": "'1', now '2'"}
    assert read_manifest(tmp_path) == MANIFEST


def test_folder_with_other_files_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(ValueError, match="holds other files and no run"):
        RunFolder.claim(tmp_path, MANIFEST)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_damaged_manifest_is_one_error(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json: it is"):
        RunFolder.claim(tmp_path, MANIFEST)


def test_second_process_cannot_claim_the_folder(tmp_path):
    code = (
        "import sys; from emotion_perception.io.run_folder import RunFolder\n"
        f"RunFolder.claim({str(tmp_path)!r}, {MANIFEST!r})"
    )

    def claim_elsewhere():
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    with RunFolder.claim(tmp_path, MANIFEST), RunFolder.claim(tmp_path, MANIFEST):
        pass
    with RunFolder.claim(tmp_path, MANIFEST) as run:
        RunFolder.claim(tmp_path, MANIFEST).release()  # this process may claim it twice
        done = claim_elsewhere()
        assert "another process is using it" in done.stderr
        run.release()
        assert claim_elsewhere().returncode == 0
    assert os.listdir(tmp_path) == ["run.json"]


def test_log_drops_an_incomplete_last_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": ')
    log = AppendLog(path)
    assert log.rows == [{"a": 1}, {"a": 2}]
    log.append({"a": 3})
    assert [json.loads(line)["a"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_damaged_line_of_a_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"a":\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2 is damaged"):
        AppendLog(tmp_path / "log.jsonl")


def test_manifests_are_compared_by_dotted_names():
    assert compare_manifests({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}) == {
        "a.c": "2, now 4",
        "d": "3, now None",
    }


def test_hashes_change_with_content_and_files(tmp_path):
    assert len(short_hash([1])) == 16
    assert short_hash([1]) != short_hash([2])
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    before = fingerprint_files([file, tmp_path / "missing"])
    file.write_bytes(b"12")
    assert fingerprint_files([file]) != before


def test_files_are_replaced_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "first", tmp_path / "missing" / "second"
    first.write_bytes(b"old")
    with pytest.raises(OSError, match="cannot write .*second: No such file"):
        atomic.write_files({first: b"new", second: b"new"})
    assert first.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["first"]


def test_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "adapter"

    def write(content):
        return lambda new: (new / "file").write_text(content)

    atomic.write_folder(folder, write("one"))

    def fail(new):
        (new / "file").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(OSError, match="disk full; the former folder remains"):
        atomic.write_folder(folder, fail)
    assert (folder / "file").read_text() == "one"
    folder.rename(tmp_path / "adapter.old")  # killed between the two renames
    assert (atomic.restore_folder(folder) / "file").read_text() == "one"
    atomic.write_folder(folder, write("two"))
    assert (folder / "file").read_text() == "two"
    assert os.listdir(tmp_path) == ["adapter"]

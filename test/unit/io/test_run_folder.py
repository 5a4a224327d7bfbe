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
    hold,
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


def test_link_to_a_file_elsewhere_is_refused_and_the_file_kept(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    with RunFolder.claim(tmp_path / "run", MANIFEST):
        pass
    (tmp_path / "run" / "answers.jsonl").symlink_to(victim)
    with pytest.raises(ValueError, match=r"'answers.jsonl' of .*, out of the folder"):
        RunFolder.claim(tmp_path / "run", MANIFEST).log("answers.jsonl").append("a row")
    assert victim.read_text() == "kept"


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


KILLED = """
import os, sys
from pathlib import Path
from emotion_perception.io import atomic
from emotion_perception.io.run_folder import RunFolder

def count(calls, kill_at):
    def counted(call):
        def wrapped(*arguments, **options):
            calls.append(call)
            if len(calls) == kill_at:
                os.kill(os.getpid(), 9)
            return call(*arguments, **options)
        return wrapped
    for name in ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))

def write(folder):
    (folder / "weights").write_text("1" * 100)

def run(folder, kill_at):
    if not (pid := os.fork()):
        count([], kill_at)
        with RunFolder.claim(folder, {"a": 1}, results=["metrics.json"]) as run:
            log = run.log("log.jsonl")
            for step in range(len(log.rows), 3):
                log.append({"step": step})
                atomic.write_folder(run.path / "last", write)
            run.write({"metrics.json": b"{}", "table": b"1"})
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def files(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}

root = Path(sys.argv[1])
assert run(root / "whole", 0) == 0
kill_at = 1
while status := run(root / f"{kill_at}", kill_at):
    assert status == -9, status
    assert run(root / f"{kill_at}", 0) == 0, kill_at
    assert files(root / f"{kill_at}") == files(root / "whole"), kill_at
    kill_at += 1
print(kill_at - 1)
"""


@pytest.mark.command
def test_a_run_that_is_killed_at_any_call_is_resumed_to_the_same_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 30


def test_parts_of_a_killed_run_are_no_other_files(tmp_path):
    for name in ("run.json.part", "run.json.0123abcd.part"):
        (tmp_path / name).write_text("{")
    RunFolder.claim(tmp_path, MANIFEST).release()
    assert os.listdir(tmp_path) == ["run.json"]
    (tmp_path / "film.part").write_text("")
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="holds other files"):
        RunFolder.claim(tmp_path, MANIFEST)
    assert os.listdir(tmp_path) == ["film.part"]


def test_folder_that_stays_empty_is_removed_if_it_was_created(tmp_path):
    with hold(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with hold(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_folder_with_other_files_is_refused_before_the_work(tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(ValueError, match="holds other files and no run"), hold(tmp_path):
        pass
    with hold(tmp_path, None):
        pass


@pytest.mark.parametrize(
    ("name", "message"), [("file/run", "file is a file"), ("n" * 300, "300 bytes|too long")]
)
def test_path_that_cannot_be_written_is_named_before_anything_is_created(tmp_path, name, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"cannot (write|create) .*({message})"):
        atomic.check_writable(tmp_path / name)
    assert atomic.check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path) == ["file"]


FULL = """
import resource, signal, sys
from pathlib import Path
from emotion_perception.io import atomic
from emotion_perception.io.run_folder import AppendLog

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = Path(sys.argv[1])
log = AppendLog(folder / "log.jsonl")
log.append("a" * 500)
for write in (
    lambda: log.append("b" * 500),
    lambda: atomic.write_files({folder / "file": b"c" * 2000}),
    lambda: atomic.write_folder(folder / "adapter", lambda new: (new / "x").write_text("d" * 2000)),
):
    try:
        write()
    except OSError as error:
        print(error)
log.append("e" * 100)
"""


def test_full_disk_is_named_and_leaves_nothing_incomplete_behind(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stderr == ""
    reasons = done.stdout.splitlines()
    assert [f"cannot write {tmp_path / name}: File too large" in reason
            for name, reason in zip(("log.jsonl", "file", "adapter"), reasons, strict=True)
            ] == [True] * 3  # fmt: skip
    assert os.listdir(tmp_path) == ["log.jsonl"]
    assert AppendLog(tmp_path / "log.jsonl").rows == ["a" * 500, "e" * 100]


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

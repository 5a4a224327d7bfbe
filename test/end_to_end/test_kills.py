"""Runs that are killed at a call that changes the run folder, and resumed: the same files.

A run is recorded under strace, which names each such call: opening for writing, writing, syncing,
renaming, removing. Then a run is killed when it enters one of these calls, for each of them in
turn, native libraries included. `EMOTION_KILLS=all` tries every call, otherwise at most
`KILLS` evenly spaced ones per command.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from emotion_perception import toy_world

pytest.importorskip("polars")
pytestmark = [pytest.mark.slow, pytest.mark.serial]

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, str(ROOT / "test" / "support" / "small_runs.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
"""PEFT writes a set, whose order depends on the seed."""
KILLS = {"replay": 25, "evaluate": 25, "finetune": 10}
CALLS = (
    "openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir,truncate,ftruncate,copy_file_range,sendfile"
)
OPENED_FOR_WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
LINE = re.compile(r'^\d+ +(\w+)\((?:AT_FDCWD(?:<[^>]*>)?, )?(?:\d+<([^>]*)>|"([^"]*)")')


def strace(*options):
    return ["strace", "-f", "-qq", *options]


@pytest.fixture(scope="module", autouse=True)
def _strace():
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt install strace")
    done = subprocess.run(strace("-o", os.devnull, "true"), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    scene = list(toy_world.draw_clip(3, 0.5, size=(96, 96), people=2))
    toy_world.write_bag(folder / "replay", scene, start_ns=10**9)
    for kind in ("evaluate", "finetune"):
        splits = {"train": (1, 4), "val": (2, 3), "test": (3, 3)}
        toy_world.write_emotic(folder / kind, splits, size=(96, 96), people=(1, 2), part="all")
        (folder / kind / "Annotations" / "Annotations.mat").unlink()
    return folder


def run(kind, sources, out, *prefix):
    """Run the command; return its exit status, that of a shell for signals, and its errors."""
    done = subprocess.run(
        [*prefix, *PROGRAM, kind, str(sources / kind), str(out)],
        capture_output=True, text=True, timeout=600, env=ENVIRONMENT,
    )  # fmt: skip
    return done.returncode, done.stderr


def recorded_calls(log, out):
    """Return each call that changes a path in the folder: name, path, and count of its like."""
    calls, counts = [], Counter()
    for line in log.read_text(errors="replace").splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        name, path = match[1], match[2] or match[3]
        if Path(path) != out and out not in Path(path).parents:
            continue
        counts[name, path] += 1
        if name != "openat" or OPENED_FOR_WRITING.search(line):
            calls.append((name, path, counts[name, path]))
    return calls


def contents(kind, out):
    """Return the files of a finished run, without measured times."""
    files = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    if kind == "replay":
        for name in ("latency.json", "report.html"):
            files.pop(name, None)
        figures = json.loads(files["figures.json"])
        figures.pop("timing")
        files["figures.json"] = figures
        lines = [json.loads(line) for line in files["computed.jsonl"].splitlines()]
        files["computed.jsonl"] = [{**line, "seconds": 0} for line in lines]
    return files


def spaced(calls, count):
    """Return `count` evenly spaced calls, the first and the last included."""
    if os.environ.get("EMOTION_KILLS") == "all" or len(calls) <= count:
        return calls
    return [calls[round(i * (len(calls) - 1) / (count - 1))] for i in range(count)]


@pytest.mark.parametrize("kind", ["replay", "evaluate", "finetune"])
def test_killed_run_is_resumed_to_the_same_files(kind, sources, tmp_path):
    if kind == "finetune":
        pytest.importorskip("peft")
        from emotion_perception.testing.checkpoints.vlm import save_tiny

        save_tiny("smolvlm", sources / kind / "model")
    out, log = tmp_path / "out", tmp_path / "log"
    status, errors = run(kind, sources, out, *strace("-y", "-o", str(log), "-e", f"trace={CALLS}"))
    assert status == 0, errors
    expected, calls = contents(kind, out), recorded_calls(log, out)
    assert len(calls) > 15
    killed = 0
    for name, path, number in spaced(calls, KILLS[kind]):
        shutil.rmtree(out)
        inject = f"inject={name}:signal=KILL:when={number}"
        options = ("-o", os.devnull, "-P", path, "-e", f"trace={name}", "-e", inject)
        status, _ = run(kind, sources, out, *strace(*options))
        killed += status in (-9, 137)
        call = f"{name} {path} {number}"
        status, errors = run(kind, sources, out)
        assert status == 0, f"killed at {call}: {errors}"
        assert contents(kind, out) == expected, f"killed at {call}"
    # Writes of threads may come in another number; then that run was not killed.
    assert killed > 0.8 * len(spaced(calls, KILLS[kind]))


def test_second_run_in_the_same_folder_is_refused(sources, tmp_path):
    """The first run waits in a call, so that both run at the same time."""
    out = tmp_path / "out"
    wait = "inject=openat:delay_enter=60s:when=1"
    path = str(out / "answers.jsonl")
    options = ("-o", os.devnull, "-P", path, "-e", "trace=openat", "-e", wait)
    command = [*strace(*options), *PROGRAM, "evaluate", str(sources / "evaluate"), str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as first:
        try:
            for _ in range(600):
                if (out / "run.json").exists():
                    break
                subprocess.run(["sleep", "0.1"], check=True)
            status, errors = run("evaluate", sources, out)
            assert status == 2
            assert errors.splitlines()[-1].startswith(
                f"emotion-perception evaluate: cannot write in {out}: another process is using it"
            )
            assert first.poll() is None
        finally:
            first.kill()
    status, errors = run("evaluate", sources, out)
    assert status == 0, errors

"""Signals that arrive at any time stop a process."""

import os
import signal
import subprocess

from emotion_perception.core.process import Signals


def test_signal_that_arrives_while_the_watcher_starts_is_kept(monkeypatch):
    real = subprocess.Popen

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with Signals().handled() as signals:
        assert signals.stop
    assert signal.getsignal(signal.SIGINT) is before

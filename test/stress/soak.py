"""Run the node for ten minutes at 30 Hz with people who come and go, and judge what it kept.

Usage: `python test/stress/soak.py FOLDER [MINUTES]`. Writes `soak.json` and `soak.png`; exits with
1 if memory, threads or open files grow, or an answer is older than promised.
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("ROS_DOMAIN_ID", "97")
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.robot import Robot

from emotion_perception.core.values import Cause, Status
from emotion_perception.ros.camera_player import use_large_image_profile
from emotion_perception.testing.fakes import noise_image

RATE, ROUND_S, MAX_AGE_S = 30, 0.05, 2.0
WARM_UP = 0.2
"""The share of the time that is not judged: caches and pools fill."""
BLOCKS = 16


def sample(pid):
    """Return resident memory in MB, threads and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory, threads = (
        int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1])
        for name in ("VmRSS", "Threads")
    )
    return memory / 1024, threads, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope(seconds, values):
    """Return the slope per minute of block means, and the half width of its 95 % interval.

    Neighbouring samples depend on each other; means of blocks hardly do.
    """
    x = np.array([block.mean() for block in np.array_split(seconds / 60, BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    centred = x - x.mean()
    gradient = centred @ y / (centred @ centred)
    residual = y - y.mean() - gradient * centred
    error = np.sqrt(residual @ residual / (BLOCKS - 2) / (centred @ centred))
    return float(gradient), float(2.145 * error)  # the quantile of t with 14 degrees of freedom


def measure(minutes, log):
    """Run the node; return the samples and the messages."""
    use_large_image_profile()
    robot = Robot(log, "crowd", rate=RATE, image=noise_image(640, 480), max_age=MAX_AGE_S)
    try:
        robot.assessed()
        begin, samples = time.time(), []
        while (elapsed := time.time() - begin) < 60 * minutes:
            if elapsed >= len(samples):
                samples.append((elapsed, *sample(robot.process.pid)))
                if len(samples) % 60 == 1:
                    print(f"{elapsed / 60:.0f} of {minutes:g} minutes", flush=True)
            robot.spin()
        return np.array(samples), robot.messages
    finally:
        robot.close()


def judge(samples, messages):
    """Return the figures, and what is wrong with them."""
    steady = samples[samples[:, 0] > WARM_UP * samples[-1, 0]]
    figures, faults = {"samples": len(steady), "messages": len(messages)}, []
    for column, name in enumerate(("memory [MB]", "threads", "open files"), start=1):
        gradient, half = slope(steady[:, 0], steady[:, column])
        figures[name] = {
            "first": steady[0, column], "last": steady[-1, column],
            "slope per minute": gradient, "95 % interval": [gradient - half, gradient + half],
        }  # fmt: skip
        if gradient - half > 1e-6:  # of constant values, rounding gives more than 0
            faults.append(f"{name} grow by {gradient:.3g} per minute")
    ages = [
        when - max(e.assessed_ns for e in m.people) / 1e9
        for when, m in messages
        if m.cause is Cause.ASSESSMENT and m.people
    ]
    limit = ROUND_S + 2 / RATE
    figures["answers"] = len(ages)
    figures["age of answers, 50 % and 99 % [s]"] = np.percentile(ages, (50, 99)).tolist()
    figures["age promised for 99 % [s]"] = limit
    if np.percentile(ages, 99) > limit:
        faults.append("answers are older than their round and two frames")
    figures["ASSESSED older than max_age"] = sum(
        e.status is Status.ASSESSED and when - e.assessed_ns / 1e9 > MAX_AGE_S
        for when, m in messages
        for e in m.people
    )
    if figures["ASSESSED older than max_age"]:
        faults.append("old assessments were published as ASSESSED")
    return figures, faults


def draw(samples, messages, path):
    """Plot memory, threads and files, and the ages of the answers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    axes[0].plot(samples[:, 0] / 60, samples[:, 1])
    axes[0].set(ylabel="memory (MB)", ylim=(0, 1.1 * samples[:, 1].max()))
    axes[1].plot(samples[:, 0] / 60, samples[:, 2], label="threads")
    axes[1].plot(samples[:, 0] / 60, samples[:, 3], label="open files")
    axes[1].set(ylabel="number", ylim=(0, None))
    axes[1].legend()
    begin = messages[0][0]
    ages = [
        ((when - begin) / 60, 1e3 * (when - max(e.assessed_ns for e in m.people) / 1e9))
        for when, m in messages
        if m.cause is Cause.ASSESSMENT and m.people
    ]
    axes[2].plot(*zip(*ages, strict=True), ".", markersize=2)
    axes[2].axhline(1e3 * (ROUND_S + 2 / RATE), color="tab:red", label="promised for 99 %")
    axes[2].set(xlabel="minutes", ylabel="age of an answer (ms)", ylim=(0, None))
    axes[2].legend()
    figure.savefig(path, dpi=120)


def main():
    """Run, write and judge."""
    folder, minutes = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        samples, messages = measure(minutes, Path(temporary) / "node.log")
    figures, faults = judge(samples, messages)
    (folder / "soak.json").write_text(json.dumps(figures | {"faults": faults}, indent=2) + "\n")
    draw(samples, messages, folder / "soak.png")
    print(json.dumps(figures, indent=2))
    print("\n".join(faults) or f"nothing grows; the plot is {folder / 'soak.png'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""Damage small valid files in thousands of ways, and read each with the package's own readers.

Usage: `python test/stress/fuzz.py [SECONDS] [READER ...]`. A reader may succeed or raise one of the
errors of bad input in one line. Anything else is a finding: another error, a text of several lines,
a crash, more than the memory limit, or no end. Exits with 1 if there is a finding.

Each batch runs in a child process, because a crash in native code ends it. The seed of a damaged
file names it: `damage(valid, seed)` makes it again.
"""

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import bag_files, emotic_files

from emotion_perception.core.errors import EmotionPerceptionError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.settings import parameter_file
from emotion_perception.evaluation import predictions
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.io import image_decoding
from emotion_perception.io.bags import Bag
from emotion_perception.io.line_file import LineFile
from emotion_perception.io.run_folder import read_manifest
from emotion_perception.recognizers.calibrated import Calibration
from emotion_perception.recognizers.chance import read_frequencies
from emotion_perception.recognizers.text.narracap import read_words
from emotion_perception.replay.ground_truth import GroundTruth
from emotion_perception.replay.simulator import Latency

MEMORY_BYTES = 6 << 30  # of address space; libraries reserve much and use little
TIMEOUT_S = 20
BATCH = 100
BAD_INPUT = (ValueError, OSError, EmotionPerceptionError)

_NUMBERS = (b"\xff\xff\xff\x7f", b"\xff" * 4, b"\0" * 4, b"\x01\0\0\0", b"\xff" * 8, b"\0" * 8)
_WORDS = (b"NaN", b"1e999", b"-1", b"null", b"[]", b"{}", b'"', b"\n", b"&a", b"*a", b"\x1b[2J")


def damage(valid, seed):
    """Return the bytes with one to eight changes, which depend on the seed alone."""
    source, data = random.Random(seed), bytearray(valid)
    for _ in range(source.choice((1, 1, 2, 3, 8))):
        if not data:
            break
        reach = len(data) if source.random() < 0.6 else min(len(data), 400)
        at, kind = source.randrange(reach), source.randrange(8)
        if kind == 0:
            data[at] = source.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << source.randrange(8)
        elif kind == 2:
            number = source.choice(_NUMBERS)
            data[at : at + len(number)] = number
        elif kind == 3:
            data[at:at] = source.choice(_WORDS)
        elif kind == 4:
            del data[at : at + source.randrange(1, 50)]
        elif kind == 5:
            data[at:at] = source.randbytes(source.randrange(1, 20))
        elif kind == 6:
            data[at:at] = data[at : at + source.randrange(1, 200)]
        else:
            del data[at:]
    return bytes(data)


def encoded(suffix):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return lambda folder: cv2.imencode(suffix, noise)[1].tobytes()


def decode(path, formats=image_decoding.CAMERA_FORMATS):
    image_decoding.decode_image(np.fromfile(path, np.uint8), formats=formats)


def decode_raw(path):
    message = image_decoding.deserialize(path.read_bytes(), image_decoding.IMAGE)
    image_decoding.frame_from_image(message)


def a_bag(storage):
    def make(folder):
        bag_files.write(folder / "bag", bag_files.serialized([1, 2, 3]), storage=storage)
        (file,) = (p for p in (folder / "bag").iterdir() if p.suffix in (".mcap", ".db3"))
        return file.read_bytes()

    return make


def ros1_bag(folder):
    bag_files.write_ros1(folder / "one.bag", bag_files.SCENE[:3])
    return (folder / "one.bag").read_bytes()


def metadata(folder):
    bag_files.write(folder / "whole", bag_files.serialized([1, 2, 3]))
    return (folder / "whole" / "metadata.yaml").read_bytes()


def read_bag(path):
    with Bag(path) as bag:
        bag.fingerprint()
        list(bag.images())


def read_metadata(path):
    bag = path.parent / "whole"
    if not bag.exists():
        bag_files.write(bag, bag_files.serialized([1, 2, 3]))
    shutil.copyfile(path, bag / "metadata.yaml")
    read_bag(bag)


def annotations(folder):
    people = {"images/a.jpg": [emotic_files.ANN, emotic_files.BOB]}
    emotic_files.write_mat(folder, test=people)
    return (folder / "Annotations" / "Annotations.mat").read_bytes()


def read_annotations(path):
    root = path.parent / "root"
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, root / "Annotations" / "Annotations.mat")
    emotic.load(root, "test", require_images=False)


def read_table(path):
    root = path.parent / "tables"
    root.mkdir(exist_ok=True)
    shutil.copyfile(path, root / "test.csv")
    emotic.load(root, "test", require_images=False)


def table(folder):
    header = "Folder,Filename,Image Size,BBox,Categorical_Labels,Continuous_Labels"
    row = '''mscoco/images,a.jpg,"[640, 480]","[1, 2, 30, 40]","['Peace', 'Anger']","[5, 5, 5]"'''
    return f"{header}\n{row}\n{row.replace('a.jpg', 'b.jpg')}\n".encode()


def labels(folder):
    return b"".join(f"a_{i}.jpg,\"['peace', 'anger']\"\n".encode() for i in range(4))


def predicted(folder):
    scores = [{"image": f"a_{i}.jpg", "scores": [0.5] * 26} for i in range(3)]
    return "".join(json.dumps(row) + "\n" for row in scores).encode()


def calibration(folder):
    count = len(EMOTIC_LABELS)
    fitted = Calibration(
        labels=EMOTIC_LABELS, slope=np.ones(count), offset=np.zeros(count),
        thresholds=np.full(count, 0.5), system="vlm", prompting={}, data="val",
    )  # fmt: skip
    fitted.write(folder / "calibration.yaml")
    return (folder / "calibration.yaml").read_bytes()


def ground_truth(folder):
    from emotion_perception import toy_world

    toy_world.write_clip(folder / "clip.mp4", bag_files.SCENE[:3])
    return next(folder.glob("*.csv")).read_bytes()


def words(folder):
    return b"# who\na child\nan old man\na teacher\n"


def read_word_lists(path):
    for name in ("who", "where", "what", "how"):
        shutil.copyfile(path, path.parent / f"{name}.txt")
    read_words(path.parent)


def as_json(value):
    return lambda folder: json.dumps(value).encode()


READERS = {
    "jpeg": (encoded(".jpg"), decode),
    "png": (encoded(".png"), decode),
    "webp": (encoded(".webp"), lambda path: decode(path, {"WebP"})),
    "tiff": (encoded(".tiff"), lambda path: decode(path, {"TIFF"})),
    "bmp": (encoded(".bmp"), lambda path: decode(path, {"BMP"})),
    "image message": (lambda folder: bag_files.serialized([1])[0], decode_raw),
    "mcap bag": (a_bag("MCAP"), read_bag),
    "sqlite bag": (a_bag("SQLITE3"), read_bag),
    "ros 1 bag": (ros1_bag, read_bag),
    "metadata.yaml": (metadata, read_metadata),
    "Annotations.mat": (annotations, read_annotations),
    "EMOTIC table": (table, read_table),
    "label table": (labels, predictions.read_labels),
    "predictions": (predicted, predictions.read_predictions),
    "parameter file": (lambda folder: parameter_file().encode(), read_parameter_file),
    "calibration": (calibration, Calibration.read),
    "latency": (
        as_json({"image_seconds": 0.1, "answer_seconds": {"1": 0.4, "4": 0.9}}),
        lambda path: Latency.read(str(path)),
    ),
    "ground truth": (ground_truth, GroundTruth.read),
    "frequencies": (as_json(dict.fromkeys(EMOTIC_LABELS, 0.1)), read_frequencies),
    "manifest": (
        as_json({"system": "vlm", "settings": {"a": 1}}),
        lambda path: read_manifest(path.parent, path.name),
    ),
    "journal": (
        lambda folder: b'{"key": "a", "scores": [0.1]}\n{"key": "b"}\n',
        lambda path: list(LineFile(path).read()),
    ),
    "word lists": (words, read_word_lists),
}
"""Name to the maker of valid bytes, given an empty folder, and the reader of a file."""

SUFFIXES = {
    "mcap bag": ".mcap", "sqlite bag": ".db3", "ros 1 bag": ".bag", "label table": ".csv",
    "predictions": ".jsonl",
}  # fmt: skip


def outcome(read, path):
    """Return "read" or the kind of the error; other errors and texts begin with "!"."""
    try:
        read(path)
    except BAD_INPUT as error:
        text = str(error)
        return "!a text of several lines" if "\n" in text.strip() else type(error).__name__
    except BaseException as error:
        return f"!{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return "read"


def batch(name, valid, seeds, folder, write):
    """Read damaged files in this process, and write seed and outcome of each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    path = folder / f"damaged{SUFFIXES.get(name, '.bin')}"
    for seed in seeds:
        write(f"{seed}\n")
        path.write_bytes(damage(valid, seed))
        signal.alarm(TIMEOUT_S)  # ends the process
        found = outcome(READERS[name][1], path)
        signal.alarm(0)
        write(f"{found}\n")


def fuzz(name, stop, batch_size=BATCH):
    """Read damaged files until `stop(number)`; return outcomes, and the seed of each finding."""
    counts, findings, seed = Counter(), {}, 0
    with tempfile.TemporaryDirectory() as temporary:
        (source := Path(temporary) / "valid").mkdir()
        (folder := Path(temporary) / "damaged").mkdir()
        valid = READERS[name][0](source)
        undamaged = source / f"undamaged{SUFFIXES.get(name, '.bin')}"
        undamaged.write_bytes(valid)
        READERS[name][1](undamaged)  # raises where the valid file is none
        while not stop(seed):
            lines, status = _in_child(name, valid, range(seed, seed + batch_size), folder)
            if status:
                last = int(lines[-1])
                findings.setdefault(f"!ended with {status}", last)
                counts[f"!ended with {status}"] += 1
                lines.append("")
            for number, found in zip(lines[::2], lines[1::2], strict=True):
                seed = int(number) + 1
                counts[found] += bool(found)
                if found.startswith("!"):
                    findings.setdefault(found, int(number))
    return counts, findings


def _in_child(name, valid, seeds, folder):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        batch(name, valid, seeds, folder, lambda line: os.write(writing, line.encode()))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as stream:
        lines = stream.read().splitlines()
    return lines, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    """Fuzz each reader for a share of the time."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    names = sys.argv[2:] or list(READERS)
    failed = False
    for name in names:
        end = time.monotonic() + seconds / len(names)
        counts, findings = fuzz(name, lambda _, end=end: time.monotonic() > end)
        print(f"{name}: {sum(counts.values())} files, {dict(counts.most_common())}", flush=True)
        for found, seed in findings.items():
            print(f"  FINDING {found[1:]}, seed {seed}")
        failed |= bool(findings)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

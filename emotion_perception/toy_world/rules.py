"""The rules of the toy world: label tables, people with ground truth, and oracle scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import Box, Frame, ImageArray, Scene, Track

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FACES = ("smile", "sad", "angry", "gasp", "calm")
POSTURES = ("arms_up", "slumped", "running", "crossed", "waving")
CONTEXTS = ("party", "funeral", "dog", "race", "office", "storm", "park")
PARTS = ("all", "seen", "unseen")

# --- The tables ---------------------------------------------------------------------------------

FACE_LABELS: dict[str, dict[str, tuple[str, str]]] = {
    "party": {
        "smile": ("affection", "happiness"),
        "sad": ("sensitivity", "yearning"),
        "angry": ("annoyance", "disapproval"),
        "gasp": ("pleasure", "surprise"),
        "calm": ("disconnection", "peace"),
    },
    "funeral": {
        "smile": ("embarrassment", "sympathy"),
        "sad": ("sadness", "suffering"),
        "angry": ("anger", "pain"),
        "gasp": ("disquietment", "suffering"),
        "calm": ("esteem", "sympathy"),
    },
    "dog": {
        "smile": ("affection", "pleasure"),
        "sad": ("pain", "sensitivity"),
        "angry": ("anger", "aversion"),
        "gasp": ("fear", "surprise"),
        "calm": ("confidence", "doubt/confusion"),
    },
    "race": {
        "smile": ("anticipation", "confidence"),
        "sad": ("embarrassment", "pain"),
        "angry": ("excitement", "yearning"),
        "gasp": ("doubt/confusion", "fatigue"),
        "calm": ("anticipation", "engagement"),
    },
    "office": {
        "smile": ("esteem", "happiness"),
        "sad": ("embarrassment", "sadness"),
        "angry": ("annoyance", "doubt/confusion"),
        "gasp": ("engagement", "surprise"),
        "calm": ("disconnection", "fatigue"),
    },
    "storm": {
        "smile": ("excitement", "pleasure"),
        "sad": ("disquietment", "suffering"),
        "angry": ("annoyance", "aversion"),
        "gasp": ("fear", "sensitivity"),
        "calm": ("doubt/confusion", "sadness"),
    },
    "park": {
        "smile": ("peace", "sympathy"),
        "sad": ("sadness", "yearning"),
        "angry": ("disapproval", "embarrassment"),
        "gasp": ("engagement", "esteem"),
        "calm": ("affection", "peace"),
    },
}
"""Context and face to two labels."""

POSTURE_LABELS: dict[str, dict[str, str]] = {
    context: dict(zip(POSTURES, labels.split(), strict=True))
    for context, labels in {
        #          arms_up    slumped       running     crossed        waving
        "party": "excitement disconnection anticipation confidence esteem",
        "funeral": "pain sadness embarrassment disconnection yearning",
        "dog": "surprise suffering fear disapproval sympathy",
        "race": "happiness fatigue engagement disapproval esteem",
        "office": "confidence fatigue annoyance disapproval engagement",
        "storm": "anger sensitivity disquietment aversion sympathy",
        "park": "pleasure disconnection happiness doubt/confusion anticipation",
    }.items()
}
"""Context and posture to one label, which may also be one of `FACE_LABELS`."""

AFFECT: dict[str, tuple[float, float, float]] = {
    "affection": (8.5, 4.5, 6.0), "anger": (2.0, 8.5, 7.0), "annoyance": (3.0, 6.5, 6.0),
    "anticipation": (6.5, 6.5, 6.0), "aversion": (2.5, 6.0, 5.0), "confidence": (7.5, 5.5, 9.0),
    "disapproval": (3.0, 5.0, 6.5), "disconnection": (4.0, 2.0, 4.5),
    "disquietment": (3.0, 7.0, 3.5), "doubt/confusion": (4.0, 5.0, 3.5),
    "embarrassment": (3.5, 6.0, 2.5), "engagement": (6.5, 6.0, 7.0), "esteem": (7.5, 4.5, 6.5),
    "excitement": (8.0, 9.0, 7.0), "fatigue": (4.0, 1.5, 3.0), "fear": (2.0, 8.5, 2.0),
    "happiness": (9.5, 7.0, 7.5), "pain": (1.5, 7.0, 2.5), "peace": (8.0, 1.5, 7.0),
    "pleasure": (9.0, 5.5, 7.0), "sadness": (2.0, 3.0, 3.0), "sensitivity": (4.0, 4.5, 2.5),
    "suffering": (1.0, 6.5, 1.5), "surprise": (6.0, 8.5, 4.0), "sympathy": (6.0, 3.5, 5.5),
    "yearning": (5.0, 6.0, 4.0),
}  # fmt: skip
"""Label to valence, arousal and dominance on EMOTIC's scale, 1..10."""

POSTURE_AFFECT: dict[str, tuple[float, float, float]] = {
    "arms_up": (0.5, 1.0, 0.5),
    "slumped": (-0.5, -1.0, -1.5),
    "running": (0.0, 1.5, 0.0),
    "crossed": (-0.5, -0.5, 1.0),
    "waving": (0.5, 0.5, 0.0),
}
"""Posture to the offset from the mean affect of the labels; the sum is clipped to 1..10."""

Combination = tuple[str, str, str]
"""Face, posture, context."""

HELD_OUT: frozenset[Combination] = frozenset(
    (face, posture, context)
    for (f, face), (p, posture), (c, context) in product(
        enumerate(FACES), enumerate(POSTURES), enumerate(CONTEXTS)
    )
    if (f + 2 * p + c) % 7 == 0
)
"""25 of the 175 combinations. Each pair of face, posture and context keeps at least four others.

The remainder selects one context for each face and posture, and at most one posture for each face
in a context, so that no pair loses more than one combination.
"""


def _tabulate() -> tuple[BoolArray, FloatArray]:
    """Return labels, (7, 5, 5, 26), and affect, (7, 5, 5, 3), by context, face and posture."""
    labels = np.zeros((len(CONTEXTS), len(FACES), len(POSTURES), len(EMOTIC_LABELS)), bool)
    affect = np.zeros((*labels.shape[:3], 3))
    for (c, context), (f, face), (p, posture) in product(
        enumerate(CONTEXTS), enumerate(FACES), enumerate(POSTURES)
    ):
        names = {*FACE_LABELS[context][face], POSTURE_LABELS[context][posture]}
        labels[c, f, p] = [label in names for label in EMOTIC_LABELS]
        mean = np.mean([AFFECT[name] for name in sorted(names)], axis=0)
        affect[c, f, p] = np.clip(mean + POSTURE_AFFECT[posture], 1, 10)
    labels.setflags(write=False)
    affect.setflags(write=False)
    return labels, affect


_LABELS, _AFFECT = _tabulate()
OCCURS = {
    part: np.array([
        [[part == "all" or ((f, p, c) in HELD_OUT) == (part == "unseen") for p in POSTURES]
         for f in FACES] for c in CONTEXTS
    ]) for part in PARTS
}  # fmt: skip
"""Part to a (7, 5, 5) mask of its contexts, faces and postures."""


# --- The values ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Person:
    """A person in a drawn image, with the ground truth."""

    number: int
    """Unique within an image or a clip."""
    box: Box
    """The tight box of the visible part, in pixels, inside the image."""
    context: str
    face: str
    posture: str
    visible: float = 1.0
    """Visible share of the head, 0..1."""
    since_ns: int = 0
    """The stamp of the last change of face and posture."""

    @property
    def labels(self) -> BoolArray:
        """Mask of the two or three labels in the order of `EMOTIC_LABELS`, (26,)."""
        return _LABELS[self._index]  # type: ignore[no-any-return]

    @property
    def vad(self) -> FloatArray:
        """Valence, arousal and dominance on EMOTIC's scale 1..10, (3,)."""
        return _AFFECT[self._index]  # type: ignore[no-any-return]

    @property
    def unseen(self) -> bool:
        """Whether the combination is in `HELD_OUT`."""
        return (self.face, self.posture, self.context) in HELD_OUT

    @property
    def _index(self) -> tuple[int, int, int]:
        return (
            CONTEXTS.index(self.context), FACES.index(self.face), POSTURES.index(self.posture)
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class DrawnImage:
    """A drawn image and its people, the farthest first."""

    image: ImageArray
    """(H, W, 3), RGB."""
    context: str
    people: tuple[Person, ...]
    masks: tuple[BoolArray, ...]
    """For each person an (H, W) mask of the pixels that show the person."""
    stamp_ns: int = 0

    def scene(self) -> Scene:
        """Return the scene for a recognizer; person 7 has the id p00007."""
        tracks = (Track(f"p{p.number:05d}", p.box, 1.0) for p in self.people)
        return Scene(Frame(self.image, self.stamp_ns, "world"), tuple(tracks))


def ground_truth(people: Sequence[Person]) -> BoolArray:
    """Return the labels of all people, (N, 26)."""
    return np.array([person.labels for person in people], bool).reshape(-1, len(EMOTIC_LABELS))


def affect(people: Sequence[Person]) -> FloatArray:
    """Return valence, arousal and dominance of all people on the scale 1..10, (N, 3)."""
    return np.array([person.vad for person in people], float).reshape(-1, 3)


def check_part(part: str) -> None:
    """Check the name of a part of the world.

    Raises:
        ValueError: The name is not in `PARTS`.
    """
    if part not in PARTS:
        raise ValueError(f"there is no part {part!r}: choose one of {', '.join(PARTS)}")


# --- The oracle ---------------------------------------------------------------------------------

_KNOWN: dict[str, tuple[str, ...]] = {
    known: tuple(known.split("+"))
    for known in ("nothing", "context", "face", "posture", "face+posture", "face+context",
                  "posture+context", "everything")
}  # fmt: skip
ORACLE_INPUTS = tuple(_KNOWN)
"""What `oracle` can know about a person."""


def oracle(people: Sequence[Person], known: str, part: str = "all") -> FloatArray:
    """Return the best possible scores, (N, 26), from partial knowledge of each person.

    The scores are the label frequencies among the combinations of `part` that fit what is known;
    if none fits, among all combinations that fit. With part "seen" they are the best that a model
    can learn from training. They are for ranking: a thousandth of the prior is mixed in, because
    average precision requires scores that are not plain labels.

    Args:
        people: The people to score.
        known: What the oracle knows, one of `ORACLE_INPUTS`.
        part: The part of the world whose frequencies it knows, one of `PARTS`.

    Raises:
        ValueError: The knowledge or the part does not exist.
    """
    if known not in _KNOWN:
        raise ValueError(
            f"an oracle cannot know {known!r}: choose one of {', '.join(ORACLE_INPUTS)}"
        )
    check_part(part)
    hidden = tuple(
        axis for axis, name in enumerate(("context", "face", "posture"))
        if name not in _KNOWN[known] and known != "everything"
    )  # fmt: skip

    def frequency(occurs: BoolArray) -> tuple[FloatArray, FloatArray]:
        weights = occurs[..., None].astype(float)
        mass = weights.sum(axis=hidden, keepdims=True)
        return (_LABELS * weights).sum(axis=hidden, keepdims=True) / np.maximum(mass, 1), mass

    scores, mass = frequency(OCCURS[part])
    scores = np.where(mass > 0, scores, frequency(OCCURS["all"])[0])
    scores = np.broadcast_to(0.999 * scores + 0.001 * _LABELS.mean(axis=(0, 1, 2)), _LABELS.shape)
    rows = [scores[person._index] for person in people]
    return np.array(rows, float).reshape(-1, len(EMOTIC_LABELS))

"""A small drawn world whose truth is known: the measuring instrument of the project.

Real data sets cannot be shipped, so this one is painted. What a person feels follows from face,
posture and context, by written tables (`tables.py`): a smile is happiness at a party and
embarrassment at a funeral; who runs from a dog is afraid, who runs a race is not. The tables are
made so that neither the person nor the context alone says much, and so that they make sense
nevertheless. Every label of EMOTIC occurs, none in fewer than 5 % of the people.

Combinations in `HELD_OUT` form the part "unseen", the others the part "seen". Within a part all of
them are equally frequent. Whatever is drawn depends on its seed and number alone.
"""

from emotion_perception.toy_world.clips import clip
from emotion_perception.toy_world.export import write_bag, write_clip, write_emotic, write_video
from emotion_perception.toy_world.models import ASKED, FOLDER, SEED_OF_TRAINING, SETTINGS
from emotion_perception.toy_world.rules import (
    CONTEXTS,
    FACES,
    HELD_OUT,
    KNOWN,
    PARTS,
    POSTURES,
    TABLE_FACE,
    TABLE_POSTURE,
    Person,
    Picture,
    affect,
    oracle,
    truth,
)
from emotion_perception.toy_world.stills import scene, scenes

__all__ = [
    "ASKED",
    "CONTEXTS",
    "FACES",
    "FOLDER",
    "HELD_OUT",
    "KNOWN",
    "PARTS",
    "POSTURES",
    "SEED_OF_TRAINING",
    "SETTINGS",
    "TABLE_FACE",
    "TABLE_POSTURE",
    "Person",
    "Picture",
    "affect",
    "clip",
    "oracle",
    "scene",
    "scenes",
    "truth",
    "write_bag",
    "write_clip",
    "write_emotic",
    "write_video",
]

"""A small drawn world whose truth is known: the measuring instrument of the project.

Real data sets cannot be shipped, so this one is painted. What a person feels follows from face,
posture and context, by written tables (`tables.py`): a smile is happiness at a party and
embarrassment at a funeral; who runs from a dog is afraid, who runs a race is not. The tables are
made so that neither the person nor the context alone says much, and so that they make sense
nevertheless. Every label of EMOTIC occurs, none in fewer than 5 % of the people.

Combinations in `HELD_OUT` form the part "unseen", the others the part "seen". Within a part all of
them are equally frequent. Whatever is drawn depends on its seed and number alone.
"""

from emotion_perception.toy_world.clips import draw_clip
from emotion_perception.toy_world.export import write_bag, write_clip, write_emotic, write_video
from emotion_perception.toy_world.models import (
    FIRST_TRAINING_SEED,
    MODEL_FOLDER,
    PROMPT_SETTINGS,
    SETTINGS,
)
from emotion_perception.toy_world.rules import (
    CONTEXTS,
    FACE_LABELS,
    FACES,
    HELD_OUT,
    ORACLE_INPUTS,
    PARTS,
    POSTURE_LABELS,
    POSTURES,
    DrawnImage,
    Person,
    affect,
    ground_truth,
    oracle,
)
from emotion_perception.toy_world.stills import draw_image, draw_images

__all__ = [
    "CONTEXTS",
    "FACES",
    "FACE_LABELS",
    "FIRST_TRAINING_SEED",
    "HELD_OUT",
    "MODEL_FOLDER",
    "ORACLE_INPUTS",
    "PARTS",
    "POSTURES",
    "POSTURE_LABELS",
    "PROMPT_SETTINGS",
    "SETTINGS",
    "DrawnImage",
    "Person",
    "affect",
    "draw_clip",
    "draw_image",
    "draw_images",
    "ground_truth",
    "oracle",
    "write_bag",
    "write_clip",
    "write_emotic",
    "write_video",
]

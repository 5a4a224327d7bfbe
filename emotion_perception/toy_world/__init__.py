"""The toy world: drawn people whose emotions are known, as ground truth for tests and measurements.

Real data sets cannot be shipped, so this one is drawn. The labels of a person follow from face,
posture and context by the tables in `rules.py`: a smile is happiness at a party and embarrassment
at a funeral; a person who runs from a dog is afraid, a person who runs a race is not. By design,
neither the person nor the context alone determines much. Every label of EMOTIC occurs, each in at
least 5 % of the people.

The combinations in `HELD_OUT` form the part "unseen", the others the part "seen". The combinations
of a part are equally frequent. An image depends on its seed and number alone.
"""

from emotion_perception.toy_world.clips import draw_clip, draw_still_clip
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
    "draw_still_clip",
    "ground_truth",
    "oracle",
    "write_bag",
    "write_clip",
    "write_emotic",
    "write_video",
]

"""The weights of the loss and the text of the correct answer, checked by hand."""

import numpy as np
import pytest

pytest.importorskip("torch")

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.training import losses

pytestmark = pytest.mark.models


def test_positive_weights_match_values_computed_by_hand():
    truth = np.zeros((1000, 3), bool)
    truth[:10, 0] = True
    truth[:500, 1] = True
    rare, even, absent = losses.positive_weights(truth)
    # (1 - 0.999^990) / (1 - 0.999^10) = 0.6286 / 0.00995 = 63
    assert rare == losses.MAX_POSITIVE_WEIGHT
    assert even == pytest.approx(1.0)
    assert absent == 1.0
    truth[:, 2] = True
    truth[:400, 0] = True
    common, _, universal = losses.positive_weights(truth)
    assert common == pytest.approx((1 - 0.999**600) / (1 - 0.999**400))
    assert universal == 1 / losses.MAX_POSITIVE_WEIGHT


def test_answer_lists_labels_in_the_order_of_the_papers_prompt():
    labels = np.isin(EMOTIC_LABELS, ["peace", "happiness", "doubt/confusion"])
    assert losses.answer_text(labels) == "doubt/confusion, happiness, peace"

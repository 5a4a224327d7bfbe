"""EMOTIC's labels have words of ROS4HRI, or none."""

from pathlib import Path

from support.generated import check_generated

from emotion_perception.core.expressions import (
    EXPRESSION_OF,
    EXPRESSION_WORDS,
    expression_of,
    expression_table,
)
from emotion_perception.core.labels import EMOTIC_LABELS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "expressions.md"
MESSAGE = ROOT / "test" / "support" / "interfaces" / "hri_msgs" / "msg" / "Expression.msg"


def test_each_label_of_emotic_has_a_word_or_explicitly_none():
    assert set(EMOTIC_LABELS) < set(EXPRESSION_OF)
    assert set(EXPRESSION_OF.values()) - {""} <= set(EXPRESSION_WORDS)


def test_words_are_the_constants_of_the_message():
    lines = [line for line in MESSAGE.read_text().splitlines() if "=" in line]
    assert tuple(line.split('"')[1] for line in lines) == EXPRESSION_WORDS


def test_label_without_a_word_gives_way_to_the_next_active_label():
    assert expression_of(["sympathy", "sadness", "peace"]) == ("sadness", "sad")
    assert expression_of(["sympathy", "pain"]) == ("", "")
    assert expression_of([]) == ("", "")


def test_label_of_other_data_keeps_its_word_if_it_is_one():
    assert expression_of(["cheerful", "guilty"]) == ("guilty", "guilty")
    assert expression_of(["", "cheerful"]) == ("", "")


def test_expressions_page_is_up_to_date():
    check_generated(PAGE, expression_table())
    listed = PAGE.read_text().split("The words\n")[1].split(" are never published")[0]
    unused = [word for word in EXPRESSION_WORDS if word not in EXPRESSION_OF.values()]
    assert listed.replace("\n", " ").replace(" and", ",").split(", ") == unused

"""The comparison page: complete HTML, escaped values, and the arrays behind its charts."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from support.evaluation import compare, random_run

from emotion_perception.evaluation import comparison_files
from emotion_perception.evaluation.pages import comparison_charts, comparison_page
from emotion_perception.evaluation.run import Run, people_table

pytestmark = pytest.mark.command

HOSTILE = "<script>alert(1)</script> $x_1$ [red]|`*_\"'"


def render(runs):
    comparison, metrics = compare(runs)
    return comparison_page.render(comparison, runs, metrics)


@pytest.fixture(scope="module")
def page():
    """The page of two runs on different data."""
    return render({"one": random_run(0), "two": random_run(1, data="fedcba")})


class Page(HTMLParser):
    """Elements, references, ids and text of a page; checks that elements are closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.ids, self.text, self.open = [], [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_has_no_external_references(page):
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.tags.count("figure") == parsed.tags.count("svg") == 5 + 2
    assert all(reference.startswith(("#", "data:")) for reference in parsed.references)
    assert "script" not in parsed.tags
    assert not re.search(r"https?:|@import|@font-face", page)
    assert not re.search(r"url\((?!#)", page)
    # Each reference has exactly one target.
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {r[1:] for r in parsed.references if r[0] == "#"} <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parsed.ids)
    assert len(page) < 2_000_000


def test_page_warns_above_the_table(page):
    assert page.index("must not be compared") < page.index("<table")


def test_charts_have_the_colours_of_the_page(page):
    assert "currentColor" in page
    assert "var(--faint)" in re.sub(r"<style>.*?</style>", "", page, count=1, flags=re.DOTALL)
    assert "#010203" not in page
    assert "#040506" not in page


def test_same_runs_make_the_same_page(page):
    assert render({"one": random_run(0), "two": random_run(1, data="fedcba")}) == page


def test_values_of_runs_are_escaped_everywhere():
    fields = ("recognizer", "system", "input", "split", "data", "calibration")
    run = random_run(
        settings={"model": HOSTILE}, dropped={HOSTILE: 1}, **dict.fromkeys(fields, HOSTILE)
    )
    runs = {HOSTILE: run, "_" + HOSTILE: random_run(hard=True)}
    comparison, metrics = compare(runs)
    parsed = Page(comparison_page.render(comparison, runs, metrics))
    assert "script" not in parsed.tags
    assert parsed.text.count(HOSTILE) >= len(fields) + 3
    text = comparison_files.to_markdown(comparison)
    assert "<script>" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ours")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [9, 9]


def test_hard_labels_have_no_curves_and_the_page_says_why():
    parsed = Page(render({"one": random_run(hard=True)}))
    assert parsed.tags.count("figure") == 3
    assert "one has no curves" in parsed.text
    assert "needs scores, not labels" in parsed.text


def test_page_says_what_is_unknown_about_a_run():
    run = random_run()
    kept = ("system", "recognizer", "known", "thresholds")
    manifest = {name: run.manifest[name] for name in kept}
    rows = run.table.drop("people", "height").to_dicts()
    bare = Run(manifest, people_table(rows))
    assert "Height of the box: unknown" in Page(render({"one": bare})).text
    description = compare({"one": bare})[0].descriptions[0]
    assert (description["people dropped"], description["images missing"]) == ("unknown", "unknown")
    without_labels = [{**row, "truth": [False] * 26} for row in rows]
    text = Page(render({"one": Run(manifest, people_table(without_labels))})).text
    assert "no label occurs" in text


def test_precision_recall_curve_matches_values_computed_by_hand():
    truth, scores = np.array([1, 0, 1, 0], bool), np.array([0.9, 0.5, 0.5, 0.1])
    recall, precision = comparison_charts.precision_recall(truth, scores)
    assert recall == pytest.approx([0.5, 1.0])
    assert precision == pytest.approx([1.0, 2 / 3])
    random = np.random.default_rng(0)
    truth, scores = random.random(5000) < 0.3, random.random(5000)
    recall, _ = comparison_charts.precision_recall(truth, scores, points=50)
    assert len(recall) <= 50
    assert recall[-1] == 1.0


def test_reliability_and_calibration_error_use_the_same_bins():
    run = random_run()
    scores, positives, counts = comparison_charts.reliability(run.truth, run.scores)
    error = np.sum(np.abs(scores - positives) * counts) / counts.sum()
    assert error == pytest.approx(run.compute_metrics(rounds=10)["ece_pooled"])
    assert counts.sum() == run.truth.size


def test_page_has_the_calibration_error_of_the_labels_before_the_pooled_one(page):
    words = " ".join(Page(page).text.split())
    assert re.search(r"error, mean of the labels: .+ \d+\.\d\d % \(pooled: \d+\.\d\d %\)", words)


def test_confusion_matches_values_computed_by_hand():
    truth = np.array([[1, 0, 0], [1, 1, 0]], bool)
    predicted = np.array([[1, 0, 0], [0, 0, 1]], bool)
    shares = comparison_charts.confusion(truth, predicted)
    assert shares[0] == pytest.approx([0.5, 0, 0.5])
    assert shares[1] == pytest.approx([0, 0, 1])
    assert np.isnan(shares[2]).all()

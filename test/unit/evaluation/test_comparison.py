"""Several runs in one table: what is marked, what is said about it, and what is written."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from emotion_perception.cli import compare
from emotion_perception.cli.main import main
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.evaluation import comparison
from emotion_perception.evaluation.comparison import OURS, MetricValue, TableRow
from emotion_perception.evaluation.pages import comparison_page as pages
from emotion_perception.evaluation.run import Run, people_table

HOSTILE = "<script>alert(1)</script> $x_1$ [red]|`*_\"'"


def make_run(seed=0, people=60, hard=False, words="", **about):
    """Random truth, and scores that know something of it."""
    random = np.random.default_rng(7)
    truth = random.random((people, 26)) < random.uniform(0.1, 0.7, 26)
    random = np.random.default_rng(seed)
    scores = np.clip(0.3 * truth + 0.7 * random.random((people, 26)), 0, 1)
    scores = (scores > 0.5).astype(float) if hard else scores
    rows = [
        {
            "key": f"person {i}",
            "truth": truth[i].tolist(),
            "scores": scores[i].tolist(),
            "words": words,
            "people": 1 + i % 4,
            "height": 30.0 + i,
        }
        for i in range(people)
    ]
    known = {
        "system": "vlm", "recognizer": "vlm", "settings": {"model": "a/model"}, "split": "test",
        "input": "scene+person", "data": "0123456789abcdef", "known": list(EMOTIC_LABELS),
        "thresholds": [0.5] * 26, "calibration": "", "dropped": {"no box": 3}, "missing": 2,
    }  # fmt: skip
    return Run({**known, **about}, people_table(rows))


def compared(runs, with_published=True):
    figures = {name: run.compute_metrics(rounds=50) for name, run in runs.items()}
    return comparison.comparison(runs, figures, with_published), figures


def paged(runs):
    found, figures = compared(runs)
    return pages.page(found, runs, figures)


@pytest.fixture(scope="module")
def page():
    """Of two runs on different data."""
    return paged({"one": make_run(0), "two": make_run(1, data="fedcba")})


def row(model, low, high, data="d", measure="f1", block=OURS):
    figure = MetricValue((low + high) / 2, 1.0, low, high)
    return TableRow(block, model, {measure: figure}, data)


def marked(*rows):
    return [r.model for r in comparison.mark_best(rows) if r.best]


class Page(HTMLParser):
    """Which elements open and close, what they refer to, their ids, and the text."""

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


def test_the_best_is_marked_where_its_interval_is_apart():
    assert marked(row("a", 10, 12), row("b", 13, 15), row("c", 1, 2)) == ["b"]


def test_nobody_is_marked_where_the_best_interval_overlaps_or_touches_any_other():
    assert marked(row("a", 10, 13.5), row("b", 13, 15), row("c", 1, 2)) == []
    assert marked(row("a", 10, 13), row("b", 13, 15)) == []
    # Wide, and far behind in its value.
    assert marked(row("a", 10, 12), row("b", 13, 15), row("c", 0, 14)) == []


def test_a_low_hamming_loss_is_the_best():
    assert marked(row("a", 10, 12, measure="hamming"), row("b", 13, 15, measure="hamming")) == ["a"]


def test_each_column_has_its_own_best():
    one = TableRow(
        OURS, "one", {"f1": MetricValue(5, 1, 4, 6), "map": MetricValue(9, 1, 8, 10)}, "d"
    )
    two = TableRow(
        OURS, "two", {"f1": MetricValue(8, 1, 7, 9), "map": MetricValue(5, 1, 4, 6)}, "d"
    )
    assert [r.best for r in comparison.mark_best([one, two])] == [{"map"}, {"f1"}]


def test_other_data_are_no_rivals():
    assert marked(row("a", 10, 12, "d"), row("b", 13, 15, "e")) == []
    assert marked(row("a", 10, 12, "d"), row("b", 13, 15, "d"), row("c", 11, 16, "e")) == ["b"]


def test_who_is_alone_or_has_no_interval_or_is_another_reading_of_a_run_is_not_marked():
    assert marked(row("a", 10, 12)) == []
    bare = TableRow(OURS, "b", {"f1": MetricValue(20)}, "d")
    assert marked(row("a", 10, 12), bare) == []
    assert marked(row("a", 10, 12), row("a", 20, 22, block=comparison.AS_IN_PAPER)) == []


def test_the_published_rows_are_those_of_the_papers():
    rows = comparison.published()
    full = {r.model: r for r in rows if "map" not in r.figures}
    bare = {r.model: r for r in rows if "map" in r.figures}
    assert (len(full), len(bare)) == (17, 13)
    assert [r.block for r in full.values()].count("trained") == 6
    best = full["LLaVA-F (val augmented)"].figures
    assert [str(f) for f in best.values()] == [
        "38.71 ± 0.55", "39.52 ± 0.42", "36.83 ± 0.37", "14.13 ± 0.08", "2.90 ± 0.17",
    ]  # fmt: skip
    assert str(full["GPT-4 vision*"].figures["f1"]) == "34.47 ± 0.35"
    assert str(full["Majority"].figures["recall"]) == "23.08 ± 0.00"
    assert str(full["Rand6"].figures["subset"]) == "0.00"
    assert (bare["EMOTIC (Kosti)"].figures["map"].value, bare["LLaVA"].figures["map"].value) == (
        27.38,
        18.40,
    )
    f1 = best["f1"]
    assert (f1.low, f1.high) == pytest.approx((36.83 - 1.96 * 0.37, 36.83 + 1.96 * 0.37))


def test_published_rows_stand_beside_ours_and_are_never_marked():
    runs = {"one": make_run(0), "two": make_run(1)}
    found, figures = compared(runs)
    assert [r.block for r in found.rows].count(OURS) == 2
    assert len(found.rows) == 2 + 17 + 13
    assert not any(r.best for r in found.rows if not r.data)
    assert found.rows[0].figures["f1"].value == 100 * figures["one"]["decisions"]["f1"]["value"]
    assert len(compared(runs, with_published=False)[0].rows) == 2


def test_other_people_than_the_published_ones_are_pointed_out():
    warned = compared({"one": make_run(split="val")})[0].warnings
    assert len(warned) == 1
    assert "7,203" in warned[0]
    assert "one (val, 60 people)" in warned[0]
    assert compared({"one": make_run()}, with_published=False)[0].warnings == ()


def test_different_data_are_warned_about_above_the_table(page):
    runs = {"one": make_run(0), "two": make_run(1, data="fedcba")}
    found, _ = compared(runs, with_published=False)
    assert "2 different data (0123456789abcdef: one; fedcba: two)" in found.warnings[0]
    assert not any(r.best for r in found.rows)
    text = comparison.markdown(found)
    assert text.index("must not be compared") < text.index("| ours |")
    assert page.index("must not be compared") < page.index("<table")
    unknown = {name: make_run(data="") for name in ("one", "two")}
    assert "different data" in compared(unknown, with_published=False)[0].warnings[0]


def test_the_table_says_what_each_run_was():
    about = compared({"one": make_run(input="person")})[0].descriptions[0]
    expected = {
        "run": "one", "system": "vlm", "model": "a/model", "input": "person", "split": "test",
        "data": "0123456789abcdef", "people": "60", "judged": "60",
        "people dropped": "3: no box", "pictures missing": "2",
    }  # fmt: skip
    assert expected.items() <= about.items()


def test_what_a_system_wrote_is_read_as_in_the_paper_too():
    found, _ = compared({"one": make_run(words="happiness", writes=True)}, with_published=False)
    assert [r.block for r in found.rows] == [OURS, comparison.AS_IN_PAPER]
    assert "map" not in found.rows[1].figures


def test_markdown_bolds_what_is_marked():
    found, _ = compared({"one": make_run(0)}, with_published=False)
    best = replace(found.rows[0], best=frozenset({"f1"}))
    text = comparison.markdown(replace(found, rows=(best,)))
    assert text.count(f"**{best.figures['f1']}**") == 1
    line = next(line for line in text.splitlines() if line.startswith("| ours"))
    assert line.count("**") == 2
    assert line.count("|") == 2 + 1 + len(comparison.MEASURES)


def test_csv_reads_back_the_same_figures():
    found, _ = compared({"one, with a comma": make_run(0), "two": make_run(1)})
    back = list(csv.DictReader(io.StringIO(comparison.to_csv(found))))
    assert len(back) == len(found.rows)
    for line, expected in zip(back, found.rows, strict=True):
        assert (line["model"], line["data"]) == (expected.model, expected.data)
        assert set(line["best"].split()) == expected.best
        for name in comparison.MEASURES:
            figure = expected.figures.get(name, MetricValue(np.nan))
            for part in ("value", "sd", "low", "high"):
                cell = line[name if part == "value" else f"{name}_{part}"]
                value = getattr(figure, part)
                if value is None or np.isnan(value):
                    assert cell == ""
                else:
                    assert float(cell) == pytest.approx(value, abs=1e-6)


def test_the_page_needs_nothing_else(page):
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.tags.count("figure") == parsed.tags.count("svg") == 5 + 2
    assert all(reference.startswith(("#", "data:")) for reference in parsed.references)
    assert "script" not in parsed.tags
    assert not re.search(r"https?:|@import|@font-face", page)
    assert not re.search(r"url\((?!#)", page)
    # What is referred to is there, and once.
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {r[1:] for r in parsed.references if r[0] == "#"} <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parsed.ids)
    assert len(page) < 2_000_000


def test_the_same_runs_make_the_same_page(page):
    assert paged({"one": make_run(0), "two": make_run(1, data="fedcba")}) == page


def test_what_comes_from_runs_is_text_everywhere():
    fields = ("recognizer", "system", "input", "split", "data", "calibration")
    run = make_run(
        settings={"model": HOSTILE}, dropped={HOSTILE: 1}, **dict.fromkeys(fields, HOSTILE)
    )
    runs = {HOSTILE: run, "_" + HOSTILE: make_run(hard=True)}
    found, figures = compared(runs)
    parsed = Page(pages.page(found, runs, figures))
    assert "script" not in parsed.tags
    assert parsed.text.count(HOSTILE) >= len(fields) + 3
    text = comparison.markdown(found)
    assert "<script>" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ours")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [9, 9]


def test_hard_labels_have_no_curves_and_the_page_says_why():
    parsed = Page(paged({"one": make_run(hard=True)}))
    assert parsed.tags.count("figure") == 3
    assert "one has no curves" in parsed.text
    assert "needs scores, not labels" in parsed.text


def test_a_run_of_somebody_elses_predictions_lacks_some_things_and_is_shown():
    run = make_run()
    about = {k: run.manifest[k] for k in ("system", "recognizer", "known", "thresholds")}
    bare = run.table.drop("people", "height").to_dicts()
    assert "Height of the box: unknown" in Page(paged({"one": Run(about, people_table(bare))})).text
    told = compared({"one": Run(about, people_table(bare))})[0].descriptions[0]
    assert (told["people dropped"], told["pictures missing"]) == ("unknown", "unknown")
    nothing = [{**line, "truth": [False] * 26} for line in bare]
    assert "no label occurs" in Page(paged({"one": Run(about, people_table(nothing))})).text


def test_another_background_is_told_where_nothing_else_differs():
    runs = {"plain": make_run(0), "swapped": make_run(1, input="swap")}
    lines = pages.swaps(runs)
    assert len(lines) == 1
    assert "swapped against plain" in lines[0]
    assert "of 60 people" in lines[0]
    runs["swapped"].manifest["recognizer"] = "another"
    assert pages.swaps(runs) == []


def test_a_precision_recall_curve_by_hand():
    truth, scores = np.array([1, 0, 1, 0], bool), np.array([0.9, 0.5, 0.5, 0.1])
    recall, precision = pages.precision_recall(truth, scores)
    assert recall == pytest.approx([0.5, 1.0])
    assert precision == pytest.approx([1.0, 2 / 3])
    random = np.random.default_rng(0)
    many = pages.precision_recall(random.random(5000) < 0.3, random.random(5000), points=50)
    assert len(many[0]) <= 50
    assert many[0][-1] == 1.0


def test_reliability_and_calibration_error_are_of_the_same_bins():
    run = make_run()
    said, true, counts = pages.reliability(run.truth, run.scores)
    error = np.sum(np.abs(said - true) * counts) / counts.sum()
    figures = run.compute_metrics(rounds=10)
    assert error == pytest.approx(figures["ece"])
    assert counts.sum() == run.truth.size


def test_confusion_by_hand():
    truth = np.array([[1, 0, 0], [1, 1, 0]], bool)
    chosen = np.array([[1, 0, 0], [0, 0, 1]], bool)
    found = pages.confusion(truth, chosen)
    assert found[0] == pytest.approx([0.5, 0, 0.5])
    assert found[1] == pytest.approx([0, 0, 1])
    assert np.isnan(found[2]).all()


@pytest.fixture
def folders(tmp_path):
    """Two runs as `evaluate` leaves them, but measured with few rounds."""
    made = []
    for seed, name in enumerate(("one", "two")):
        run = make_run(seed)
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        run.table.write_parquet(folder / "people.parquet")
        (folder / "run.json").write_text(json.dumps(run.manifest))
        (folder / "metrics.json").write_text(json.dumps(run.compute_metrics(rounds=20)))
        made.append(folder)
    return made


def test_figures_are_read_where_they_are_of_this_run_and_measured_anew_otherwise(folders):
    one, two = folders
    run = Run.read(one)
    stored = json.loads((one / "metrics.json").read_text())
    assert comparison.load_metrics(one, run) == stored
    for text in ((two / "metrics.json").read_text(), '{"people": 6', "[]", '{"map": null}'):
        (one / "metrics.json").write_text(text)
        found = comparison.load_metrics(one, run)
        assert found["decisions"]["f1"]["value"] == stored["decisions"]["f1"]["value"]
        assert found["map"]["value"] == stored["map"]["value"]


def test_the_command_writes_three_files_and_shows_the_table(folders, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", *map(str, folders), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "GPT-4 vision*" in shown
    assert "must not be compared" not in shown
    assert "compare.html" in shown.replace("\n", "")
    assert sorted(p.name for p in out.iterdir()) == ["compare.csv", "compare.html", "compare.md"]
    assert main(["compare", str(folders[0]), "--out", str(out), "--no-published"]) == 0
    assert "GPT-4" not in capsys.readouterr().out + (out / "compare.html").read_text()


def test_what_cannot_be_compared_is_refused(folders, tmp_path, capsys):
    one = folders[0]

    def refused(*given):
        assert main(["compare", *map(str, given), "--out", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "is not a run" in refused(tmp_path / "nothing")
    assert "given twice" in refused(one, one.parent / "two" / ".." / "one")
    (one / "people.parquet").write_bytes(b"half a file")
    assert "is damaged" in refused(one)
    (one / "people.parquet").unlink()
    assert "is incomplete" in refused(one)


def test_runs_of_the_same_name_are_told_apart_by_their_parents(tmp_path):
    given = [tmp_path / path for path in ("a/x/run", "b/x/run", "c/y/run", "other")]
    assert list(compare.named(given)) == ["a/x/run", "b/x/run", "y/run", "other"]

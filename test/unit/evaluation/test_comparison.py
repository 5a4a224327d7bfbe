"""Comparison: rows, marks, warnings, Markdown and CSV, and the command."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from support.evaluation import compare, random_run

from emotion_perception.cli.main import main
from emotion_perception.evaluation import comparison, comparison_files
from emotion_perception.evaluation.comparison import AS_IN_PAPER, OURS, MetricValue, TableRow
from emotion_perception.evaluation.run import Run

pytestmark = pytest.mark.command


def row(model, low, high, data="d", measure="f1", block=OURS):
    value = MetricValue((low + high) / 2, 1.0, low, high)
    return TableRow(block, model, {measure: value}, data)


def marked(*rows):
    return [r.model for r in comparison.mark_best(rows) if r.best]


def test_best_value_is_marked_if_its_interval_overlaps_no_other():
    assert marked(row("a", 10, 12), row("b", 13, 15), row("c", 1, 2)) == ["b"]


def test_no_value_is_marked_if_the_best_interval_overlaps_or_touches_another():
    assert marked(row("a", 10, 13.5), row("b", 13, 15), row("c", 1, 2)) == []
    assert marked(row("a", 10, 13), row("b", 13, 15)) == []
    # A wide interval, although the value is far behind.
    assert marked(row("a", 10, 12), row("b", 13, 15), row("c", 0, 14)) == []


def test_lower_hamming_loss_is_the_best():
    assert marked(row("a", 10, 12, measure="hamming"), row("b", 13, 15, measure="hamming")) == ["a"]


def test_each_column_has_its_own_best_value():
    a = TableRow(OURS, "a", {"f1": MetricValue(5, 1, 4, 6), "map": MetricValue(9, 1, 8, 10)}, "d")
    b = TableRow(OURS, "b", {"f1": MetricValue(8, 1, 7, 9), "map": MetricValue(5, 1, 4, 6)}, "d")
    assert [r.best for r in comparison.mark_best([a, b])] == [{"map"}, {"f1"}]


def test_runs_on_other_data_do_not_compete():
    assert marked(row("a", 10, 12, "d"), row("b", 13, 15, "e")) == []
    assert marked(row("a", 10, 12, "d"), row("b", 13, 15, "d"), row("c", 11, 16, "e")) == ["b"]


def test_no_value_is_marked_without_a_comparable_row():
    assert marked(row("a", 10, 12)) == []
    bare = TableRow(OURS, "b", {"f1": MetricValue(20)}, "d")
    assert marked(row("a", 10, 12), bare) == []
    assert marked(row("a", 10, 12), row("a", 20, 22, block=AS_IN_PAPER)) == []


def test_published_rows_are_those_of_the_papers():
    rows = comparison.published_rows()
    full = {r.model: r for r in rows if "map" not in r.values}
    map_only = {r.model: r for r in rows if "map" in r.values}
    assert (len(full), len(map_only)) == (17, 13)
    assert [r.block for r in full.values()].count("trained") == 6
    best = full["LLaVA-F (val augmented)"].values
    assert [str(value) for value in best.values()] == [
        "38.71 ± 0.55", "39.52 ± 0.42", "36.83 ± 0.37", "14.13 ± 0.08", "2.90 ± 0.17",
    ]  # fmt: skip
    assert str(full["GPT-4 vision*"].values["f1"]) == "34.47 ± 0.35"
    assert str(full["Majority"].values["recall"]) == "23.08 ± 0.00"
    assert str(full["Rand6"].values["subset"]) == "0.00"
    assert map_only["EMOTIC (Kosti)"].values["map"].value == 27.38
    assert map_only["LLaVA"].values["map"].value == 18.40
    f1 = best["f1"]
    assert (f1.low, f1.high) == pytest.approx((36.83 - 1.96 * 0.37, 36.83 + 1.96 * 0.37))


def test_published_rows_follow_ours_and_are_never_marked():
    runs = {"one": random_run(0), "two": random_run(1)}
    result, metrics = compare(runs)
    assert [r.block for r in result.rows].count(OURS) == 2
    assert len(result.rows) == 2 + 17 + 13
    assert not any(r.best for r in result.rows if not r.data)
    assert result.rows[0].values["f1"].value == 100 * metrics["one"]["decisions"]["f1"]["value"]
    assert len(compare(runs, with_published=False)[0].rows) == 2


def test_warning_if_a_run_has_other_people_than_the_published_values():
    (warning,) = compare({"one": random_run(split="val")})[0].warnings
    assert "7,203" in warning
    assert "one (val, 60 people)" in warning
    assert compare({"one": random_run()}, with_published=False)[0].warnings == ()


def test_warning_about_different_data_stands_above_the_table():
    runs = {"one": random_run(0), "two": random_run(1, data="fedcba")}
    result, _ = compare(runs, with_published=False)
    assert "2 different data (0123456789abcdef: one; fedcba: two)" in result.warnings[0]
    assert not any(r.best for r in result.rows)
    text = comparison_files.to_markdown(result)
    assert text.index("must not be compared") < text.index("| ours |")
    unknown = {name: random_run(data="") for name in ("one", "two")}
    assert "different data" in compare(unknown, with_published=False)[0].warnings[0]


def test_description_of_a_run_names_system_data_and_people():
    description = compare({"one": random_run(input="person")})[0].descriptions[0]
    expected = {
        "run": "one", "system": "vlm", "model": "a/model", "input": "person", "split": "test",
        "data": "0123456789abcdef", "people": "60", "assessed": "60",
        "people dropped": "3: no box", "images missing": "2",
    }  # fmt: skip
    assert expected.items() <= description.items()


def test_generated_text_is_also_read_as_in_the_paper():
    result, _ = compare({"one": random_run(text="happiness", writes=True)}, with_published=False)
    assert [r.block for r in result.rows] == [OURS, AS_IN_PAPER]
    assert "map" not in result.rows[1].values


def test_markdown_bolds_marked_values():
    result, _ = compare({"one": random_run(0)}, with_published=False)
    best = replace(result.rows[0], best=frozenset({"f1"}))
    text = comparison_files.to_markdown(replace(result, rows=(best,)))
    assert text.count(f"**{best.values['f1']}**") == 1
    line = next(line for line in text.splitlines() if line.startswith("| ours"))
    assert line.count("**") == 2
    assert line.count("|") == 2 + 1 + len(comparison.MEASURES)


def test_csv_contains_all_values():
    result, _ = compare({"one, with a comma": random_run(0), "two": random_run(1)})
    lines = list(csv.DictReader(io.StringIO(comparison_files.to_csv(result))))
    assert len(lines) == len(result.rows)
    for line, expected in zip(lines, result.rows, strict=True):
        assert (line["model"], line["data"]) == (expected.model, expected.data)
        assert set(line["best"].split()) == expected.best
        for name in comparison.MEASURES:
            value = expected.values.get(name, MetricValue(np.nan))
            for part in ("value", "sd", "low", "high"):
                cell = line[name if part == "value" else f"{name}_{part}"]
                number = getattr(value, part)
                if number is None or np.isnan(number):
                    assert cell == ""
                else:
                    assert float(cell) == pytest.approx(number, abs=1e-6)


def test_effect_of_a_swapped_background_is_described_if_nothing_else_differs():
    runs = {"plain": random_run(0), "swapped": random_run(1, input="swap")}
    (sentence,) = compare(runs)[0].background_effects
    assert "swapped against plain" in sentence
    assert "of 60 people" in sentence
    runs["swapped"].manifest["recognizer"] = "another"
    assert compare(runs)[0].background_effects == ()


@pytest.fixture
def folders(tmp_path):
    """Two run folders as `evaluate` writes them, with fewer rounds of the bootstrap."""
    paths = []
    for seed, name in enumerate(("one", "two")):
        run = random_run(seed)
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        run.table.write_parquet(folder / "people.parquet")
        (folder / "run.json").write_text(json.dumps(run.manifest))
        (folder / "metrics.json").write_text(json.dumps(run.compute_metrics(rounds=20)))
        paths.append(folder)
    return paths


def test_stored_metrics_are_used_only_if_they_match_the_run(folders):
    one, two = folders
    run = Run.read(one)
    stored = json.loads((one / "metrics.json").read_text())
    assert comparison.load_metrics(one, run) == stored
    older = {k: v for k, v in stored.items() if k != "ece_pooled"} | {"ece": stored["ece_pooled"]}
    texts = (json.dumps(older), (two / "metrics.json").read_text(), '{"people": 6', "[]")
    for text in (*texts, '{"map": null}'):
        (one / "metrics.json").write_text(text)
        metrics = comparison.load_metrics(one, run)
        assert metrics["decisions"]["f1"]["value"] == stored["decisions"]["f1"]["value"]
        assert metrics["map"]["value"] == stored["map"]["value"]
        assert metrics["ece"] == stored["ece"] != stored["ece_pooled"]


def test_command_writes_three_files_and_prints_the_table(folders, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", *map(str, folders), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "GPT-4 vision*" in printed
    assert "must not be compared" not in printed
    assert "compare.html" in printed.replace("\n", "")
    assert sorted(p.name for p in out.iterdir()) == ["compare.csv", "compare.html", "compare.md"]
    assert main(["compare", str(folders[0]), "--out", str(out), "--no-published"]) == 0
    assert "GPT-4" not in capsys.readouterr().out + (out / "compare.html").read_text()


def test_compare_says_why_a_folder_cannot_be_compared(folders, tmp_path, capsys):
    one = folders[0]

    def error(*arguments):
        assert main(["compare", *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "is not a run" in error(tmp_path / "nothing")
    assert "is passed twice" in error(one, one.parent / "two" / ".." / "one")
    (one / "people.parquet").write_bytes(b"half a file")
    assert "is damaged" in error(one)
    (one / "people.parquet").unlink()
    assert "is incomplete" in error(one)


def test_runs_of_the_same_name_are_named_by_their_parents(tmp_path):
    folders = [tmp_path / path for path in ("a/x/run", "b/x/run", "c/y/run", "other")]
    assert list(comparison_files.name_folders(folders)) == ["a/x/run", "b/x/run", "y/run", "other"]

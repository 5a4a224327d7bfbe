"""Predictions of other programs: texts, scores, ground truth, and files with errors."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy.io")

from support.emotic_files import HEAD, LINE
from support.evaluation import evaluate, evaluate_error, read_metrics, read_table

from emotion_perception.core.labels import EMOTIC_LABELS, label_array
from emotion_perception.evaluation import metrics, predictions
from emotion_perception.evaluation.run import Run

pytestmark = pytest.mark.command

LABELS = {
    "mscoco/a_0.jpg": ["happiness", "pleasure"],
    "mscoco/a_1.jpg": ["fear"],
    "mscoco/b_0.jpg": ["doubt/confusion", "sadness"],
}
TEXTS = {
    "mscoco/a_0.jpg": "The person feels Happiness and displeasure.",
    "mscoco/a_1.jpg": "they look fearful",
    "mscoco/b_0.jpg": "Confusion; sadness.",
}


@pytest.fixture
def write_files(tmp_path):
    """Write the files of predictions and of labels; return the arguments of the command."""

    def write(lines, labels=LABELS):
        file, truth = tmp_path / "gpt.jsonl", tmp_path / "labels.csv"
        file.write_text(
            lines if isinstance(lines, str) else "\n".join(map(json.dumps, lines)) + "\n"
        )
        truth.write_text(labels if isinstance(labels, str) else as_published(labels))
        return ("predictions", file, "--labels", truth, "--out", tmp_path / "run")

    return write


def as_published(labels):
    """Return labels in the format of the authors of the paper."""
    return "".join(f'{key},"{names}"\n' for key, names in labels.items())


def texts(by_key=TEXTS):
    return [{"image": key, "text": text} for key, text in by_key.items()]


def write_texts(path, keys, text="Peace"):
    path.write_text("\n".join(json.dumps({"image": key, "text": text}) for key in keys))
    return path


def predicted_labels(folder):
    rows = Run.read(folder).predicted
    return [[EMOTIC_LABELS[i] for i in np.flatnonzero(row)] for row in rows]


@pytest.mark.parametrize("extraction", ["word", "paper"])
def test_thoughts_in_texts_name_no_label(write_files, tmp_path, extraction):
    lines = texts()
    for line in lines:
        line["text"] = "<think>pain, fear, anger</think> happiness"
    lines[1]["text"] = "<think>the person shows pain, fear or"
    assert evaluate(*write_files(lines), "--extraction", extraction) == 0
    assert predicted_labels(tmp_path / "run") == [["happiness"], [], ["happiness"]]
    rows = Run.read(tmp_path / "run")
    assert [list(np.flatnonzero(row)) for row in rows.predicted_as_in_paper] == [
        list(np.flatnonzero(row)) for row in rows.predicted
    ]


def test_labels_are_extracted_as_whole_words_or_as_substrings(write_files, tmp_path):
    arguments = write_files(texts())
    assert evaluate(*arguments) == 0
    assert predicted_labels(tmp_path / "run") == [["happiness"], [], ["doubt/confusion", "sadness"]]
    words = read_metrics(tmp_path / "run")
    assert (words["people"], words["judged"]) == (3, 2)
    reasons = read_table(tmp_path / "run")["reason"].to_list()
    assert reasons == ["", "the text names no label", ""]
    assert evaluate(*arguments[:-1], tmp_path / "paper", "--extraction", "paper") == 0
    assert predicted_labels(tmp_path / "paper") == [["pleasure"], ["fear"], ["sadness"]]
    paper = read_metrics(tmp_path / "paper")
    assert paper["judged"] == 3
    assert words["decisions_as_in_paper"] == paper["decisions"] != words["decisions"]
    # By hand: happiness, doubt/confusion and sadness are right, pleasure and fear are missed.
    assert words["decisions"]["recall"]["value"] == pytest.approx(3 / 26)
    assert words["decisions"]["hamming"]["value"] == pytest.approx(2 / 78)
    assert paper["decisions"]["subset"]["value"] == pytest.approx(1 / 3)


def test_scores_may_be_an_object_or_a_list(write_files, tmp_path):
    random = np.random.default_rng(0)
    scores = {key: random.random(26).round(3).tolist() for key in LABELS}
    named = [dict(zip(map(str.title, EMOTIC_LABELS), s, strict=True)) for s in scores.values()]
    lines = [{"image": key, "scores": s} for key, s in zip(scores, named, strict=True)]
    lines[1]["scores"] = scores[lines[1]["image"]]
    assert evaluate(*write_files(lines[::-1])) == 0
    run = Run.read(tmp_path / "run")
    np.testing.assert_array_equal(run.scores, list(scores.values()))
    np.testing.assert_array_equal(run.predicted, run.scores > 0.5)
    assert run.table["key"].to_list() == list(LABELS)
    values = read_metrics(tmp_path / "run")
    expected = metrics.mean_average_precision(run.truth, run.scores)
    assert values["map"]["value"] == pytest.approx(expected)
    assert "decisions_as_in_paper" not in values


def test_extraction_from_scores_is_an_error(write_files, capsys):
    arguments = write_files([{"image": key, "scores": [0.1] * 26} for key in LABELS])
    message = evaluate_error(capsys, *arguments, "--extraction", "paper")
    assert "generated no text" in message


def test_ground_truth_is_read_from_the_data_set(toy_emotic, data, tmp_path):
    file = tmp_path / "scores.jsonl"
    file.write_text(
        "\n".join(
            json.dumps({"image": p.key, "scores": [0.999 if x else 0.001 for x in p.labels]})
            for p in data.people
        )
    )
    arguments = ("predictions", file, "--root", toy_emotic, "--out", tmp_path / "run")
    assert evaluate(*arguments) == 0
    run = Run.read(tmp_path / "run")
    assert read_metrics(tmp_path / "run")["decisions"]["subset"]["value"] == 1
    assert run.manifest["data"] == data.fingerprint(), "it can be compared with other runs"
    assert run.table["people"].to_list() == [len(i.people) for i in data.images for _ in i.people]
    file.write_text(file.read_text().replace("0.999", "0.001"))
    assert evaluate(*arguments) == 0, "corrected predictions replace the old ones"
    assert read_metrics(tmp_path / "run")["decisions"]["recall"]["value"] == 0


def test_predictions_need_no_images_and_dropped_people_are_reported(
    damaged_emotic, tmp_path, capsys
):
    shutil.rmtree(damaged_emotic / "emotic")
    keys = [f"mscoco/{x}.jpg" for x in ("a_0", "a_1", "broken_0", "gone_0", "nan_1")]
    file = write_texts(tmp_path / "texts.jsonl", keys)
    arguments = ("predictions", file, "--root", damaged_emotic, "--out", tmp_path / "run")
    assert evaluate(*arguments) == 0
    assert "1 people are left out: valence, arousal or dominance is NaN" in capsys.readouterr().err
    run = Run.read(tmp_path / "run")
    assert run.table["key"].to_list() == keys
    assert list(run.manifest["dropped"].values()) == [1]
    assert run.manifest["missing"] == 0


def test_subset_evaluates_common_people_and_reports_the_others(write_files, tmp_path, capsys):
    lines = [*texts()[:2], *({"image": f"{i}.jpg", "text": "Fear"} for i in range(3))]
    arguments = write_files(lines)
    assert "or add --subset" in evaluate_error(capsys, *arguments)
    assert evaluate(*arguments, "--subset") == 0
    output = " ".join(capsys.readouterr().err.split())
    assert "3 predictions are left out: no ground truth" in output
    assert "1 people are left out: no prediction" in output
    run = Run.read(tmp_path / "run")
    assert run.table["key"].to_list() == list(LABELS)[:2]
    assert run.manifest["dropped"] == {"no prediction": 1}
    assert run.manifest["predictions_without_truth"] == 3
    message = evaluate_error(capsys, *write_files(lines[2:]), "--subset")
    assert "only keys such as '0.jpg' and 'mscoco/a_0.jpg'" in message


def test_subset_has_another_data_fingerprint_than_all_people(toy_emotic, data, tmp_path):
    keys = [person.key for person in data.people]
    fingerprints = {}
    for number in (len(keys), len(keys) - 1):
        file = write_texts(tmp_path / f"{number}.jsonl", keys[:number])
        out = tmp_path / str(number)
        assert evaluate("predictions", file, "--root", toy_emotic, "--out", out, "--subset") == 0
        fingerprints[number] = Run.read(out).manifest["data"]
    assert fingerprints[len(keys)] == data.fingerprint() != fingerprints[len(keys) - 1]


def test_ground_truth_from_csv_warns_that_keys_may_differ(tmp_path, capsys):
    (tmp_path / "test.csv").write_text(HEAD + LINE.replace("nan", "4.0"))
    file = write_texts(tmp_path / "texts.jsonl", ["mscoco/a_0.jpg"], "Fear")
    assert evaluate("predictions", file, "--root", tmp_path, "--out", tmp_path / "run") == 0
    output = " ".join(capsys.readouterr().err.split())
    assert "keys from Annotations.mat may mean other people" in output


@pytest.mark.parametrize(
    "table",
    [
        "image;labels;\n{};['fear', 'anger'];\n{};['peace'];;\n;;\n",
        "sep=;\n{};Fear, anger\n{};peace\n",
        '{},"Fear; anger"\n{},peace\n',
        "image\tlabels\n{}\tfear,anger\n{}\tpeace\n",
    ],
)
def test_labels_as_spreadsheets_write_them(tmp_path, table):
    path = tmp_path / "labels.csv"
    path.write_text(table.format("a.jpg", "b.jpg"))
    anger_and_fear, peace = label_array(["anger", "fear"]), label_array(["peace"])
    rows = [("a.jpg", anger_and_fear.tolist()), ("b.jpg", peace.tolist())]
    assert predictions.read_labels(path) == rows


def test_header_empty_lines_and_upper_case_labels_are_allowed(write_files, tmp_path):
    labels = "\ufeffimage,labels\n\n" + as_published(LABELS).replace("'fear'", "'Fear'") + "\n"
    assert evaluate(*write_files(texts(), labels)) == 0
    truth = Run.read(tmp_path / "run").truth
    np.testing.assert_array_equal(truth, [label_array(names) for names in LABELS.values()])


HALF = json.dumps(texts()[0])[:-9]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "gpt.jsonl: it contains no predictions"),
        ("\n\n", "gpt.jsonl: it contains no predictions"),
        (
            [*texts(), texts()[1]],
            "line 4 is not a prediction: the key 'mscoco/a_1.jpg' occurs twice",
        ),
        ([*texts()[:2], {"image": "mscoco/b_0.jpg"}], "line 3 is not a prediction: it lacks 'text"),
        ([{"text": "Fear"}], "line 1 is not a prediction: it lacks 'image'"),
        ([{"image": 3, "text": "Fear"}], "the image key 3 is not a string"),
        ([{"image": "a", "text": ["Fear"]}], "the text ['Fear'] is not a string"),
        (["Fear"], "line 1 is not a prediction"),
        ([*texts()[:2]], "1 people have no prediction ('mscoco/b_0.jpg', ...)"),
        (
            [*texts(), {"image": "x.jpg", "text": "Fear"}],
            "1 predictions have no ground truth ('x.jpg', ..",
        ),
        (json.dumps(texts()[1]) + "\n" + HALF, "line 2 is not a prediction"),
        ([{"image": "a", "scores": [0.5] * 25}], "25 scores instead of 26"),
        ([{"image": "a", "scores": "0" * 26}], "are a string"),
        ([{"image": "a", "scores": None}], "line 1 is not a prediction"),
        ([{"image": "a", "scores": [0.5] * 25 + [1.2]}], "the score 1.2 is outside [0, 1]"),
        ([{"image": "a", "scores": [0.5] * 25 + [float("nan")]}], "the score nan is outside"),
        ([{"image": "a", "scores": {"fear": 1}}], "scores of affection, anger"),
        ([{"image": "a", "scores": {"joy": 1}}], "'joy' is not an EMOTIC label"),
        (
            [*texts()[:2], {"image": "mscoco/b_0.jpg", "scores": [0.1] * 26}],
            "some lines have a text",
        ),
    ],
)
def test_bad_predictions_are_an_error_and_leave_no_run(
    write_files, tmp_path, capsys, lines, message
):
    assert message in evaluate_error(capsys, *write_files(lines))
    assert not (tmp_path / "run").exists()


ROW = as_published(LABELS).splitlines()[0]
NOT_A_ROW = "is not a key with a list of labels"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "labels.csv: it contains no people"),
        ("image,labels\n", "labels.csv: it contains no people"),
        (as_published(LABELS)[:-12], f"line 3 {NOT_A_ROW}"),
        (as_published(LABELS) + ROW[:9], f"line 4 {NOT_A_ROW}: 1 columns"),
        (as_published(LABELS) + 'x,"' + "['fear'],\n" * 20_000, NOT_A_ROW),
        (as_published({**LABELS, "x": ["joy"]}), f"line 4 {NOT_A_ROW}: 'joy' is"),
        ("a,\"['fear']\"\nb,\"'fear'\"", f"line 2 {NOT_A_ROW}: \"'fear'\" is not an EMOTIC label"),
        ("a,\"['fear']\"\nb,3", f"line 2 {NOT_A_ROW}: '3' is not an EMOTIC label"),
        ("a,\"['fear']\"\nb,\"__import__('os')\"", f"line 2 {NOT_A_ROW}"),
        (as_published({"mscoco/a_0.jpg": ["fear"]}), "2 predictions have no ground truth"),
    ],
)
def test_bad_labels_are_an_error_and_leave_no_run(write_files, tmp_path, capsys, labels, message):
    assert message in evaluate_error(capsys, *write_files(texts(), labels))
    assert not (tmp_path / "run").exists()


def test_missing_and_binary_files_are_an_error(write_files, capsys):
    arguments = write_files(texts())
    for number in (1, 3):
        path = arguments[number]
        content = path.read_bytes()
        path.write_bytes(b"\xff\xfe" + b"\x80" * 9)
        assert f"cannot read {path}: line " in evaluate_error(capsys, *arguments)
        path.unlink()
        assert f"cannot read {path}" in evaluate_error(capsys, *arguments)
        path.write_bytes(content)


def test_ground_truth_is_either_a_file_or_a_split(write_files, tmp_path, capsys):
    arguments = write_files(texts())
    assert "either --labels" in evaluate_error(capsys, *arguments[:2])
    assert "either --labels" in evaluate_error(capsys, *arguments, "--root", tmp_path)
    in_split = (*arguments[:2], "--root", tmp_path)
    for option in (("--rows", "1-2"), ("--last-row-wins",)):
        assert "no effect with --root" in evaluate_error(capsys, *in_split, *option)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory):
    """Write a file with the rows of the authors' `gt_all.csv`; return it and the keys by split.

    937 people of train occur again in val, 933 of them with other labels.
    """
    rows = []
    for split, (first, last) in predictions.ROWS_BY_SPLIT.items():
        for number in range(first, last + 1):
            shared = split == "val" and number - first < 937
            differs = shared and number - first < 933
            key = f"framesdb/{number - first if shared else number - 1}_0.jpg"
            rows.append((key, ["fear"] if differs else ["peace"]))
    path = tmp_path_factory.mktemp("authors") / "gt_all.csv"
    path.write_text("".join(f'{key},"{labels}"\n' for key, labels in rows))
    assert len(rows) == 34_314
    keys = {
        split: [key for key, _ in rows[first - 1 : last]]
        for split, (first, last) in predictions.ROWS_BY_SPLIT.items()
    }
    return path, keys


@pytest.mark.parametrize(("split", "people"), [("train", 23_706), ("val", 3_333), ("test", 7_275)])
def test_split_is_selected_by_position_in_the_file_of_the_authors(authors_file, split, people):
    path, keys = authors_file
    options = predictions.PredictionsOptions(file=path, labels=path, split=split)
    rows = predictions.select_rows(predictions.read_labels(path), options)
    assert ([key for key, _ in rows], len(rows)) == (keys[split], people)
    options = replace(options, split=None, rows=predictions.ROWS_BY_SPLIT[split])
    assert predictions.select_rows(predictions.read_labels(path), options) == rows
    fearful = sum(labels[EMOTIC_LABELS.index("fear")] for _, labels in rows)
    assert fearful == (933 if split == "val" else 0), "the rows of another split are not used"


def test_file_of_the_authors_is_read_without_editing(authors_file, tmp_path, capsys):
    path, keys = authors_file
    file = write_texts(tmp_path / "gpt.jsonl", keys["val"])
    arguments = ("predictions", file, "--labels", path, "--split", "val", "--out", tmp_path / "run")
    assert evaluate(*arguments) == 0
    assert "keys occur" not in capsys.readouterr().err
    run = Run.read(tmp_path / "run")
    assert run.manifest["split"] == "gt_all.csv val"
    assert int(run.truth[:, EMOTIC_LABELS.index("fear")].sum()) == 933


def test_keys_with_two_rows_are_reported_and_the_last_row_wins_on_request_only(
    authors_file, tmp_path, capsys
):
    path, keys = authors_file
    file = write_texts(tmp_path / "gpt.jsonl", keys["val"])
    arguments = ("predictions", file, "--labels", path, "--out", tmp_path / "run", "--subset")
    counts = "937 keys occur more than once, 933 of them with different labels"
    message = evaluate_error(capsys, *arguments)
    assert counts in message
    assert "or add --last-row-wins" in message
    assert not (tmp_path / "run").exists()
    assert evaluate(*arguments, "--last-row-wins") == 0
    assert counts in " ".join(capsys.readouterr().err.split())
    run = Run.read(tmp_path / "run")
    assert len(run) == 3_333
    assert int(run.truth[:, EMOTIC_LABELS.index("fear")].sum()) == 933


def test_repeated_rows_of_people_without_prediction_do_not_matter_with_subset(
    authors_file, tmp_path
):
    path, keys = authors_file
    file = write_texts(tmp_path / "gpt.jsonl", keys["test"][:500])
    options = predictions.PredictionsOptions(
        file=file, labels=path, subset=True, out=tmp_path / "run"
    )
    assert len(predictions.evaluate_predictions(options, lambda line: None)) == 500


def test_equal_rows_of_a_person_are_one_person(write_files, tmp_path, capsys):
    assert evaluate(*write_files(texts(), as_published(LABELS) + ROW)) == 0
    assert "1 keys occur more than once, 0 of them" in " ".join(capsys.readouterr().err.split())
    assert len(Run.read(tmp_path / "run")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "test"), "has 3 people and the authors' file has 34314"),
        (("--split", "night"), "cannot use --split night: choose one of train, val, test"),
        (("--rows", "0-2"), "cannot use --rows 0-2: "),
        (("--rows", "2-4"), "labels.csv has the rows 1 to 3"),
        (("--rows", "1-2", "--split", "test"), "remove one"),
    ],
)
def test_selection_that_the_labels_do_not_have_is_an_error(
    write_files, tmp_path, capsys, options, message
):
    assert message in evaluate_error(capsys, *write_files(texts()), *options)
    assert not (tmp_path / "run").exists()


def test_text_that_names_no_label_has_a_reason_instead_of_scores():
    row = predictions.parse_prediction({"image": "a", "text": "I cannot say."})[1]
    assert (row["scores"], row["reason"]) == (None, "the text names no label")


@pytest.mark.parametrize("extraction", ["word", "paper"])
def test_texts_without_any_label_are_an_error_and_leave_no_run(
    write_files, tmp_path, capsys, extraction
):
    arguments = write_files(texts(dict.fromkeys(LABELS, "I cannot say.")))
    message = evaluate_error(capsys, *arguments, "--extraction", extraction)
    assert "none of 3 people could be assessed: the text names no label" in message
    assert not (tmp_path / "run").exists()

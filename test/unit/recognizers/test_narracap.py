"""NarraCap: words and rules without a model, narratives with random models."""

import re
from pathlib import Path

import numpy as np
import pytest

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.text.narracap import (
    DEFAULT_WORDS,
    NarraCap,
    narrative,
    read_words,
    select_outliers,
    with_article,
)

LISTS = ("who", "where", "what", "how")
ALICE = Track("p00001", Box(10, 10, 90, 118), 0.9)
BOB = Track("p00002", Box(100, 20, 150, 100), 0.8)


@pytest.fixture
def word_folder(tmp_path):
    """A folder of word lists that a test may change."""
    folder = tmp_path / "words"
    folder.mkdir()
    for name in LISTS:
        (folder / f"{name}.txt").write_text(f"# {name}\n\n{name} one\n  {name} two  \n")
    return folder


def test_default_lists_are_complete_and_long_enough():
    words = read_words()
    assert words.who == (
        "baby boy", "baby girl", "girl", "boy", "woman", "man", "elderly man", "elderly woman"
    )  # fmt: skip
    assert len(words.where) >= 100
    assert len(words.what) >= 200
    assert len(words.how) > 246, "three signals can stand out only of more"


@pytest.mark.parametrize("name", LISTS)
def test_default_entries_fit_the_sentences(name):
    for entry in getattr(read_words(), name):
        assert entry == " ".join(entry.split())
        assert not re.match(r"(an?|the) ", entry), "the article is ours to add"
        assert not entry.endswith((".", ","))
        if name in ("what", "how"):
            assert re.match(r"(is|has) \w", entry), f"{entry} is not in the third person"


def test_blank_lines_comments_and_outer_spaces_are_ignored(word_folder):
    assert read_words(word_folder).where == ("where one", "where two")


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "recognizer.words"),
        (b"\xff\xff\xff", "can't decode"),
        (b"\xff\xfea\0", "it is UTF-16; save it as UTF-8"),
        (b"# nothing\n\n", "has no entries; write one entry per line"),
        (b"a\nb\na \n", "has 'a' more than once; keep one"),
    ],
)
def test_invalid_list_is_an_error_with_its_file(word_folder, name, content, complaint):
    file = word_folder / f"{name}.txt"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{re.escape(str(file))}.*{complaint}"):
        read_words(word_folder)


def test_long_list_is_read_in_linear_time(word_folder):
    """Each entry compared with all others would take minutes."""
    words = [f"word {number}" for number in range(100_000)]
    (word_folder / "what.txt").write_text("\n".join(words))
    assert len(read_words(word_folder).what) == 100_000
    (word_folder / "what.txt").write_text("\n".join([*words, words[-1]]))
    with pytest.raises(ModelError, match="has 'word 99999' more than once"):
        read_words(word_folder)


@pytest.mark.parametrize(
    ("noun", "spoken"),
    [
        ("park", "a park"), ("office", "an office"), ("elderly man", "an elderly man"),
        ("university", "a university"), ("uninhabited island", "an uninhabited island"),
        ("hour", "an hour"), ("hospital room", "a hospital room"), ("one-way street", "a one-way"),
        ("umbrella shop", "an umbrella shop"), ("European street", "a European street"),
        ("Ice rink", "an Ice rink"),
    ],
)  # fmt: skip
def test_article_follows_the_pronunciation(noun, spoken):
    assert with_article(noun).startswith(spoken)


def test_narrative_follows_the_template_of_the_paper():
    assert narrative("elderly woman", "is playing chess", "airport", ()) == (
        "This person is an elderly woman who is playing chess in an airport."
    )
    assert narrative("man", "is surfing", "lake", ("is smiling", "has red eyes")) == (
        "This person is a man who is surfing in a lake. This person is smiling. "
        "This person has red eyes."
    )


def shares(size, **chosen):
    """Probabilities of `size` entries: these, and the rest even."""
    values = {int(name[1:]): value for name, value in chosen.items()}
    rest = (1 - sum(values.values())) / (size - len(values))
    return np.array([values.get(i, rest) for i in range(size)])


def test_outliers_are_nine_standard_deviations_above_the_mean():
    assert select_outliers(shares(281, _5=0.9)) == [5]
    assert select_outliers(shares(281, _5=0.4, _7=0.5)) == [7, 5]
    assert select_outliers(shares(281, _1=0.33, _2=0.32, _3=0.31)) == [1, 2, 3]
    assert select_outliers(shares(281, _1=0.25, _2=0.25, _3=0.25, _4=0.25)) == []
    uneven = shares(281, _5=0.6, _7=0.2)
    limit = uneven.mean() + 9 * uneven.std()
    assert 0.2 < limit < 0.6
    assert select_outliers(uneven) == [5]
    assert select_outliers(uneven, by=2) == [5, 7]


def test_list_of_82_has_no_outliers():
    assert select_outliers(shares(82, _0=1.0)) == []
    assert select_outliers(shares(84, _0=1.0)) == [0]


def settings(model, **changes):
    return recognizer_settings(name="narracap", model=str(model), device="cpu", **changes)


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (128, 160, 3), dtype=np.uint8)


def scene(image):
    return Scene(Frame(image, 7, "camera"), (ALICE, BOB))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from emotion_perception.testing.checkpoints.clip import save_clip, save_siglip

    root = tmp_path_factory.mktemp("models")
    return {"clip": save_clip(root / "clip"), "siglip": save_siglip(root / "siglip")}


@pytest.fixture(scope="module", params=["clip", "siglip"])
def narracap(request, folders):
    return NarraCap(settings(folders[request.param]))


STORY = re.compile(r"This person is an? (.+?) who (is .+) in an? (.+?)\.((?: This person .+?\.)*)")


def parts(story):
    """Who, what, where and how."""
    who, what, where, how = STORY.fullmatch(story).groups()
    signals = [s.removeprefix("This person ") for s in how.strip().rstrip(".").split(". ") if s]
    return who, what, where, signals


@pytest.mark.models
def test_each_part_of_a_narrative_is_an_entry(narracap):
    words = read_words()
    narratives = narracap.describe(scene(noise()), (ALICE, BOB))
    assert len(narratives) == 2
    for story in narratives:
        who, what, where, how = parts(story)
        assert who in words.who
        assert what in words.what
        assert where in words.where
        assert set(how) <= set(words.how)
        assert len(how) <= 3


@pytest.mark.models
def test_where_and_what_depend_on_the_frame_only(narracap):
    alice, bob = map(parts, narracap.describe(scene(noise()), (ALICE, BOB)))
    assert alice[1:3] == bob[1:3]
    places = {parts(narracap.describe(scene(noise(i)), (ALICE,))[0])[1:3] for i in range(8)}
    assert len(places) > 1


@pytest.mark.models
def test_who_and_how_depend_on_the_crop_only(narracap):
    image, elsewhere = noise(), noise(1)
    elsewhere[10:118, 10:90] = image[10:118, 10:90]
    (one,), (other,) = (narracap.describe(scene(x), (ALICE,)) for x in (image, elsewhere))
    assert (parts(one)[0], parts(one)[3]) == (parts(other)[0], parts(other)[3])


@pytest.mark.models
def test_each_part_is_the_most_probable_entry(folders):
    from emotion_perception.recognizers.clip import ImageTextModel

    narracap, matcher = (
        NarraCap(settings(folders["clip"])),
        ImageTextModel(settings(folders["clip"])),
    )
    image, words = noise(3), read_words()
    who, what, where, how = parts(narracap.describe(scene(image), (BOB,))[0])
    whole, crop = (matcher.embed_images([x]) for x in (image, image[20:100, 100:150]))

    def logits(image, entries, template):
        return matcher.logits(image, matcher.embed_texts([template(x) for x in entries]))[0]

    def of(noun):
        return f"a photo of {with_article(noun)}"

    def doing(entry):
        return f"a photo of a person who {entry}"

    assert who == words.who[logits(crop, words.who, of).argmax()]
    assert where == words.where[logits(whole, words.where, of).argmax()]
    assert what == words.what[logits(whole, words.what, doing).argmax()]
    weights = np.exp(logits(crop, words.how, doing))
    assert how == [words.how[i] for i in select_outliers(weights / weights.sum())]


@pytest.mark.models
def test_narrative_does_not_depend_on_the_other_people(narracap):
    both = narracap.describe(scene(noise()), (ALICE, BOB))
    assert narracap.describe(scene(noise()), (ALICE, BOB)) == both
    assert narracap.describe(scene(noise()), (BOB,)) == both[1:]
    assert narracap.describe(scene(noise()), ()) == []


@pytest.mark.models
def test_own_word_lists_replace_the_default_ones(folders, word_folder):
    narracap = NarraCap(settings(folders["clip"], words=str(word_folder)))
    (story,) = narracap.describe(scene(noise()), (ALICE,))
    pattern = r"This person is a who (one|two) who what (one|two) in a where (one|two)\."
    assert re.fullmatch(pattern, story)
    (word_folder / "how.txt").unlink()
    with pytest.raises(ModelError, match=r"how\.txt"):
        NarraCap(settings(folders["clip"], words=str(word_folder)))


@pytest.mark.models
def test_name_and_close(folders):
    narracap = NarraCap(settings(folders["siglip"]))
    assert narracap.name == "narracap:siglip"
    narracap.close()
    with pytest.raises(AttributeError):
        narracap.describe(scene(noise()), (ALICE,))


def test_lists_are_installed():
    setup = (Path(__file__).parents[3] / "setup.py").read_text()
    assert "data/narracap/*.txt" in setup
    assert {file.stem for file in DEFAULT_WORDS.glob("*.txt")} == set(LISTS)

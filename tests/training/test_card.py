"""What cards say of a run, from its arguments and results alone."""

import re
from collections import defaultdict
from types import SimpleNamespace

import pytest

from hf_genai.data.pairs import Provenance
from hf_genai.training.arguments import parse_arguments
from hf_genai.training.card import card_of_run, pipeline_usage
from hf_genai.training.finetuning import card_of_finetuning, parse_finetune_arguments
from hf_genai.training.finetuning_tasks import Code
from hf_genai.training.pretraining import parse_pretrain_arguments
from hf_genai.training.pretraining_card import card_of_pretraining

WHERE = Provenance("mine", "texts", "MIT", "mine.txt", dataset_id="me/mine")


def card_of(recipe: str, start: str, *more: str, where: Provenance = WHERE):
    """Return the card of a run that went on with the model `start`."""
    options = ["--model_name_or_path", start, "--output_dir", "run", *more]
    results = defaultdict(int, model_type="genai_gpt", objective="clm", settings={}, samples=[], attention_maps=[])
    results |= {
        "bleu_tokenize": "13a",
        "architecture": "",
        "baselines": {},
        "rows": defaultdict(int),
        "scores": {},
        "data": {},
    }
    texts = SimpleNamespace(provenance=where, names={"test": "mine"}, test=None, report=SimpleNamespace())
    texts.validation = {"text": []}
    if recipe == "pretrain_text":
        return card_of_pretraining(parse_pretrain_arguments(options), results, texts)
    if recipe == "finetune_text":
        arguments = parse_finetune_arguments([*options, "--task", "code"])
        return card_of_finetuning(arguments, results, texts, Code(arguments, None))
    texts.report = type("Report", (), {"kept": {"train": 1}, "__str__": lambda self: "train: 1"})()
    return card_of_run(parse_arguments(options), results, texts, two_tokenizers=False)


@pytest.mark.parametrize("recipe", ["pretrain_text", "finetune_text", "train_seq2seq"])
def test_a_model_that_went_on_from_another_names_it(recipe, tmp_path):
    card = card_of(recipe, "them/theirs")
    assert card.base_model == "them/theirs" and "theirs" in card.summary and card.dataset_id == "me/mine"
    (tmp_path / "ours").mkdir()
    card = card_of(recipe, str(tmp_path / "ours"))
    assert card.base_model is None and "ours" in card.summary and str(tmp_path) not in card.summary


def test_a_translator_is_scored_again_on_the_pairs_that_its_seed_held_out():
    card = card_of("train_seq2seq", "them/theirs", "--seed", "7", "--data", "cldr:en-de", "--train_size", "90")
    expected = "hf-genai evaluate run --data cldr:en-de --seed 7 --train_size 90 --split test --max_source_length 128"
    assert card.evaluation_command == expected
    assert card.bias.startswith("Not studied")  # the warning about names of CLDR is for pairs made of it
    own = card_of("train_seq2seq", "them/theirs", "--data", "/srv/me/pairs.tsv", "--test_data", "/srv/me/test.tsv")
    assert "--data pairs.tsv" in own.evaluation_command and "/srv" not in own.evaluation_command


@pytest.mark.parametrize("recipe", ["pretrain_text", "finetune_text", "train_seq2seq"])
@pytest.mark.parametrize("unknown", ["", "not stated", "unknown"])
def test_no_licence_is_stated_of_weights_whose_data_has_none_that_is_known(recipe, unknown, monkeypatch):
    said = []
    monkeypatch.setattr("hf_genai.training.card.logger.warning", said.append)
    asked = ("--model_license", "apache-2.0")
    assert card_of(recipe, "them/theirs", *asked).license == "apache-2.0"
    assert not said
    card = card_of(recipe, "them/theirs", *asked, where=Provenance("mine", "texts", unknown, "mine.txt"))
    assert card.license is None and "--data_license" in said[0]
    assert card_of(recipe, "them/theirs").license is None


def test_the_gap_of_an_example_stands_among_characters_where_words_have_no_spaces():
    given = "早上好,我的朋友,今天天气很好"
    code = pipeline_usage("fill-mask", [("a", "b", "c")], {"text": given})
    (before, after) = re.search(r"model\('(.*)' \+ model.tokenizer.mask_token \+ '(.*)'\)", code).groups()
    assert given == before + given[len(before)] + after and len(before) > 5
    assert "'a b ' + model" in pipeline_usage("fill-mask", [("a", "b", "c")], {"text": "a b c d e"})

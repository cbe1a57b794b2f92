"""Weights that are not in the files are an error, in whatever opens a model; only a head to be trained may be new."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_cases import cases
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

import hf_genai
from hf_genai.loading import check_folder, check_weights, load_model

BERT = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
T5 = {"vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}


@pytest.fixture
def gpt2(tmp_path):
    config = GPT2Config(vocab_size=40, n_layer=1, n_embd=8, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def replace_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def test_a_file_with_other_tensors_is_refused_by_name(gpt2):
    replace_weights(gpt2, lambda weights: {"something.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"lacks 17 weights of a GPT2LMHeadModel: .*something\.weight"):
        load_model(AutoModelForCausalLM, gpt2)
    for attempt in (hf_genai.from_transformers, lambda name: hf_genai.pipeline("text-generation", model=str(name))):
        with pytest.raises(ValueError, match="lacks 17 weights"):
            attempt(gpt2)


def test_one_tensor_that_is_missing_is_enough(gpt2):
    replace_weights(gpt2, lambda weights: {key: weights[key] for key in weights if key != "transformer.wpe.weight"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .*: transformer\.wpe\.weight"):
        check_weights(AutoModelForCausalLM, gpt2)


def test_an_index_is_followed_within_the_folder_alone(gpt2, tmp_path):
    shutil.move(gpt2 / "model.safetensors", tmp_path / "elsewhere.safetensors")
    save_file({"x": torch.zeros(1)}, gpt2 / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    names = load_file(tmp_path / "elsewhere.safetensors")
    for piece, message in {
        "model-00001-of-00001.safetensors": "lacks",
        "../elsewhere.safetensors": "must be a .safetensors file here",
    }.items():
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, piece)}
        (gpt2 / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=message):
            load_model(AutoModelForCausalLM, gpt2)


def test_generation_settings_that_are_not_possible_are_refused_with_their_file(gpt2):
    (gpt2 / "generation_config.json").write_text('{"max_new_tokens": -1}')
    with pytest.raises(ValueError, match=r"generation_config\.json: .*max_new_tokens"):
        load_model(AutoModelForCausalLM, gpt2)


def test_a_head_may_be_new_where_training_follows_and_nothing_else(tmp_path):
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this head was not trained"):
        load_model(AutoModelForSequenceClassification, tmp_path)
    model = load_model(AutoModelForSequenceClassification, tmp_path, new_heads=True)
    assert "pooler.dense.weight" in model.bert.state_dict()
    replace_weights(tmp_path, lambda weights: {k: v for k, v in weights.items() if "word_embeddings" not in k})
    with pytest.raises(ValueError, match="word_embeddings"):
        load_model(AutoModelForSequenceClassification, tmp_path, new_heads=True)


def test_a_body_of_another_size_is_not_taken_for_a_new_head(tmp_path):
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="word_embeddings"):
        load_model(
            AutoModelForSequenceClassification,
            tmp_path,
            new_heads=True,
            config=BertConfig(**{**BERT, "vocab_size": 50}),
            ignore_mismatched_sizes=True,
        )


def test_an_encoder_decoder_whose_stacks_stand_beside_its_head_needs_them(tmp_path):
    T5ForConditionalGeneration(T5Config(**T5)).save_pretrained(tmp_path)
    load_model(AutoModelForSeq2SeqLM, tmp_path)
    replace_weights(tmp_path, lambda weights: {k: v for k, v in weights.items() if not k.startswith("decoder.")})
    with pytest.raises(ValueError, match=r"decoder\.block"):
        load_model(AutoModelForSeq2SeqLM, tmp_path, new_heads=True)


def test_features_of_an_encoder_need_no_pooler(tmp_path):
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path)
    load_model(AutoModel, tmp_path)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases()])
def test_whole_models_of_ours_pass_without_reading_their_weights(case, tmp_path):
    case.model().save_pretrained(tmp_path)
    check_folder(tmp_path)

"""A trained model is not lost: saving is tried before the first step, and the weights outlive whatever fails after."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from hf_genai.data import train_tokenizer
from hf_genai.training import load_recipe, saving
from hf_genai.training.saving import drop_unused_generation, rehearse_saving, save_unscored

QUICK = ["--max_steps", "1", "--per_device_train_batch_size", "4", "--use_cpu", "true"]
QUICK += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]


@pytest.fixture
def base(tmp_path):
    """A folder of a GPT-2 with its tokenizer, whose generation settings transformers reads but does not write."""
    folder = tmp_path / "base"
    tokenizer = train_tokenizer(["Anna visits Rome on day 3 ."], vocab_size=300, ends_texts=False)
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer), "n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 128}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)).save_pretrained(folder)
    settings = {"eos_token_id": 2, "temperature": 0.6, "top_p": 0.9, "length_penalty": 2.0, "repetition_penalty": 1.5}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "Anna visits Rome on day {n} ."}}\n' for n in range(60)))
    return str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("recipe", ["finetune_text", "pretrain_text"])
def test_settings_without_effect_in_a_base_model_do_not_cost_the_training(recipe, base, rows, tmp_path):
    options = ["--data", rows, "--model_name_or_path", str(base), "--output_dir", str(tmp_path / "out")]
    if recipe == "finetune_text":
        load_recipe(recipe).main(["--task", "code", *options, *QUICK])
    else:
        load_recipe(recipe).main([*options, "--tokenizer_name_or_path", str(base), "--max_steps", "1"])
    settings = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    assert settings.temperature is None and settings.length_penalty is None
    assert settings.repetition_penalty == 1.5  # which greedy decoding heeds


def test_a_setting_that_the_user_gave_is_not_dropped_but_refused(base, rows, tmp_path):
    options = ["--task", "code", "--data", rows, "--model_name_or_path", str(base)]
    with pytest.raises(ValueError, match=r"generation\.top_k \(the command line\)"):
        load_recipe("finetune_text").main(
            [*options, *QUICK, "--output_dir", str(tmp_path / "out"), "--generation.top_k", "7"]
        )


def test_what_cannot_be_saved_is_refused_before_the_first_step(base, rows, tmp_path, monkeypatch):
    module = load_recipe("finetune_text")
    make_tokenizer = module.main.__globals__["make_tokenizer"]

    def broken(*args):
        tokenizer = make_tokenizer(*args)
        tokenizer.init_kwargs["odd"] = {1, 2}  # a set, which no JSON file holds
        return tokenizer

    monkeypatch.setitem(module.main.__globals__, "make_tokenizer", broken)
    monkeypatch.setattr("transformers.Trainer.train", lambda *args, **options: pytest.fail("it was trained"))
    options = ["--task", "code", "--data", rows, "--model_name_or_path", str(base)]
    with pytest.raises(ValueError, match="could not be saved after training: TypeError"):
        module.main([*options, *QUICK, "--output_dir", str(tmp_path / "out")])


def test_a_rehearsal_leaves_the_model_as_it_is(base):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), train_tokenizer(["a"], vocab_size=300)
    drop_unused_generation(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rehearse_saving(model, tokenizer, None)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_the_weights_are_saved_where_card_or_tokenizer_cannot_be(base, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(base)
    drop_unused_generation(model)
    monkeypatch.setattr(saving, "save_for_hub", lambda *args, **options: 1 / 0)
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError.* its weights are in .*trained_weights"):
        save_unscored(str(tmp_path), model, None, None)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "trained_weights")
    assert torch.equal(saved.lm_head.weight, model.lm_head.weight)


def test_the_weights_are_saved_where_not_even_the_config_can_be(base, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(base)
    model.generation_config.max_new_tokens = 5  # once changed, its odd settings are refused in saving
    with pytest.raises(RuntimeError, match="GenerationConfig is invalid"):
        save_unscored(str(tmp_path), model, train_tokenizer(["a"], vocab_size=300), None)
    assert (tmp_path / "trained_weights" / "model.safetensors").stat().st_size > 1000

"""Weights in 8 bits by torchao, through transformers' own `quantization_config`."""

import pytest
import torch
from tiny_families import HEAD, batch_of, make
from torchao.quantization import Int8WeightOnlyConfig
from transformers import TorchAoConfig

import hf_genai


def translator():
    torch.manual_seed(0)
    config = hf_genai.GenaiRNNConfig(vocab_size=40, hidden_size=32, initializer_range=0.2)
    return hf_genai.GenaiRNNForConditionalGeneration(config).eval()


@pytest.mark.parametrize("name", [*HEAD, "RNN"])
def test_a_model_loads_in_8_bits_computes_nearly_the_same_and_can_be_saved(name, tmp_path):
    model = translator() if name == "RNN" else make(name)
    batch = batch_of("T5" if name == "RNN" else name)
    model.save_pretrained(tmp_path / "full")
    in_8_bits = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    small = type(model).from_pretrained(tmp_path / "full", quantization_config=in_8_bits)
    changed = [n for n, p in small.named_parameters() if type(p) is not torch.nn.Parameter]
    assert any("layers" in name for name in changed)
    with torch.no_grad():
        wanted, found = model(**batch).logits, small(**batch).logits
    error = ((found - wanted).norm() / wanted.norm()).item()
    assert 0 < error < 0.03  # 1 / 255 of each row's range, in each product
    small.save_pretrained(tmp_path / "small")
    again = type(model).from_pretrained(tmp_path / "small")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, found)


@pytest.mark.parametrize("loop", [None, hf_genai.fast_generate])
def test_generation_in_8_bits_goes_on_from_the_cache_as_without_one(loop, tmp_path):
    make("GPT").save_pretrained(tmp_path)
    small = hf_genai.GenaiGPTForCausalLM.from_pretrained(
        tmp_path, quantization_config=TorchAoConfig(Int8WeightOnlyConfig(version=2))
    )
    ids = batch_of("GPT")["input_ids"][:1]
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    wanted = small.generate(ids, use_cache=False, **options)
    assert torch.equal(small.generate(ids, custom_generate=loop, **options), wanted)


def test_a_recurrence_whose_layers_torch_quantised_computes_nearly_the_same():
    """Such layers have no parameters: they hand out their matrix when they are called."""
    model, batch = translator(), {name: batch_of("T5")[name] for name in ("input_ids", "attention_mask")}
    batch["decoder_input_ids"] = batch["input_ids"]
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert not list(quantised.model.decoder.attention.score_function.energy.parameters())
    with torch.no_grad():
        torch.testing.assert_close(quantised(**batch).logits, model(**batch).logits, atol=0.05, rtol=0.05)

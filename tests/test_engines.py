"""Trained models reach CTranslate2 and ONNX: recipes/exporting.md, run as it stands, gives the tokens of the model."""

import re
import shlex
import sys
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import torch
from ctranslate2.converters import transformers as ct2_converter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from hf_genai import GenaiGPTConfig, GenaiGPTForCausalLM, GenaiT5Config, GenaiT5ForConditionalGeneration, cli

PAGE = (Path(__file__).parents[1] / "recipes" / "exporting.md").read_text("utf-8")
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(36))]
SIZES = {
    **{"vocab_size": 40, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
GPT = {
    "gpt2": GenaiGPTConfig.classic(**SIZES, num_hidden_layers=2, max_position_embeddings=64),
    "llama": GenaiGPTConfig(**SIZES, num_hidden_layers=2, tie_word_embeddings=False),
}
T5 = {
    "t5": GenaiT5Config.classic(**SIZES, encoder_layers=2, decoder_layers=1),
    "t5_1.1": GenaiT5Config.classic(
        **{**SIZES, "encoder_layers": 1, "decoder_layers": 2, "hidden_act": "gelu_pytorch_tanh", "gated_mlp": True},
        **{"scale_decoder_outputs": False, "tie_word_embeddings": False},
    ),
}
STEPS = 20  # tokens to write


def code(name: str) -> str:
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), WORDS[:4], strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def counting(rows: int, length: int) -> torch.Tensor:
    """Return ids (rows, length) that count upwards by 1, 2 or 3, and begin again after the last word."""
    first, step = torch.randint(0, 36, (rows, 1)), torch.randint(1, 4, (rows, 1))
    return (first + step * torch.arange(length)) % 36 + 4


def train(model, steps: int = 60):
    """Teach a language model to count, or an encoder-decoder to repeat what was counted, in a few steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        ids = counting(16, 10)
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def save(folder: Path, name: str, model) -> None:
    torch.manual_seed(0)
    train(model).save_pretrained(folder / name)
    tokenizer().save_pretrained(folder / name)


def run_commands(name: str, monkeypatch) -> None:
    """Run the lines of the page's first block that are about a model."""
    for line in re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].splitlines():
        program, *words = shlex.split(line)
        if any(word.startswith(name) for word in words):
            if program == "hf-genai":
                with pytest.raises(SystemExit) as ended:
                    cli.main(words)
                assert ended.value.code == 0
            else:
                assert program == "ct2-transformers-converter"
                monkeypatch.setattr(sys, "argv", [program, *words])
                ct2_converter.main()


def words_of(rows: torch.Tensor) -> list[list[str]]:
    return [[WORDS[number] for number in row if number > 2] for row in rows.tolist()]


@pytest.mark.parametrize("layout", GPT)
def test_ctranslate2_writes_what_a_causal_model_writes(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "my_gpt", GenaiGPTForCausalLM(GPT[layout]))
    run_commands("my_gpt", monkeypatch)
    model = AutoModelForCausalLM.from_pretrained("my_gpt").eval()
    engine = ctranslate2.Generator("my_gpt_ct2", device="cpu", intra_threads=1)
    prompts, texts = counting(8, 4), counting(3, 12)
    expected = words_of(model.generate(prompts, max_new_tokens=STEPS, do_sample=False)[:, 4:])
    options = {"max_length": STEPS, "sampling_topk": 1, "include_prompt_in_result": False}
    found = [result.sequences[0] for result in engine.generate_batch(words_of(prompts), **options)]
    assert found == expected and len({word for row in found for word in row}) > 5
    logits = torch.from_numpy(np.array(engine.forward_batch(words_of(texts))))
    assert (logits - model(texts).logits).abs().max() < 1e-4


@pytest.mark.parametrize("layout", T5)
def test_ctranslate2_writes_what_an_encoder_decoder_writes(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "my_t5", GenaiT5ForConditionalGeneration(T5[layout]))
    run_commands("my_t5", monkeypatch)
    exec(code("converter"), {})
    model = AutoModelForSeq2SeqLM.from_pretrained("my_t5").eval()
    engine = ctranslate2.Translator("my_t5_ct2", device="cpu", intra_threads=1)
    sources = counting(8, 8)
    for beams in (1, 4):
        options = {"num_beams": beams, "max_new_tokens": STEPS, "do_sample": False}
        expected = words_of(model.generate(sources, **options)[:, 1:])
        results = engine.translate_batch(words_of(sources), beam_size=beams, max_decoding_length=STEPS)
        assert [result.hypotheses[0] for result in results] == expected
    targets = counting(8, 6)
    results = engine.score_batch(words_of(sources), words_of(targets))
    scores = torch.tensor([result.log_probs[:6] for result in results])  # the last is that of the end of the text
    decoder_ids = torch.nn.functional.pad(targets, (1, 0))
    chances = model(input_ids=sources, decoder_input_ids=decoder_ids).logits[:, :-1].log_softmax(-1)
    assert (scores - chances.gather(-1, targets.unsqueeze(-1)).squeeze(-1)).abs().max() < 1e-4


def test_the_pages_snippet_for_ctranslate2_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "my_gpt", GenaiGPTForCausalLM(GPT["gpt2"]))
    save(tmp_path, "my_t5", GenaiT5ForConditionalGeneration(T5["t5"]))
    run_commands("my_gpt", monkeypatch)
    run_commands("my_t5", monkeypatch)
    names = {"text": "w1 w2 w3 w4", "source_text": "w3 w5 w7 w9"}
    exec(code("ctranslate2"), names)
    assert names["continuation"].startswith("w") and names["translation"].startswith("w")


def test_onnx_runtime_writes_what_a_causal_model_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "my_gpt", GenaiGPTForCausalLM(GenaiGPTConfig(**SIZES, num_hidden_layers=1)))
    names = {"prompt_ids": counting(3, 4).tolist()}
    exec(code("onnx gpt"), names)
    prompts = torch.tensor(names["prompt_ids"])
    expected = names["model"].generate(prompts, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False)
    assert names["output_ids"].tolist() == expected.tolist() and expected[:, 4:].unique().numel() > 5
    padded = counting(2, 9)
    mask = torch.ones_like(padded)
    mask[1, :3] = 0
    feed = {"input_ids": padded.numpy(), "attention_mask": mask.numpy()}
    difference = torch.from_numpy(names["session"].run(None, feed)[0]) - names["model"](padded, mask).logits
    assert difference[mask.bool()].abs().max() < 1e-4


@pytest.mark.slow
def test_onnx_runtime_and_transformers_exporter_compute_what_an_encoder_decoder_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "my_gpt", GenaiGPTForCausalLM(GenaiGPTConfig.classic(**SIZES, num_hidden_layers=1)))
    save(tmp_path, "my_t5", GenaiT5ForConditionalGeneration(T5["t5_1.1"]))
    names = {"prompt_ids": counting(3, 4).tolist()}
    exec(code("onnx gpt"), names)
    exec(code("onnx t5"), names)
    sources, target = counting(3, 11), torch.zeros(3, 1, dtype=torch.long)
    feed = {"input_ids": sources.numpy(), "attention_mask": torch.ones_like(sources).numpy()}
    expected = names["model"].generate(sources, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    for _ in range(8):
        logits = torch.from_numpy(names["session"].run(None, {**feed, "decoder_input_ids": target.numpy()})[0])
        logits[:, :, 2] = -torch.inf  # as min_new_tokens
        target = torch.cat([target, logits[:, -1:].argmax(-1)], dim=1)
    assert target.tolist() == expected.tolist()
    exec(code("exporters"), names)
    batch = {"input_ids": sources[:2, :8], "attention_mask": torch.ones_like(sources[:2, :8])}
    batch["decoder_input_ids"] = counting(2, 5)
    difference = names["exported"](**batch).logits - names["model"](**batch).logits
    assert difference.abs().max() < 1e-4

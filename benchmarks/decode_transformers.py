"""Decoding with equal weights: plain generate() and fast_generate against transformers and CTranslate2; one thread.

    pip install ctranslate2==4.8.5
    OMP_NUM_THREADS=1 python benchmarks/decode_transformers.py --json results.json --rounds 5

GPT in GPT-2's layout, T5 in T5's, and the GRU translator: random weights, a prompt or source of 32 tokens, 128 new
tokens (no end token). Outputs in float32 are checked to be the same token for token; bfloat16 and int8 write slightly
other tokens. `--only "gpt d256"` leaves the other models out, `--only "gpt d256, greedy, batch 32"` other cases, too.
"""

import copy
import functools
import os
import tempfile
from collections.abc import Callable
from functools import partial

import torch
import transformers
from measure import arguments, medians, report, row

import hf_genai

PROMPT = 32
# name -> sizes of the model, new tokens
GPT_SIZES = {
    "gpt d256": ({"vocab_size": 8192, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}, 128),
    "gpt2 small": ({}, 32),
}
GPT_CASES = ((1, 1), (8, 1), (32, 1), (8, 4), (32, 4))  # sentences, beams
# (contender, peer, sentences, beams) -> the least ratio promised; other pairs are shown without
GOALS = {
    ("generate()", "transformers", 1, 1): 1.35,
    ("generate()", "transformers", 32, 1): 1.5,
    ("fast_generate", "transformers", 32, 1): 1.5,
    ("fast_generate", "transformers", 32, 4): 2.5,
    ("fast_generate", "CTranslate2", 8, 1): 0.94,
    ("fast_generate", "CTranslate2", 32, 1): 0.94,
    ("fast_generate", "CTranslate2", 8, 4): 0.85,
    ("fast_generate", "CTranslate2", 32, 4): 0.85,
}


def gpt(sizes: dict) -> hf_genai.GenaiGPTForCausalLM:
    ends = {"eos_token_id": None, "bos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.05}
    return hf_genai.GenaiGPTForCausalLM(hf_genai.GenaiGPTConfig.classic(**sizes, **ends)).eval()


def t5() -> hf_genai.GenaiT5ForConditionalGeneration:
    sizes = {
        "vocab_size": 8192,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "encoder_layers": 4,
        "decoder_layers": 4,
    }
    config = hf_genai.GenaiT5Config.classic(**sizes, initializer_range=0.1)
    model = hf_genai.GenaiT5ForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


def rnn() -> hf_genai.GenaiRNNForConditionalGeneration:
    config = hf_genai.GenaiRNNConfig(vocab_size=8192, hidden_size=256)
    model = hf_genai.GenaiRNNForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


def ctranslate2_gpt(theirs: transformers.GPT2LMHeadModel, compute_type: str) -> Callable:
    """A function of (prompts (B, P), beams, new tokens) that returns CTranslate2's texts."""
    import ctranslate2
    from ctranslate2.converters import transformers as converters

    tokens = [f"t{i}" for i in range(theirs.config.vocab_size)]
    folder = tempfile.TemporaryDirectory()
    with torch.no_grad():
        spec = converters._MODEL_LOADERS["GPT2Config"].get_model_spec(copy.deepcopy(theirs))  # it changes its input
        spec.register_vocabulary(tokens)
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = tokens[0]
        spec.validate()
        spec.optimize()
        spec.save(folder.name)

    @functools.cache
    def generator(process: int) -> ctranslate2.Generator:  # its thread does not live on in a forked process
        one_thread = {"device": "cpu", "intra_threads": 1, "inter_threads": 1}
        return ctranslate2.Generator(folder.name, compute_type=compute_type, **one_thread)

    def generate(ids: torch.Tensor, beams: int, length: int) -> torch.Tensor:
        prompts = [[tokens[i] for i in text] for text in ids.tolist()]
        options = {"max_length": length, "min_length": length, "include_prompt_in_result": False}
        found = generator(os.getpid()).generate_batch(prompts, beam_size=beams, **options)
        return torch.tensor([text.sequences_ids[0] for text in found])

    return generate


def our_contenders(ours, ids: torch.Tensor, packed: bool = True, **options) -> dict[str, Callable[[], object]]:
    fast = {"custom_generate": hf_genai.fast_generate}
    contenders = {"generate()": partial(ours.generate, ids, **options)}
    contenders["fast_generate"] = partial(ours.generate, ids, **options, **fast)
    for dtype in ("bfloat16", "int8") if packed else ():
        contenders[f"fast_generate {dtype}"] = partial(ours.generate, ids, **options, **fast, dtype=dtype)
    return contenders


def case_name(name: str, case: tuple[int, int]) -> str:
    sentences, beams = case
    return f"{name}, {'greedy' if beams == 1 else f'beam {beams}'}, batch {sentences}"


def wanted_cases(name: str, cases: tuple[tuple[int, int], ...], only: str) -> list[tuple[int, int]]:
    return [case for case in cases if only in case_name(name, case)]


def compare(name: str, contenders: dict, peers: tuple[str, ...], case: tuple[int, int], rounds: int) -> list[dict]:
    """Time contenders in turns; a row for each of ours and each peer that does the same."""
    seconds = medians(contenders, rounds)
    rows = []
    for ours in (contender for contender in contenders if "generate" in contender):
        for peer in peers:
            fair = peer in ("transformers", "generate()") or (
                ours != "generate()" and ("int8" in peer) == ("int8" in ours)
            )
            if peer == ours or not fair:
                continue
            goal = GOALS.get((ours, peer, *case)) if name.startswith("gpt d256") else None
            label = f"{case_name(name, case)}, {ours}"
            rows.append(row(label, peer, 1000 * seconds[ours], 1000 * seconds[peer], goal))
    return rows


def check_same(found: torch.Tensor, wanted: torch.Tensor, beams: int) -> None:
    """Compare texts token for token; of beams, whose sums of log-probabilities tie in float32, four rows of five."""
    if beams == 1:
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    else:
        assert (found == wanted).all(1).float().mean() >= 0.8, "the beams write other texts"


def main() -> None:
    options = arguments(__doc__)
    rows = []
    for name, (sizes, length) in GPT_SIZES.items():
        cases = wanted_cases(name, GPT_CASES, options.only)
        if not cases:
            continue
        ours = gpt(sizes)
        theirs = hf_genai.to_transformers(ours).eval()
        engines = {
            "CTranslate2": ctranslate2_gpt(theirs, "float32"),
            "CTranslate2 int8": ctranslate2_gpt(theirs, "int8"),
        }
        for batch, beams in cases:
            ids = torch.randint(1, ours.config.vocab_size, (batch, PROMPT))
            asked = {"max_new_tokens": length, "num_beams": beams, "do_sample": False}
            contenders = {"transformers": partial(theirs.generate, ids, **asked)}
            contenders |= our_contenders(ours, ids, **asked)
            for engine, run in engines.items():
                contenders[engine] = partial(run, ids, beams, length)
            wanted = contenders["transformers"]()
            for same in ("generate()", "fast_generate"):
                check_same(contenders[same](), wanted, beams)
            agreed = (contenders["CTranslate2"]() == wanted[:, PROMPT:]).float().mean()
            assert agreed > 0.99, agreed
            peers = ("transformers", *engines)
            rows += compare(name, contenders, peers, (batch, beams), options.rounds)
    for name, make in {"t5 d256": t5, "rnn d256": rnn}.items():
        cases = wanted_cases(name, ((1, 1), (32, 1), (32, 4)), options.only)
        if not cases:
            continue
        ours = make()
        theirs = hf_genai.to_transformers(ours).eval() if name.startswith("t5") else None
        for batch, beams in cases:
            ids = torch.randint(3, 8192, (batch, PROMPT))
            asked = {"max_new_tokens": 128, "num_beams": beams, "do_sample": False}
            contenders = our_contenders(ours, ids, packed=theirs is not None, **asked)
            if theirs is not None:
                theirs.generation_config.eos_token_id = None
                contenders = {"transformers": partial(theirs.generate, ids, **asked), **contenders}
            wanted = contenders["transformers" if theirs is not None else "generate()"]()
            check_same(contenders["fast_generate"](), wanted, beams)
            peers = ("generate()",) if theirs is None else ("transformers",)
            rows += compare(name, contenders, peers, (batch, beams), options.rounds)
    report(rows, options.json)


if __name__ == "__main__":
    main()

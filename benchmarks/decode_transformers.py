"""Decoding with equal weights: generate() and fast_generate against transformers and CTranslate2.

    pip install ctranslate2==4.8.5
    OMP_NUM_THREADS=1 python benchmarks/decode_transformers.py --json results.json --rounds 5
    OMP_NUM_THREADS=1 python benchmarks/decode_transformers.py --only "gpt d256, greedy, batch 32"

GPT in GPT-2's layout and T5 in T5's: random weights, a prompt or source of 32 tokens, no end token. The script checks
first that the outputs in float32 are the same token for token. Some tokens of bfloat16 and int8 differ.
"""

import copy
import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import transformers
from measure import installed, matrix_products, medians, parse_options, report, row, selected

import hf_genai

PROMPT = 32


@dataclass(frozen=True)
class Case:
    """A family and its sizes, new tokens, and pairs (sentences, beams)."""

    family: str
    sizes: dict[str, int]
    length: int
    batches: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...] = ()  # of fast_generate, beside float32


def transformer_sizes(vocab_size: int, hidden_size: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


SMALL = transformer_sizes(8192, 256, 4, 4)
ROUNDED = ("bfloat16", "int8")
CASES = {
    "gpt d256": Case("gpt", SMALL, 128, ((1, 1), (8, 1), (32, 1), (8, 4), (32, 4)), ROUNDED),
    "gpt d512 v50257, 10 tokens": Case("gpt", transformer_sizes(50257, 512, 6, 8), 10, ((1, 1), (4, 1))),
    "gpt2 small": Case("gpt", {}, 32, ((1, 1), (8, 1))),
    "t5 d256": Case("t5", SMALL, 128, ((1, 1), (32, 1), (32, 4)), ROUNDED),
    "t5 d512": Case("t5", transformer_sizes(8192, 512, 6, 8), 64, ((4, 1),)),
}
TINY = transformer_sizes(64, 16, 1, 2)
SMOKE_CASES = {
    "gpt d16": Case("gpt", TINY, 3, ((1, 1), (2, 2)), ROUNDED),
    "t5 d16": Case("t5", TINY, 3, ((1, 1), (2, 2))),
}
NOT_BEHIND = 0.97  # the least ratio beside transformers


def target_of(contender: str, peer: str, beams: int) -> float | None:
    """Return the least ratio that the library is to reach."""
    if peer == "transformers":
        return 1.5 if contender == "fast_generate" else NOT_BEHIND
    if peer == "CTranslate2" and contender == "fast_generate":
        return 0.8 if beams == 1 else 1.0
    return None


def gpt(sizes: dict) -> hf_genai.GenaiGPTForCausalLM:
    ends = {"eos_token_id": None, "bos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.05}
    return hf_genai.GenaiGPTForCausalLM(hf_genai.GenaiGPTConfig.classic(**sizes, **ends)).eval()


def t5(sizes: dict) -> hf_genai.GenaiT5ForConditionalGeneration:
    sizes = dict(sizes)
    layers = sizes.pop("num_hidden_layers")
    config = hf_genai.GenaiT5Config.classic(
        **sizes, encoder_layers=layers, decoder_layers=layers, initializer_range=0.05
    )
    model = hf_genai.GenaiT5ForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


def ctranslate2_gpt(theirs: transformers.GPT2LMHeadModel, compute_type: str, threads: int) -> Callable:
    """Return a function of (prompts (B, P), beams, new tokens) that returns the new tokens of CTranslate2's texts."""
    import ctranslate2
    from ctranslate2.converters import transformers as converters

    tokens = [f"t{i}" for i in range(theirs.config.vocab_size)]
    folder = tempfile.TemporaryDirectory()
    with torch.no_grad():
        spec = converters._MODEL_LOADERS["GPT2Config"].get_model_spec(copy.deepcopy(theirs))  # it changes its argument
        spec.register_vocabulary(tokens)
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = tokens[0]
        spec.validate()
        spec.optimize()
        spec.save(folder.name)

    @functools.cache
    def generator(process: int) -> ctranslate2.Generator:  # one for each process: threads do not survive a fork
        settings = {"device": "cpu", "intra_threads": threads, "inter_threads": 1}
        return ctranslate2.Generator(folder.name, compute_type=compute_type, **settings)

    def generate(ids: torch.Tensor, beams: int, length: int) -> torch.Tensor:
        prompts = [[tokens[i] for i in text] for text in ids.tolist()]
        options = {"max_length": length, "min_length": length, "include_prompt_in_result": False}
        results = generator(os.getpid()).generate_batch(prompts, beam_size=beams, **options)
        return torch.tensor([result.sequences_ids[0] for result in results])

    return generate


def check_same(outputs: torch.Tensor, expected: torch.Tensor, beams: int) -> None:
    """Raise unless outputs are the same: all, or four of five with beams, whose sums of log-probabilities may tie."""
    share = (outputs == expected).all(1).float().mean()
    assert share >= (1 if beams == 1 else 0.8), f"only {share:.0%} of the outputs are the same"


def run_case(name: str, case: Case, options) -> list[dict]:
    """Check and measure all batches of a case; each of ours beside each peer of its precision."""
    batches = {
        (sentences, beams): f"{name}, {'greedy' if beams == 1 else f'beam {beams}'}, batch {sentences}"
        for sentences, beams in case.batches
    }
    batches = {batch: label for batch, label in batches.items() if selected(label, options)}
    if not batches:
        return []
    ours = (gpt if case.family == "gpt" else t5)(case.sizes)
    theirs = hf_genai.to_transformers(ours).eval()
    theirs.generation_config.eos_token_id = None
    engines = {}
    if case.family == "gpt" and installed("CTranslate2", "ctranslate2"):
        engines["CTranslate2"] = ctranslate2_gpt(theirs, "float32", options.threads)
        if "int8" in case.dtypes:
            engines["CTranslate2 int8"] = ctranslate2_gpt(theirs, "int8", options.threads)
    rows = []
    for (sentences, beams), label in batches.items():
        ids = torch.randint(3, ours.config.vocab_size, (sentences, PROMPT))
        settings = {"max_new_tokens": case.length, "num_beams": beams, "do_sample": False}
        generate = partial(ours.generate, ids, **settings)
        fast = partial(generate, custom_generate=hf_genai.fast_generate)
        contenders = {"transformers": partial(theirs.generate, ids, **settings), "generate()": generate}
        contenders |= {"fast_generate": fast}
        contenders |= {f"fast_generate {dtype}": partial(fast, dtype=dtype) for dtype in case.dtypes}
        contenders |= {engine: partial(run, ids, beams, case.length) for engine, run in engines.items()}
        expected = contenders["transformers"]()
        for contender in ("generate()", "fast_generate"):
            check_same(contenders[contender](), expected, beams)
        if engines and not options.smoke:
            share = (contenders["CTranslate2"]() == expected[:, PROMPT:]).float().mean()
            assert share > 0.99, f"CTranslate2 writes only {share:.1%} of the same tokens"
        for which in ("generate()", "fast_generate") if options.profile else ():
            print(f"{label}, {which}: {matrix_products(contenders[which], options)}")
        ms = {which: 1e3 * seconds for which, seconds in medians(contenders, options).items()}
        for contender in (which for which in contenders if "generate" in which):
            compared = ["transformers"]
            if contender != "generate()":
                compared += [engine for engine in engines if ("int8" in engine) == ("int8" in contender)]
            for peer in compared:
                target = target_of(contender, peer, beams)
                rows.append(row(f"{label}, {contender}", peer, ms[contender], ms[peer], target))
    return rows


def main() -> None:
    options = parse_options(__doc__, rounds=5)
    cases = SMOKE_CASES if options.smoke else CASES
    rows = [result for name, case in cases.items() for result in run_case(name, case, options)]
    report(rows, options)


if __name__ == "__main__":
    main()

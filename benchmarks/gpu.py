"""Parity and speed of the four families on a GPU, by dtype, attention function, torch.compile and kernels.

    bash benchmarks/gpu.sh FOLDER                                       # everything, at most 8 minutes
    python benchmarks/gpu.py --part parity --seconds 120 --json parity.json

parity: loss, logits and gradients beside the same model on the CPU in float32, eager and with plain kernels.
train:  a training step beside transformers' model of the same sizes, and the peak of the GPU's memory.
decode: generate() and fast_generate beside transformers' generate() with the same weights.

A variant that cannot run here has its reason in the table. Variants that --seconds leaves no time for are named, too.
Without a GPU everything runs on the CPU, which is of use with --smoke only.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import peers_transformers as peers
import torch
from measure import machine, parse_options, selected
from peers_transformers import Sizes
from train_rnn import our_model as our_rnn
from train_transformers import causal_batch, masked_batch, our_bert, our_gpt, our_t5, seq2seq_batch
from transformers.utils import is_flash_attn_2_available

import hf_genai

FAMILIES = ("rnn", "bert", "gpt", "t5")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 2e-3, "bfloat16": 8e-2}  # of the norm of a difference, beside the norm of the reference
PARITY_SIZES = Sizes(vocab_size=1000, batch=4, length=64, hidden_size=128, layers=2, heads=4)
TRAIN_SIZES = Sizes(vocab_size=32000, batch=16, length=1024, hidden_size=768, layers=12, heads=12)
SMOKE_SIZES = Sizes(vocab_size=64, batch=4, length=8, hidden_size=32, layers=1, heads=2)


@dataclass(frozen=True)
class Variant:
    """How a model runs."""

    dtype: str
    attention: str
    compiled: bool = False
    plain: bool = False

    def __str__(self) -> str:
        words = [self.dtype, self.attention]
        return ", ".join(words + ["compiled"] * self.compiled + ["plain kernels"] * self.plain)


def variants(family: str) -> Iterator[Variant]:
    """Yield the variants of a family, those that matter most first."""
    recurrent = family == "rnn"
    for dtype in DTYPES:
        usual = "eager" if recurrent else "sdpa"  # a recurrent model has one way to attend
        yield Variant(dtype, usual)
        yield Variant(dtype, usual, plain=True)
        if not recurrent:
            yield from (Variant(dtype, name) for name in ("eager", "flash_attention_2", "flex_attention"))
        yield Variant(dtype, usual, compiled=True)


def obstacle(variant: Variant, options) -> str | None:
    """Return why a variant cannot run here, or None."""
    if variant.attention == "flash_attention_2":
        if variant.dtype == "float32":
            return "FlashAttention takes half precision only"
        if not is_flash_attn_2_available():
            return "flash-attn is not installed, or there is no GPU"
    if options.device == "cpu" and variant.attention == "flex_attention":
        return "FlexAttention needs a GPU for training"
    if options.smoke and variant.compiled:
        return "compiling takes too long for a smoke run"
    return None


def make_model(family: str, sizes: Sizes):
    if family == "rnn":
        return our_rnn(sizes.hidden_size, sizes.vocab_size, fed=True)
    return {"bert": our_bert, "gpt": our_gpt, "t5": our_t5}[family](sizes)


def make_batch(family: str, sizes: Sizes) -> dict[str, torch.Tensor]:
    """Return a batch with padding: rows whose lengths go down to a half."""
    if family == "rnn":
        sizes = Sizes(**{**vars(sizes), "length": min(sizes.length, 64)})
    data = {"bert": masked_batch, "gpt": causal_batch}.get(family, seq2seq_batch)(sizes)
    rows, length = data["input_ids"].shape
    real = torch.arange(length) < torch.linspace(length // 2, length, rows).long()[:, None]
    return {
        "input_ids": data["input_ids"],
        "attention_mask": real.long(),
        "labels": data["labels"].masked_fill(~real, -100),
    }


def prepared(model, variant: Variant, device: str):
    model = model.to(device, DTYPES[variant.dtype]).train()
    if model.config.model_type != "genai_rnn":
        model.set_attn_implementation(variant.attention)
    return model


def run_loss(model, batch: dict, variant: Variant) -> Callable[[], object]:
    forward = torch.compile(model) if variant.compiled else model

    def run():
        if variant.plain:
            with hf_genai.plain_kernels():
                return forward(**batch)
        return forward(**batch)

    return run


def outputs_and_gradients(model, run: Callable[[], object]) -> dict[str, torch.Tensor]:
    result = run()
    result.loss.backward()
    gradients = torch.cat([p.grad.float().flatten().cpu() for p in model.parameters() if p.grad is not None])
    values = {"loss": result.loss.detach().float().cpu().view(1), "gradients": gradients}
    if result.logits is not None:
        values["logits"] = result.logits.detach().float().cpu()
    return values


def parity(family: str, variant: Variant, options) -> dict:
    """Compare loss, logits and gradients with the plain float32 model on the CPU."""
    sizes = SMOKE_SIZES if options.smoke else PARITY_SIZES
    torch.manual_seed(0)
    model, batch = make_model(family, sizes), {**make_batch(family, sizes), "skip_logits": False}
    reference = prepared(make_model(family, sizes), Variant("float32", "eager"), "cpu")
    reference.load_state_dict(model.state_dict())
    expected = outputs_and_gradients(reference, run_loss(reference, batch, Variant("float32", "eager", plain=True)))
    model = prepared(model, variant, options.device)
    batch = {name: x.to(options.device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
    result = outputs_and_gradients(model, run_loss(model, batch, variant))
    differences = {}
    for name in expected.keys() & result.keys():
        plain, ours = expected[name], result[name]
        if name == "logits":  # those of padding have no meaning
            real = (batch["attention_mask"].cpu() == 1).unsqueeze(-1)
            plain, ours = plain * real, ours * real
        differences[name] = ((ours - plain).norm() / plain.norm().clamp_min(1e-12)).item()
    equal = max(differences.values()) <= TOLERANCE[variant.dtype]
    return {**{name: f"{value:.1e}" for name, value in differences.items()}, "equal": "yes" if equal else "NO"}


def milliseconds(run: Callable[[], object], options) -> float:
    """Return the median time of a run, after two runs that are not counted."""
    times = []
    for number in range(options.rounds + options.warm_up):
        start = time.perf_counter()
        run()
        if options.device == "cuda":
            torch.cuda.synchronize()
        if number >= options.warm_up:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def training_step(model, run: Callable[[], object]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        run().loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def train(family: str, variant: Variant, options) -> dict:
    """Time a training step on full and on padded rows."""
    sizes = SMOKE_SIZES if options.smoke else TRAIN_SIZES
    result: dict = {}
    make_peer = {"bert": peers.bert, "gpt": peers.gpt2, "t5": peers.t5}.get(family)
    batch = {name: tensor.to(options.device) for name, tensor in make_batch(family, sizes).items()}
    full = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    model = prepared(make_model(family, sizes), variant, options.device)
    for name, data in {"full rows": full, "padded rows": batch}.items():
        result[f"{name}, ms"] = milliseconds(training_step(model, run_loss(model, data, variant)), options)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        training_step(model, run_loss(model, full, variant))()
        result["GPU memory, MB"] = torch.cuda.max_memory_allocated() / 2**20
    if make_peer is not None and not variant.plain:
        peer = prepared(make_peer(sizes), variant, options.device)
        for name, data in {"full rows": full, "padded rows": batch}.items():
            ms = milliseconds(training_step(peer, run_loss(peer, data, variant)), options)
            result[f"{name}, ratio to transformers"] = ms / result[f"{name}, ms"]
    return {name: f"{value:.3g}" for name, value in result.items()}


def decode(family: str, variant: Variant, options) -> dict:
    """Time generate() and fast_generate, 128 new tokens for one and for 32 sentences."""
    if family == "bert" or variant.compiled:
        return {"skipped": "no decoding with this variant"}
    sizes = SMOKE_SIZES if options.smoke else TRAIN_SIZES
    tokens = 3 if options.smoke else 128
    model = prepared(make_model(family, sizes), variant, options.device).eval()
    model.generation_config.eos_token_id = None
    peer = None
    if family != "rnn" and not variant.plain:
        peer = prepared(hf_genai.to_transformers(model), variant, options.device).eval()
        peer.generation_config.eos_token_id = None
    result: dict = {}
    for sentences in (1, 32):
        ids = torch.randint(3, sizes.vocab_size, (sentences, min(32, sizes.length - tokens)), device=options.device)
        generate = partial(model.generate, ids, max_new_tokens=tokens, do_sample=False)
        contenders = {
            "generate()": generate,
            "fast_generate": partial(generate, custom_generate=hf_genai.fast_generate),
        }
        for name, run in contenders.items():
            with hf_genai.plain_kernels() if variant.plain else torch.no_grad():
                result[f"{name}, {sentences}, ms"] = milliseconds(run, options)
        if peer is not None:
            ms = milliseconds(partial(peer.generate, ids, max_new_tokens=tokens, do_sample=False), options)
            for name in contenders:
                result[f"{name}, {sentences}, ratio to transformers"] = ms / result[f"{name}, {sentences}, ms"]
    return {name: f"{value:.3g}" for name, value in result.items()}


PARTS = {"parity": parity, "train": train, "decode": decode}


def main() -> None:
    options = parse_options(
        __doc__,
        rounds=5,
        part={"choices": list(PARTS), "help": "default: all of them"},
        seconds={"type": float, "default": 400.0, "help": "start no variant after this time"},
    )
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    start, rows = time.monotonic(), []
    about = machine(options) | {"threads": "wall-clock time", "device": options.device}
    print("; ".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    for part in [options.part] if options.part else PARTS:
        order = itertools.zip_longest(*(variants(family) for family in FAMILIES))  # the usual variants of all first
        for family, variant in (pair for round_ in order for pair in zip(FAMILIES, round_, strict=True) if pair[1]):
            if not selected(f"{part} {family} {variant}", options):
                continue
            reason = obstacle(variant, options)
            if time.monotonic() - start > options.seconds:
                reason = "no time left"
            try:
                result = {"skipped": reason} if reason else PARTS[part](family, variant, options)
            except Exception as error:  # one variant that fails must not cost the figures of the others
                result = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            rows.append({"part": part, "family": family, "variant": str(variant), **result})
            values = "; ".join(f"{name}: {value}" for name, value in result.items())
            print(f"{part} | {family} | {variant} | {values}", flush=True)
            if options.json:
                options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

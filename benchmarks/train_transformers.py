"""Training step of BERT, GPT and T5 against their peers: forward, backward, fused AdamW, zero_grad; one thread.

    OMP_NUM_THREADS=1 python benchmarks/train_transformers.py --json results.json
    OMP_NUM_THREADS=1 python benchmarks/train_transformers.py --only "gpt2 v8192"     # some cases
    OMP_NUM_THREADS=1 python benchmarks/train_transformers.py --compiled              # and peers under torch.compile

Sizes (hidden size 256, 4 layers, 4 heads), optimizer and data are the same on both sides. The peer's weights are
copied, and loss and gradients are checked to be equal before the clock runs, with dropout 0. Memory is how far
something raises the peak of a fresh process.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import peers_transformers as peers
import torch
import torch.nn.functional as F
from measure import arguments, medians, report, row

from hf_genai.models.configuration_bert import GenaiBertConfig
from hf_genai.models.configuration_gpt import GenaiGPTConfig
from hf_genai.models.configuration_t5 import GenaiT5Config
from hf_genai.models.linear_cross_entropy import linear_cross_entropy
from hf_genai.models.modeling_bert import GenaiBertForMaskedLM
from hf_genai.models.modeling_gpt import GenaiGPTForCausalLM
from hf_genai.models.modeling_t5 import GenaiT5ForConditionalGeneration

SIZES = {"hidden_size": peers.HIDDEN, "num_hidden_layers": peers.LAYERS, "num_attention_heads": peers.HEADS}
# vocabulary, batch, length; the last has as many rows as T5's own batch (Raffel et al. 2020, 3.1.2), for T5 alone
OWN_BATCH = "v8192 batch 128"
SHAPES = {
    "v8192": (8192, 16, 128),
    "v32000": (32000, 4, 512),
    "v8192 batch 64": (8192, 64, 128),
    OWN_BATCH: (8192, 128, 128),
}
HEAD_GOAL, STEP_GOALS = 20.0, {32000: 3.0, 50000: 4.0}


def drop(rate: float) -> dict[str, float]:
    return {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}


def our_gpt(vocab_size: int, length: int, dropout: float = 0.0, **kwargs) -> GenaiGPTForCausalLM:
    sizes = {"vocab_size": vocab_size, "max_position_embeddings": length, "bos_token_id": None, "eos_token_id": None}
    return GenaiGPTForCausalLM(GenaiGPTConfig.classic(**SIZES, **sizes, **drop(dropout), **kwargs))


def our_modern(vocab_size: int, length: int) -> GenaiGPTForCausalLM:
    return GenaiGPTForCausalLM(GenaiGPTConfig(**SIZES, vocab_size=vocab_size, max_position_embeddings=length))


def our_t5(vocab_size: int, length: int, dropout: float = 0.0) -> GenaiT5ForConditionalGeneration:
    sizes = {"hidden_size": peers.HIDDEN, "num_attention_heads": peers.HEADS, "vocab_size": vocab_size}
    layers = {"encoder_layers": peers.LAYERS, "decoder_layers": peers.LAYERS}
    more = {**drop(dropout), "activation_dropout_prob": dropout}
    return GenaiT5ForConditionalGeneration(GenaiT5Config.classic(**sizes, **layers, **more))


def our_bert(vocab_size: int, length: int, dropout: float = 0.0) -> GenaiBertForMaskedLM:
    sizes = {"vocab_size": vocab_size, "max_position_embeddings": length}
    return GenaiBertForMaskedLM(GenaiBertConfig.classic(**SIZES, **sizes, **drop(dropout)))


def causal_batch(vocab_size: int, batch: int, length: int) -> dict:
    ids = torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids}


def seq2seq_batch(vocab_size: int, batch: int, length: int) -> dict:
    """Sources and targets of `length` tokens each, and so half as many rows."""
    source, target = torch.randint(3, vocab_size, (2, batch // 2, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": source, "labels": target}


def masked_batch(vocab_size: int, batch: int, length: int) -> dict:
    """A label at 15 % of the places."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocab_size, (batch, length), generator=generator)
    return {"input_ids": ids, "labels": ids.masked_fill(torch.rand(ids.shape, generator=generator) > 0.15, -100)}


def loss_of(model, data: dict) -> Callable[[], torch.Tensor]:
    if isinstance(model, peers.NanoGPT):
        targets = F.pad(data["labels"][:, 1:], (0, 1), value=-1)
        return lambda: model(data["input_ids"], targets)
    return lambda: model(**data).loss


def step_of(model, loss: Callable[[], torch.Tensor], autocast: bool = False) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def check_equal(ours, theirs, table: Callable, data: dict) -> None:
    """Copy the peer's weights over and compare loss and every gradient.

    In float64 for T5: in float32 a sum that is rounded differently turns some of its ReLUs around their corner.
    """
    dtype = torch.float64 if hasattr(theirs, "shared") else torch.float32
    ours.to(dtype)
    theirs.to(dtype)
    data = {name: rows[:4] for name, rows in data.items()}
    parameters = dict(ours.named_parameters())
    with torch.no_grad():
        for name, weight, _ in table(theirs):
            parameters[name].copy_(weight)
    first, second = loss_of(ours, data)(), loss_of(theirs, data)()
    first.backward()
    second.backward()
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    compared = set()
    for name, _, gradient in table(theirs):
        atol = max(3e-6, 1e-5 * gradient.abs().max().item())
        torch.testing.assert_close(parameters[name].grad, gradient, atol=atol, rtol=1e-3)
        compared.add(name)
    left = set(parameters) - compared
    assert not left, f"not compared: {sorted(left)}"
    for model in (ours, theirs):
        model.zero_grad()
        model.float()


# case: ours, data, {peer: (its model, table of weights, goal)}; each made from vocabulary and length
CASES = {
    "gpt2": (our_gpt, causal_batch, {"transformers GPT-2": (peers.gpt2, peers.weights_of_gpt2, 1.35)}),
    "gpt2 erf": (
        lambda v, t: our_gpt(v, t, hidden_act="gelu"),
        causal_batch,
        {"nanoGPT": (peers.NanoGPT, peers.weights_of_nanogpt, 1.13)},
    ),
    "llama": (
        our_modern,
        causal_batch,
        {"transformers Llama": (lambda v, t: peers.llama(v, t, 704, 2), peers.weights_of_llama, 1.35)},
    ),
    "t5": (our_t5, seq2seq_batch, {"transformers T5": (lambda v, t: peers.t5(v), peers.weights_of_t5, 1.4)}),
    "bert": (our_bert, masked_batch, {"transformers BERT": (peers.bert, peers.weights_of_bert, None)}),
}
WITH_DROPOUT = {
    "gpt2": {"transformers GPT-2": peers.gpt2, "nanoGPT": peers.NanoGPT},
    "t5": {"transformers T5": lambda v, t, rate: peers.t5(v, rate)},
    "bert": {"transformers BERT": peers.bert},
}
OURS_WITH_DROPOUT = {"gpt2": our_gpt, "t5": our_t5, "bert": our_bert}


def timed(name: str, ours, peers_: dict, data: dict, goals: dict, rounds: int, autocast: bool = False) -> list[dict]:
    contenders = {"hf_genai": step_of(ours, loss_of(ours, data), autocast)}
    contenders |= {peer: step_of(model, loss, autocast) for peer, (model, loss) in peers_.items()}
    ms = {which: 1000 * seconds for which, seconds in medians(contenders, rounds).items()}
    return [row(name, peer, ms["hf_genai"], ms[peer], goals.get(peer)) for peer in peers_]


def plain(case: str, shape: str, options) -> list[dict]:
    """A case without dropout: checked equal, then timed; GPT-2's layout against nanoGPT and compiled peers, too."""
    vocab_size, batch, length = SHAPES[shape]
    make, make_data, contenders = CASES[case]
    data, goals, made = make_data(vocab_size, batch, length), {}, {}
    ours = make(vocab_size, length).train()
    for peer, (make_peer, table, goal) in contenders.items():
        model = make_peer(vocab_size, length).train()
        check_equal(ours, model, table, data)
        made[peer], goals[peer] = (model, loss_of(model, data)), goal
        if options.compiled:
            compiled = torch.compile(model)
            made[f"{peer}, compiled"] = model, loss_of(compiled, data)
            goals[f"{peer}, compiled"] = 1.0 if case == "gpt2" else None
    return timed(f"train {case} {shape}", ours, made, data, goals, options.rounds)


def dropped(case: str, shape: str, options) -> list[dict]:
    vocab_size, batch, length = SHAPES[shape]
    data = CASES[case][1](vocab_size, batch, length)
    ours = OURS_WITH_DROPOUT[case](vocab_size, length, 0.1).train()
    made = {peer: make(vocab_size, length, 0.1).train() for peer, make in WITH_DROPOUT[case].items()}
    made = {peer: (model, loss_of(model, data)) for peer, model in made.items()}
    goals = {"transformers T5": 1.4}  # it is T5's default
    return timed(f"train {case} dropout {shape}", ours, made, data, goals, options.rounds)


def half(shape: str, options) -> list[dict]:
    vocab_size, batch, length = SHAPES[shape]
    data = causal_batch(vocab_size, batch, length)
    ours = our_gpt(vocab_size, length, hidden_act="gelu").train()
    made = {"nanoGPT": peers.NanoGPT(vocab_size, length), "transformers GPT-2": peers.gpt2(vocab_size, length).train()}
    made = {peer: (model, loss_of(model, data)) for peer, model in made.items()}
    return timed(f"train gpt2 bf16 {shape}", ours, made, data, {"nanoGPT": 1.0}, options.rounds, autocast=True)


def head(which: str, vocab_size: int) -> Callable[[], None]:
    """Head and loss with their gradients, 8 x 1,024 tokens."""
    hidden = torch.randn(8, 1024, peers.HIDDEN, requires_grad=True)
    weight = (0.02 * torch.randn(vocab_size, peers.HIDDEN)).requires_grad_()
    labels = torch.randint(vocab_size, (8, 1024))

    def step():
        if which == "hf_genai":
            loss = linear_cross_entropy(hidden, weight, labels)
        else:  # as transformers' causal models: all logits, and again in float32
            logits = F.linear(hidden, weight).float()
            loss = F.cross_entropy(logits.view(-1, vocab_size), labels.view(-1))
        loss.backward()
        hidden.grad = weight.grad = None

    return step


def whole(which: str, vocab_size: int) -> Callable[[], None]:
    """A training step of a whole model of 4 layers, 8 x 1,024 tokens."""
    model = (our_gpt if which == "hf_genai" else peers.gpt2)(vocab_size, 1024).train()
    return step_of(model, loss_of(model, causal_batch(vocab_size, 8, 1024)))


def memory_of(which: str, part: str, vocab_size: int) -> float:
    """MB by which two steps raise the peak memory of a fresh process (Linux)."""
    command = [sys.executable, __file__, "--memory-of", which, part, str(vocab_size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory(which: str, part: str, vocab_size: str) -> None:
    torch.set_num_threads(1)
    step = {"head": head, "step": whole}[part](which, int(vocab_size))
    status, kilobytes = Path("/proc/self/status"), r":\s+(\d+) kB"
    before = re.search("VmRSS" + kilobytes, status.read_text())
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing and building
    for _ in range(2):
        step()
    peak = re.search("VmHWM" + kilobytes, status.read_text())
    print((int(peak[1]) - int(before[1])) / 1024)


def memory(options) -> list[dict]:
    rows = []
    for vocab_size in STEP_GOALS:
        name = f"head 8x1024 v{vocab_size}"
        if options.only in f"memory {name}":
            sizes = (memory_of(which, "head", vocab_size) for which in ("hf_genai", "transformers"))
            rows.append(row(f"memory {name}", "all logits", *sizes, HEAD_GOAL if vocab_size == 50000 else None, "MB"))
        if options.only in f"time {name}":
            steps = {which: head(which, vocab_size) for which in ("hf_genai", "all logits")}
            ms = [1000 * seconds for seconds in medians(steps, max(options.rounds // 3, 1)).values()]
            rows.append(row(f"time {name}", "all logits", *ms, 1.0))
        name = f"memory step 8x1024 v{vocab_size}"
        if options.only in name:
            sizes = (memory_of(which, "step", vocab_size) for which in ("hf_genai", "transformers"))
            rows.append(row(name, "transformers GPT-2", *sizes, STEP_GOALS[vocab_size], "MB"))
    return rows


def main() -> None:
    compiled = {"action": "store_true", "help": "add the peers under torch.compile; minutes each"}
    options = arguments(__doc__, compiled=compiled)
    rows = []
    for shape in SHAPES:
        cases = ["t5"] if shape == OWN_BATCH else list(CASES)
        runs = {f"train {case} {shape}": lambda case=case, shape=shape: plain(case, shape, options) for case in cases}
        for case in (case for case in WITH_DROPOUT if case in cases):
            runs[f"train {case} dropout {shape}"] = lambda case=case, shape=shape: dropped(case, shape, options)
        if "gpt2" in cases:
            runs[f"train gpt2 bf16 {shape}"] = lambda shape=shape: half(shape, options)
        for name, run in runs.items():
            if options.only in name:
                rows += run()
    report(rows + memory(options), options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        print_memory(*sys.argv[2:])
    else:
        main()

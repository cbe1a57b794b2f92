"""Can a recurrent model write a sequence backwards? With attention, yes; through one fixed vector, only short ones.

CPU, under a minute:  python recipes/study_reversal.py --output_dir DIR
All score functions:  python recipes/study_reversal.py --output_dir DIR \
                          --attention_types none dot general scaled_dot additive

Each model trains for the same number of steps on fresh random sequences of 1 to 20 symbols. Exact match is then
measured at every length from 1 to 30, so the last ten are longer than anything seen in training. DIR gets
reversal.png (the curves) and results.json (the same as numbers).

Expected: additive attention reaches 100 % at length 20, no attention 0 % from length 11 on; neither goes far
beyond the lengths of its training.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from hf_genai import GenaiRNNConfig, GenaiRNNForConditionalGeneration

EOS, FIRST_SYMBOL = 2, 3  # 0 is padding, 1 the start
LONGEST_IN_TRAINING = 20


@dataclass
class StudyArguments:
    output_dir: str = field(metadata={"help": "folder for the picture and the numbers; new or empty"})
    attention_types: list[str] = field(
        default_factory=lambda: ["none", "additive"], metadata={"help": "score functions to compare"}
    )
    steps: int = field(default=900, metadata={"help": "training steps of each model, of 64 sequences"})
    hidden_size: int = field(default=48, metadata={"help": "size of states and embeddings"})
    longest: int = field(default=30, metadata={"help": "longest sequence to measure"})
    samples: int = field(default=200, metadata={"help": "sequences to measure at each length"})
    seed: int = field(default=0, metadata={"help": "seed of weights and data"})
    num_threads: int = field(default=1, metadata={"help": "threads; matrices this small are slower with more"})


def reversal_batch(batch_size: int, length: int, symbols: int, generator: torch.Generator) -> tuple:
    """Return sequences (B, length + 1) of random symbols and the end token, and the same backwards."""
    ids = torch.randint(FIRST_SYMBOL, FIRST_SYMBOL + symbols, (batch_size, length), generator=generator)
    end = torch.full((batch_size, 1), EOS)
    return torch.cat([ids, end], dim=1), torch.cat([ids.flip(1), end], dim=1)


def train_reversal(
    attention_type: str, steps: int = 900, hidden_size: int = 48, symbols: int = 10, seed: int = 0
) -> GenaiRNNForConditionalGeneration:
    """Train a one-layer GRU with attention before the cell to reverse sequences of 1 to 20 symbols."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    config = GenaiRNNConfig(
        vocab_size=FIRST_SYMBOL + symbols,
        hidden_size=hidden_size,
        attention_type=attention_type,
        attention_position="before",
        dropout=0.0,
    )
    model = GenaiRNNForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=8e-3, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        length = int(torch.randint(1, LONGEST_IN_TRAINING + 1, (), generator=generator))  # one a batch: no padding
        input_ids, labels = reversal_batch(64, length, symbols, generator)
        optimizer.zero_grad()
        model(input_ids=input_ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def exact_match(model: GenaiRNNForConditionalGeneration, length: int, samples: int = 200, seed: int = 1) -> float:
    """Return the share, 0 to 1, of sequences that greedy decoding reverses without a mistake."""
    symbols = model.config.vocab_size - FIRST_SYMBOL
    ids, labels = reversal_batch(samples, length, symbols, torch.Generator().manual_seed(seed))
    written = model.generate(ids, max_new_tokens=length + 1, do_sample=False)[:, 1:]
    written = torch.nn.functional.pad(written, (0, length + 1 - written.shape[1]))  # where all end too soon
    return (written == labels).all(dim=1).float().mean().item()


def plot_by_length(results: dict[str, dict]):
    """Return a figure with a curve for each attention type."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        lengths = range(1, len(result["exact_match"]) + 1)
        label = "no attention" if name == "none" else f"{name} attention".replace("_", " ")
        axes.plot(lengths, [100 * share for share in result["exact_match"]], marker="o", markersize=3, label=label)
    longest = max(len(result["exact_match"]) for result in results.values())
    if longest > LONGEST_IN_TRAINING:
        axes.axvspan(LONGEST_IN_TRAINING + 0.5, longest + 0.5, color="0.92", zorder=0, label="longer than in training")
    axes.set(xlabel="length of the sequence (symbols)", ylabel="reversed without a mistake (%)")
    axes.set(xlim=(0.5, longest + 0.5), ylim=(-3, 103))
    axes.legend(loc="center")  # between the curves, which stay near 100 and 0
    return figure


def main(argv: list[str] | None = None) -> dict[str, dict]:
    """Train, measure, print a table, write picture and numbers; return the numbers by attention type."""
    (arguments,) = HfArgumentParser(StudyArguments, description=__doc__).parse_args_into_dataclasses(argv)
    folder = Path(arguments.output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"output_dir ({folder}) must be a new or an empty folder: nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.num_threads)
    results: dict[str, dict] = {}
    print(
        f"{'attention':<12}{'parameters':>12}{'seconds':>9}   exact match (%) at length 5, 10, 20, {arguments.longest}"
    )
    for name in arguments.attention_types:
        start = time.perf_counter()
        model = train_reversal(name, arguments.steps, arguments.hidden_size, seed=arguments.seed)
        seconds = time.perf_counter() - start
        shares = [exact_match(model, length, arguments.samples) for length in range(1, arguments.longest + 1)]
        results[name] = {"parameters": model.num_parameters(), "seconds": seconds, "exact_match": shares}
        shown = "".join(f"{100 * shares[min(n, len(shares)) - 1]:7.1f}" for n in (5, 10, 20, arguments.longest))
        print(f"{name:<12}{model.num_parameters():>12,}{seconds:>9.1f}{shown}", flush=True)
    plot_by_length(results).savefig(folder / "reversal.png", dpi=150)
    (folder / "results.json").write_text(
        json.dumps({"arguments": vars(arguments), "results": results}, indent=2) + "\n"
    )
    print(f"picture: {folder / 'reversal.png'}   numbers: {folder / 'results.json'}")
    return results


if __name__ == "__main__":
    main()

"""What the benchmarks share: timing side by side, the table, the JSON file."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def arguments(description: str, rounds: int = 15, **more: dict) -> argparse.Namespace:
    """Read the command line; `more` has further options by name, each with what argparse wants to know of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="measured rounds; each runs every contender once")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write [{name, peer, ratio, goal}] here")
    for name, option in more.items():
        parser.add_argument(f"--{name}", **option)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return options


def medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each contender, in turns.

    With one thread this is the wall clock of an idle machine; on a busy one it leaves out the waiting.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 2):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if round_number >= 2:  # the first rounds warm caches and allocators up
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(name: str, peer: str, ours: float, theirs: float, goal: float | None, unit: str = "ms") -> dict:
    return {
        "name": name,
        "peer": peer,
        "ratio": theirs / ours,
        "goal": goal,
        "ours": ours,
        "theirs": theirs,
        "unit": unit,
    }


def report(rows: list[dict], path: Path | None) -> None:
    """Print a Markdown table; a ratio above 1 means that hf_genai needs less."""
    print("| case | peer | hf_genai | peer | ratio | at least |\n| --- | --- | --- | --- | --- | --- |")
    for r in rows:
        goal = "-" if r["goal"] is None else f"{r['goal']:.2f}"
        print(
            f"| {r['name']} | {r['peer']} | {r['ours']:.4g} {r['unit']} | {r['theirs']:.4g} {r['unit']} "
            f"| {r['ratio']:.2f} | {goal} |"
        )
    if path:
        path.write_text(
            json.dumps([{k: r[k] for k in ("name", "peer", "ratio", "goal")} for r in rows], indent=1) + "\n"
        )

"""What the benchmarks share: timing side by side, the table, the JSON file."""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
APART = False  # set by `arguments`
WARM_UP = 2  # rounds that are not counted: caches and allocators get warm


def arguments(description: str, rounds: int = 15, **more: dict) -> argparse.Namespace:
    """Read the command line; `more` has further options by name, each with what argparse wants to know of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="measured rounds; each runs every contender once")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--apart", action="store_true", help="give each contender a process of its own")
    parser.add_argument("--json", type=Path, help="write [{name, peer, ratio, goal}] here")
    for name, option in more.items():
        parser.add_argument(f"--{name}", **option)
    options = parser.parse_args()
    global APART
    APART = options.apart
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return options


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Processor seconds of a run, and what it returned.

    With one thread they are the wall clock of an idle machine; on a busy one they leave out the waiting.
    """
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def in_turns(contenders: dict[str, Callable[[], T]], rounds: int) -> dict[str, list[tuple[float, T]]]:
    """Run each contender once a round; see `timed`."""
    found: dict[str, list[tuple[float, T]]] = {name: [] for name in contenders}
    with ExitStack() as stack:
        runs = {
            name: stack.enter_context(own_process(run)) if APART else partial(timed, run)
            for name, run in contenders.items()
        }
        for number in range(rounds + WARM_UP):
            for name, run in runs.items():
                result = run()
                if number >= WARM_UP:
                    found[name].append(result)
    return found


@contextmanager
def own_process(run: Callable[[], T]) -> Iterator[Callable[[], tuple[float, T]]]:
    """Give a contender a forked process of its own, as a model that is trained or served has one."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    worker = fork.Process(target=_serve, args=(theirs, ours, run), daemon=True)
    worker.start()
    theirs.close()  # so that a worker which fails is seen to

    def ask() -> tuple[float, T]:
        ours.send(True)
        return ours.recv()

    yield ask
    ours.send(False)
    worker.join()


def _serve(pipe: Connection, other_end: Connection, run: Callable[[], object]) -> None:
    other_end.close()
    torch.set_num_threads(1)
    while pipe.recv():
        pipe.send(timed(run))


def medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each contender, in turns."""

    def silent(run: Callable[[], object]) -> Callable[[], None]:
        def without_result() -> None:
            run()

        return without_result

    runs = in_turns({name: silent(run) for name, run in contenders.items()}, rounds)
    return {name: statistics.median(seconds for seconds, _ in found) for name, found in runs.items()}


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

"""Shared by all benchmarks: options, interleaved timing, peak memory, and tables that say where they were measured."""

import argparse
import importlib
import json
import math
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")
WARM_UP = 2  # rounds that are not counted: they fill caches and allocators
# what changes the instructions that the libraries choose, and so the figures
INSTRUCTION_VARIABLES = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")
# operators of torch that are matrix products, and the fused attention, whose products torch does not count
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise")
FUSED_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"  # and its backward
# oneDNN's product with a packed weight, which torch does not count either
PACKED_FLOPS = {
    torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0],
}
PACKAGES = ("torch", "transformers", "joeynmt", "OpenNMT-py", "ctranslate2")


def parse_options(description: str, rounds: int = 15, **more: dict) -> argparse.Namespace:
    """Read the command line, and set torch's seed and threads.

    Args:
        description: the docstring of the script.
        rounds: default of --rounds.
        more: further options by name, each with the keyword arguments of argparse's `add_argument`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="measured rounds; each runs every contender once")
    parser.add_argument("--only", default="", help="run the cases whose name contains this text, or A or B for A|B")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; above 1, times are wall-clock times")
    parser.add_argument("--fork", action="store_true", help="run each contender in a process of its own; one thread")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes and one round, to see that the script runs")
    parser.add_argument("--profile", action="store_true", help="print share and rate of our matrix products")
    parser.add_argument("--json", type=Path, help="write the machine and the rows to this file")
    for name, option in more.items():
        parser.add_argument(f"--{name}", **option)
    options = parser.parse_args()
    if options.fork and options.threads > 1:
        parser.error("--fork runs with one thread only: OpenMP's threads do not survive a fork")
    options.warm_up = WARM_UP
    if options.smoke:
        options.rounds, options.warm_up = 1, 0
    options.load = os.getloadavg()[0]
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def selected(name: str, options: argparse.Namespace) -> bool:
    """Return whether --only selects the case of this name."""
    return any(text in name for text in options.only.split("|"))


def installed(name: str, *modules: str) -> bool:
    """Return whether a peer's modules can be imported; if not, print which peer is left out, and why."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        print(f"{name} is not installed, its rows are left out: {error}", flush=True)
        return False
    return True


def timed(run: Callable[[], T], threads: int = 1) -> tuple[float, T]:
    """Return the seconds that a run took, and its result.

    One thread: processor time, which is the wall-clock time of an idle machine and leaves out waiting on a busy one.
    More: wall-clock time, since OpenMP's threads use processor time while they wait for each other.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    result = run()
    return clock() - start, result


def interleaved(
    contenders: dict[str, Callable[[], T]], options: argparse.Namespace
) -> dict[str, list[tuple[float, T]]]:
    """Run each contender once a round; return what `timed` returned for each in the measured rounds."""
    results: dict[str, list[tuple[float, T]]] = {name: [] for name in contenders}
    with ExitStack() as stack:
        runs = {
            name: stack.enter_context(forked(run)) if options.fork else partial(timed, run, options.threads)
            for name, run in contenders.items()
        }
        for number in range(options.rounds + options.warm_up):
            for name, run in runs.items():
                result = run()
                if number >= options.warm_up:
                    results[name].append(result)
    return results


@contextmanager
def forked(run: Callable[[], T]) -> Iterator[Callable[[], tuple[float, T]]]:
    """Give a contender a forked process of its own, like a model that is trained or served alone."""
    fork = multiprocessing.get_context("fork")
    parent_end, worker_end = fork.Pipe()
    worker = fork.Process(target=_serve, args=(worker_end, parent_end, run), daemon=True)
    worker.start()
    worker_end.close()  # so that reading from a worker that failed raises an error

    def ask() -> tuple[float, T]:
        parent_end.send(True)
        return parent_end.recv()

    yield ask
    parent_end.send(False)
    worker.join()


def _serve(pipe: Connection, other_end: Connection, run: Callable[[], object]) -> None:
    other_end.close()
    torch.set_num_threads(1)
    while pipe.recv():
        pipe.send(timed(run))


def medians(contenders: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of each contender over interleaved rounds."""

    def without_result(run: Callable[[], object]) -> Callable[[], None]:
        def discard() -> None:
            run()

        return discard

    runs = interleaved({name: without_result(run) for name, run in contenders.items()}, options)
    return {name: statistics.median(seconds for seconds, _ in results) for name, results in runs.items()}


def matrix_products(step: Callable[[], None], options: argparse.Namespace, dtype: torch.dtype = torch.float32) -> str:
    """Return the share of a step that its matrix products take, and their rate beside that of one large product."""
    with FlopCounterMode(display=False, custom_mapping=PACKED_FLOPS) as counter:
        step()
    seconds = statistics.median(timed(step, options.threads)[0] for _ in range(3))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    events = profile.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    share = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS) / total
    attention = sum(event.self_cpu_time_total for event in events if event.key.startswith(FUSED_ATTENTION)) / total
    rate = counter.get_total_flops() / (share * seconds) / 1e9
    left = torch.randn(2048, 2048, dtype=dtype)
    large = statistics.median(timed(lambda: left @ left, options.threads)[0] for _ in range(5))
    return (
        f"matrix products take {share:.0%} of {1e3 * seconds:.1f} ms at {rate:.0f} GFLOP/s,"
        f" fused attention {attention:.0%};"
        f" one product of 2048 x 2048 x 2048 runs at {2 * 2048**3 / large / 1e9:.0f} GFLOP/s"
    )


def peak_memory(script: str, *arguments: str) -> float:
    """Return the megabytes that `script --memory-of ARGUMENTS` prints in a fresh process; see `print_peak_memory`."""
    command = [sys.executable, script, "--memory-of", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak_memory(step: Callable[[], None]) -> None:
    """Print by how many megabytes three steps raise the resident memory of this process at most (Linux only)."""
    status, kilobytes = Path("/proc/self/status"), r":\s+(\d+) kB"
    before = re.search("VmRSS" + kilobytes, status.read_text())
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which importing and building has set
    for _ in range(3):
        step()
    peak = re.search("VmHWM" + kilobytes, status.read_text())
    print((int(peak[1]) - int(before[1])) / 1024)


def made_up_texts(count: int) -> list[str]:
    """Return different texts of two sentences each, for smoke runs."""
    words = ["the", "small", "cat", "sees", "a", "green", "bird", "near", "old", "water", "and", "sleeps", "again"]

    def sentence(number: int) -> str:
        length, start = 4 + number % 7, number // 7
        return " ".join(words[(start + index * (1 + start // 13)) % 13] for index in range(length)) + "."

    return [f"{sentence(2 * number)} {sentence(2 * number + 1)}" for number in range(count)]


def row(name: str, peer: str, ours: float, theirs: float, target: float | None, unit: str = "ms") -> dict:
    """Return a row of the table; a ratio above 1 means that hf_genai needs less than the peer."""
    ratio = theirs / ours if ours else float("nan")
    values = {"name": name, "peer": peer, "unit": unit, "ours": ours, "theirs": theirs}
    return {**values, "ratio": ratio, "target": target}


def machine(options: argparse.Namespace) -> dict[str, str]:
    """Return what a figure depends on: code, processor, instructions, load, date, threads, versions."""
    processor, flags = _processor()
    return {
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{processor}, {os.cpu_count()} cores, {flags}",
        "instructions": _instructions(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load": f"{options.load:.1f} before, {os.getloadavg()[0]:.1f} after (with this run)",
        "threads": f"{options.threads}, {'processor' if options.threads == 1 else 'wall-clock'} time",
        "rounds": f"medians of {options.rounds}",
        "versions": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
    }


def _processor() -> tuple[str, str]:
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor() or platform.machine(), "flags unknown"
    lines = dict(re.findall(r"^(.*?)\s*: (.*)$", information.read_text(), re.MULTILINE))
    words = set(lines.get("flags", lines.get("Features", "")).split())
    names = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve")
    model = lines.get("model name", platform.machine())
    family = f" (family {lines['cpu family']}, model {lines['model']})" if "cpu family" in lines else ""
    return model + family, " ".join(name for name in names if name in words) or "no vector flags"


def _instructions() -> str:
    settings = [f"{name}={os.environ[name]}" for name in INSTRUCTION_VARIABLES if name in os.environ]
    return ", ".join([f"torch uses {torch.backends.cpu.get_cpu_capability()}", *settings])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short", "HEAD") + changes
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def report(rows: list[dict], options: argparse.Namespace) -> None:
    """Print the machine and a Markdown table of the rows, and write both to --json."""
    result = {"machine": machine(options), "rows": rows}
    print("\n".join(markdown(result["machine"], rows)))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def markdown(about: dict[str, str], *runs: list[dict]) -> Iterator[str]:
    """Yield the lines of a table: times of the first run, and the ratio of each."""
    yield "; ".join(f"{name}: {value}" for name, value in about.items())
    yield ""
    ratios = ["ratio", *(f"ratio of run {number}" for number in range(2, len(runs) + 1))]
    yield f"| case | peer | unit | hf_genai | peer | {' | '.join(ratios)} | target |"
    yield "| --- | --- | --- | --- | --- |" + " --- |" * (len(ratios) + 1)
    others = [{(r["name"], r["peer"]): f"{r['ratio']:.2f}" for r in rows} for rows in runs]
    for r in runs[0]:
        measured = " | ".join(ratio.get((r["name"], r["peer"]), "-") for ratio in others)
        target = "-" if r["target"] is None else f"{r['target']:.2f}"
        times = f"{_digits(r['ours'])} | {_digits(r['theirs'])}"
        yield f"| {r['name']} | {r['peer']} | {r['unit']} | {times} | {measured} | {target} |"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"

"""Every benchmark runs: tiny sizes, one round, outputs checked where the script does so, peers that are installed."""

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = {"measure", "peers", "peers_transformers", "tables"}  # measure nothing themselves
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in SHARED)


@pytest.fixture(scope="module")
def smoke_runs(tmp_path_factory):
    """Start the smoke runs of all scripts, two at a time; return the future of each."""
    folder = tmp_path_factory.mktemp("benchmarks")
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(name: str):
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--smoke", "--json", str(folder / f"{name}.json")]
        result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        return result, folder / f"{name}.json"

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, name) for name in SCRIPTS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_smoke_run_ends_and_says_where_it_was_measured(smoke_runs, name):
    result, path = smoke_runs[name].result()
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        if "is not installed" in line:
            warnings.warn(line, stacklevel=1)  # pytest's summary names the peers that are left out
    report = json.loads(path.read_text("utf-8"))
    assert {"commit", "date", "CPU", "load", "threads"} <= set(report["machine"])
    assert report["rows"] or name == "kernel_twins"  # there may be no twins


def test_results_of_two_runs_become_one_table(smoke_runs):
    _, path = smoke_runs["decode_transformers"].result()
    command = [sys.executable, str(BENCHMARKS / "tables.py"), str(path.parent), str(path.parent)]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| case | peer | unit | hf_genai | peer | ratio | ratio of run 2 | target |" in table
    assert "### decode_transformers" in table

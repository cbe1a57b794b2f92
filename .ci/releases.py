#!/usr/bin/env python3
"""Run the tests on other releases than those that constraints.txt holds, and say which tests fail on which package.

    python3 .ci/releases.py newest            all tests, on the newest releases that pip finds
    python3 .ci/releases.py lowest            all tests, on the lowest that pyproject.toml admits
    python3 .ci/releases.py newest -- tests/decoding -k beams

Under `newest` torch is the one that constraints.txt holds, as its newest default build draws gigabytes; --torch takes
another. The lowest torch is such a build. Where tests fail, each package whose release differs from constraints.txt is
put back alone, and the failed tests run again: those that pass then fail because of that package. The end is 1 if a
test failed. Needs Python 3.11 or newer.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def plain(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> dict[str, str]:
    """Return what the package and its extras for tests ask for: name -> specifier, such as ">=2,<3"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    read = (re.match(r"([\w.-]+)(\[[\w,]*\])?\s*([^;]*)", line) for line in lines)
    return {plain(match[1]): match[3] for match in read if match and match[1] != "hf_genai"}


def pinned() -> dict[str, str]:
    """Return the releases that constraints.txt holds."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {plain(name): version for name, _, version in (line.partition("==") for line in lines) if version}


class Environment:
    """A virtual environment with this package in it.

    Args:
        folder: where it is; made if it is not there.
        constraints: what pip has to keep to; none for the lowest releases that are admitted.
    """

    def __init__(self, folder: Path, constraints: list[str]):
        self.python = folder / "bin" / "python"
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            kept = folder / "constraints.txt"
            kept.write_text("\n".join(constraints or self.lowest()) + "\n", "utf-8")
            self.install("-c", str(kept), "-e", f"{ROOT}[dev]")

    def lowest(self) -> list[str]:
        """Return the lowest releases that pyproject.toml admits, and the newest of what those draw, found by uv."""
        self.install("uv")
        command = [self.python, "-m", "uv", "pip", "compile", "-q", "--no-annotate", "--resolution", "lowest-direct"]
        found = subprocess.run(
            [*command, "pyproject.toml", "--extra", "dev"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        return [line for line in found.stdout.splitlines() if not line.startswith("#")]

    def install(self, *what: str) -> None:
        subprocess.run([self.python, "-m", "pip", "install", "-q", *what], check=True)

    def releases(self) -> dict[str, str]:
        command = [self.python, "-m", "pip", "list", "--format", "json"]
        listed = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        return {plain(row["name"]): row["version"].partition("+")[0] for row in listed}

    def failures(self, *arguments: str) -> list[str] | None:
        """Run pytest; return the tests that failed, or None if it could not run at all."""
        with tempfile.TemporaryDirectory() as cache:
            command = [self.python, "-m", "pytest", "-o", f"cache_dir={cache}", *arguments]
            ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode
            kept = Path(cache, "v", "cache", "lastfailed")
            failed = sorted(json.loads(kept.read_text("utf-8"))) if kept.exists() else []
        return failed if failed or not ended else None


def blame(environment: Environment, failed: list[str]) -> dict[str, list[str]]:
    """Return by test the packages whose release in constraints.txt, put back alone, makes it pass."""
    here, there = environment.releases(), pinned()
    changed = [name for name in requirements() if name in here and name in there and here[name] != there[name]]
    blamed: dict[str, list[str]] = {test: [] for test in failed}

    def fail_with(names: list[str]) -> list[str]:
        """Return the tests that still fail when these packages are put back."""
        environment.install("--no-deps", *(f"{name}=={there[name]}" for name in names))
        still = environment.failures(*failed)
        environment.install("--no-deps", *(f"{name}=={here[name]}" for name in names))
        return failed if still is None else still

    # a test that fails with all of them put back fails because of something else: no need to try each
    if changed and set(fail_with(changed)) < set(failed):
        for name in changed:
            still = fail_with([name])
            for test in failed:
                if test not in still:
                    blamed[test].append(f"{name} {here[name]} (passes with {there[name]})")
    return blamed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("newest", "lowest"))
    parser.add_argument("--venv", type=Path, help="a folder for the environment, kept for the next call")
    parser.add_argument("--torch", help="for newest, such as torch==2.14.1; default: as said above")
    # by hand: before Python 3.13 argparse takes nothing after "--" once an option stands before it
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given, for_pytest = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :] or ["-n", "2", "--dist", "loadfile"]
    newest = [given.torch or f"torch=={pinned()['torch']}"]
    with tempfile.TemporaryDirectory() as made:
        environment = Environment(
            (given.venv or Path(made, "venv")).absolute(), [] if given.which == "lowest" else newest
        )
        here, there = environment.releases(), pinned()
        print(f"\nreleases that differ from constraints.txt ({given.which}):", flush=True)
        for name in sorted(here.keys() & there.keys()):
            if here[name] != there[name]:
                print(f"  {name:<24}{there[name]:>16} -> {here[name]}", flush=True)
        failed = environment.failures(*for_pytest)
        if failed is None:
            print(f"the tests did not run on the {given.which} releases", file=sys.stderr)
            return 1
        if failed:
            print(f"\n{len(failed)} tests fail on the {given.which} releases:", file=sys.stderr)
            for test, packages in blame(environment, failed).items():
                print(
                    f"  {test}\n      {'; '.join(packages) or 'no package of pyproject.toml alone'}", file=sys.stderr
                )
            return 1
        print(f"all pass on the {given.which} releases")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`hf-genai doctor`: what this machine has, and which kernels run on it."""

import json
import os
import platform
import re
from pathlib import Path
from typing import Annotated, Any

import typer

PACKAGES = ("torch", "transformers")
# instructions that change which matrix products are fast
FLAGS = re.compile(r"avx2|fma|avx512f|avx512_?bf16|avx512_?fp16|avx(512)?_?vnni|amx_\w+|asimd(dp|hp)?|bf16|i8mm|sve2?")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Print versions, CPU, threads and devices, and which faster kernels run here and why.

    \b
    hf-genai doctor
    hf-genai doctor --json
    HF_GENAI_KERNELS=0 hf-genai doctor     the same with all kernels turned off
    The output is made to be shown to others: it names no host, user or folder.
    """
    machine = examine()
    typer.echo(json.dumps(machine, indent=2) if as_json else as_text(machine))


def examine() -> dict[str, Any]:
    """Return versions, CPU, threads, devices and kernels of this machine as JSON can hold them."""
    from importlib.metadata import version

    import torch

    from .. import __version__
    from ..decoding.weights import PACKERS, packer
    from ..kernels import turned_off
    from ..kernels.report import reports

    def reason_against(dtype: str) -> str | None:
        try:
            packer(dtype)
        except ValueError as error:
            return str(error)
        return None

    model, flags = processor()
    cuda = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    devices = [f"{each.name}, compute capability {each.major}.{each.minor}" for each in cuda]
    return {
        "versions": {
            "hf_genai": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "cpu": {
            "model": model,
            "flags": flags,
            "cores": os.cpu_count(),
            "instructions_of_torch": torch.backends.cpu.get_cpu_capability(),
        },
        "threads": {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
        "devices": ["cpu", *devices, *(["mps"] if torch.backends.mps.is_available() else [])],
        "kernels_turned_off": turned_off(),
        "kernels": [report._asdict() for report in reports()],
        "fast_generate": {dtype: reason_against(dtype) for dtype in PACKERS},
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """Return the CPU's model and those of its instruction sets that matter here; none where the system has no list."""
    try:
        text = cpuinfo.read_text("utf-8")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    known = {flag for flag in flags[1].split() if FLAGS.fullmatch(flag)} if flags else set()
    return model[1] if model else platform.processor() or platform.machine(), sorted(known)


def as_text(machine: dict[str, Any]) -> str:
    """Return what `examine` returned as a page for people."""
    cpu, threads = machine["cpu"], machine["threads"]
    setting = "not set" if threads["OMP_NUM_THREADS"] is None else threads["OMP_NUM_THREADS"]
    lines = [
        "versions   " + ", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
        f"CPU        {cpu['model']}, {cpu['cores']} cores; torch uses {cpu['instructions_of_torch']}",
        f"           {' '.join(cpu['flags']) or 'instruction sets unknown'}",
        f"threads    torch {threads['torch']}, OMP_NUM_THREADS {setting}",
        f"devices    {'; '.join(machine['devices'])}",
        "",
        f"kernels    {machine['kernels_turned_off'] or 'on; HF_GENAI_KERNELS=0 turns them off'}",
    ]
    for kernel in machine["kernels"]:
        lines.append(f"\n{kernel['operation']} ({', '.join(kernel['families'])}): {kernel['what']}")
        lines.append(f"  off here: {kernel['problem']}" if kernel["problem"] else f"  on here. {kernel['when']}")
    lines.append("\nfast_generate, weights in")
    lines += [f"  {dtype:10} {problem or 'yes'}" for dtype, problem in machine["fast_generate"].items()]
    return "\n".join(lines)

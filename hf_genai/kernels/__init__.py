"""Faster twins of the operations in `hf_genai/models/`, for machines where hf_genai is installed. None of it travels.

private_names.py    the private names of torch that kernels use
switch.py           turns all twins off and on, and says when a hand-written kernel is right
report.py           what each twin does, when it runs, and why it does not run on this machine
"""

import importlib
import os
from collections.abc import Callable
from typing import Any

# operation of a family's models (see `models/ops.py`) -> module of this package with its twin, under the same name
RECURRENT: dict[str, str] = {}
TRANSFORMER: dict[str, str] = {}
TWINS = {
    "genai_rnn": RECURRENT,
    "genai_bert": TRANSFORMER,
    "genai_gpt": TRANSFORMER,
    "genai_t5": TRANSFORMER,
}


def twin(operation: str, module: str) -> Callable[..., Any]:
    """Return the twin of an operation."""
    return getattr(importlib.import_module(f"{__name__}.{module}"), operation)


def turned_off() -> str | None:
    """Return what turns all twins off in this process, or None."""
    return "HF_GENAI_KERNELS=0 turns all kernels off" if os.environ.get("HF_GENAI_KERNELS") == "0" else None


def install(family: str) -> None:
    """Put a family's twins into `hf_genai.models.ops`, unless the environment has HF_GENAI_KERNELS=0."""
    if turned_off():
        # the kernels that models/ still calls itself are no twins: they ask the switch
        importlib.import_module(f"{__name__}.switch").turn_off_kernels()
        return
    ops = importlib.import_module("hf_genai.models.ops")
    for operation, module in TWINS[family].items():
        ops.TWINS[operation] = twin(operation, module)

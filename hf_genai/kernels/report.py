"""What each twin does, when it runs, and why it does not run on this machine: for `hf-genai doctor`.

The docstring of a twin says the first two: its first sentence, and its paragraph that begins with "Runs". A module
whose twins need something that a machine may lack has a function `missing()`, which returns what is missing, or None.
"""

import importlib
import inspect
from typing import Any, NamedTuple

from . import TWINS, turned_off, twin


class Report(NamedTuple):
    """What a twin does (`what`), when it runs, and the reason why it never runs on this machine, or None."""

    operation: str
    families: list[str]
    what: str
    when: str
    problem: str | None


def reports() -> list[Report]:
    """Return a report on each twin, in the order of the tables of twins."""
    families: dict[tuple[str, str], list[str]] = {}
    for family, operations in TWINS.items():
        for operation, module in operations.items():
            families.setdefault((operation, module), []).append(family)
    return [_report(operation, module, of) for (operation, module), of in families.items()]


def _report(operation: str, module: str, families: list[str]) -> Report:
    paragraphs = (inspect.getdoc(twin(operation, module)) or "").split("\n\n")
    what, *others = [" ".join(paragraph.split()) for paragraph in paragraphs]
    when = next((paragraph for paragraph in others if paragraph.startswith("Runs ")), "")
    missing: Any = getattr(importlib.import_module(f"{__package__}.{module}"), "missing", lambda: None)
    return Report(operation=operation, families=families, what=what, when=when, problem=turned_off() or missing())

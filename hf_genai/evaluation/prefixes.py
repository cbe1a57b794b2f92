"""What stands before each source, such as T5's "translate English to French: ".

transformers has two places for it in a model's config: `task_specific_params`, by task and with settings of
`generate()`, as pretrained models of many tasks have it; and `prefix`, for whatever is asked. The recipes write the
second, so that every pipeline and command puts before a text what was put there in training.
"""

import re
from collections.abc import Sequence
from typing import Any

TRANSLATION_PAIR = re.compile(r"translation_(\w+)_to_(\w+)")


def pairs_of(config: Any) -> list[str]:
    """Return the names of the translations that a model's config has settings for: "translation_en_to_fr", ..."""
    return [name for name in _known(config) if TRANSLATION_PAIR.fullmatch(name)]


def task_settings(config: Any, task: str, languages: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a model's config says of a task: a prefix for its sources, and arguments of generate().

    Args:
        task: "translation" (then a model of one pair of languages needs no more), "translation_en_to_fr",
            "summarization", ...
        languages: codes of source and target, to choose among several pairs.
    """
    known, pairs = _known(config), pairs_of(config)
    if task == "translation" and task not in known:
        named = "translation_{}_to_{}".format(*languages) if len(languages) == 2 else ""
        task = named if named in pairs else pairs[0] if len(pairs) == 1 else task
    return dict(known.get(task) or {})


def prefix_of(config: Any, task: str = "translation", languages: Sequence[str] = ()) -> str:
    """Return what is put before each source of a task; "" where the config says nothing."""
    own = task_settings(config, task, languages).get("prefix")
    return (getattr(config, "prefix", None) if own is None else own) or ""


def set_prefix(config: Any, prefix: str) -> None:
    """Have pipelines put the prefix before each source, whatever the task is called, and nothing else.

    What the config says of tasks is taken out: a model that goes on with one of them is none for the others any more,
    and its length and beams are those of the training.
    """
    if prefix or getattr(config, "prefix", None):
        config.prefix = prefix
    if _known(config):
        config.task_specific_params = None


def _known(config: Any) -> dict[str, Any]:
    return getattr(config, "task_specific_params", None) or {}

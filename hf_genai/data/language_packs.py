"""Read the translations of JupyterLab's language packs as pairs."""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from babel.messages.mofile import read_mo

# two texts; or the reason, in a word, why a message gives no pair
Pair = tuple[str, str] | str


def read_language_pack(locale: str) -> tuple[list[Pair], str]:
    """Return the pairs and the version of the installed package `jupyterlab-language-pack-<locale>`.

    Untranslated texts and texts with placeholders, markup or mnemonics give a reason instead of a pair.

    Raises:
        ImportError: the package is not installed; the message names the command to install it.
    """
    package = f"jupyterlab-language-pack-{locale}"
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"source 'jupyterlab:{locale}' needs the package {package}: pip install 'hf_genai[jupyterlab]' brings the "
            f"common languages, pip install {package} any other"
        )
    rows: list[Pair] = []
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).rglob("*.mo")):
            with path.open("rb") as file:
                catalog = read_mo(file)
            for message in catalog:
                if message.id:
                    rows += _forms(message.id, message.string)
    return rows, importlib.metadata.version(package)


_CODE = re.compile(r"[{}<>\[\]\\|`#@=_~]|%[\w(%]|://|&\w|\$\w")


def _forms(ids: Any, strings: Any) -> Iterator[Pair]:
    """Yield pairs of the singular and, if present, the last plural form, which languages use for large numbers."""
    ids, strings = (forms if isinstance(forms, (tuple, list)) else (forms,) for forms in (ids, strings))
    for source, target in dict.fromkeys(((ids[0], strings[0]), (ids[-1], strings[-1]))):
        if not target or source == target:
            yield "untranslated"
        elif _CODE.search(source) or _CODE.search(target):
            yield "placeholder_or_markup"
        else:
            yield source, target

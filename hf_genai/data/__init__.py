"""From files to rows of token ids: read, filter, split, tokenize and pack texts.

pairs.py         load, filter and split sentence pairs
cldr.py          generate sentence pairs from Unicode CLDR
pair_files.py    read pairs from files and Arrow tables
language_packs.py  read JupyterLab's translations as pairs
readers.py       read rows from files of any format
texts.py         load, filter and split texts, with or without labels
built_in.py      texts and labelled rows that need no download
tokenizers.py    train, save, load and use tokenizers
plain_text.py    tokenize control tokens in a user's text as text; join words to a text
packing.py       pack several texts into a row
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cldr import CldrPairs
    from .pairs import PairData, PairReport, Provenance, load_pairs
    from .tokenizers import load_tokenizers, save_tokenizers, train_tokenizer

# Loaded at first use: the command line imports this package, and importing torch takes seconds.
_HOME = {
    "CldrPairs": "cldr",
    "PairData": "pairs",
    "PairReport": "pairs",
    "Provenance": "pairs",
    "load_pairs": "pairs",
    "load_tokenizers": "tokenizers",
    "save_tokenizers": "tokenizers",
    "train_tokenizer": "tokenizers",
}

__all__ = [
    "CldrPairs",
    "PairData",
    "PairReport",
    "Provenance",
    "load_pairs",
    "load_tokenizers",
    "save_tokenizers",
    "train_tokenizer",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)

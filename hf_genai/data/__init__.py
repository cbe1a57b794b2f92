"""Texts to token ids: where they come from, how they are read and held out, and what makes rows of ids of them.

pairs.py         sentence pairs, judged and split
cldr.py          pairs made at run time of Unicode CLDR
pair_files.py    pairs as they stand in files and Arrow tables
language_packs.py  translations of JupyterLab's texts as pairs
readers.py       rows as they stand in files of any format
texts.py         texts, alone or with labels and the like, judged and split
built_in.py      texts and labelled rows that need no download
tokenizers.py    train, save, open and use tokenizers
plain_text.py    read what users typed as text, and words as running text
packing.py       several texts in a row
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cldr import CldrPairs
    from .pairs import PairData, PairReport, Provenance, load_pairs
    from .tokenizers import load_tokenizers, save_tokenizers, train_tokenizer

# Loaded at first use: the command line imports this package before it needs torch, which takes seconds.
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

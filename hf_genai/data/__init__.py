"""Texts to tensors: sentence pairs (`pairs`, `cldr`, `readers`) and the tokenizers trained on them (`tokenizers`)."""

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

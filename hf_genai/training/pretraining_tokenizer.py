"""The tokenizer of the pretraining recipe: named, or trained on the texts, once for all processes of a machine."""

import inspect
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple
from pathlib import Path
from typing import Any

import tokenizers
from datasets import Dataset
from datasets.fingerprint import Hasher
from filelock import FileLock
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..data import train_tokenizer
from ..data.plain_text import read_prompts_as_text
from ..data.texts import Values
from ..data.tokenizers import add_gap_tokens
from ..objectives import fill_in_the_middle
from ..private_names import fingerprint_of

CAUSAL = ("clm", "prefix_lm", "fim")  # objectives of models that go on with a text


def special_tokens(objective: str) -> list[str]:
    """Return the tokens that an objective needs beside the usual ones."""
    if objective == "span_corruption":
        return [f"<extra_id_{number}>" for number in range(100)]
    return {"mlm": ["<mask>"], "fim": list(fill_in_the_middle.TOKENS)}.get(objective, [])


def in_turn(texts: Dataset) -> AbstractContextManager:
    """Return what lets the processes of a machine make tokenizer and rows one after another, if the texts are on disk.

    There the first one leaves what the others find. A lock and no barrier of the processes: that would give up
    after some minutes, and a large corpus takes hours.
    """
    files = texts.cache_files
    return FileLock(f"{files[0]['filename']}.rows.lock") if files else nullcontext()


def make_tokenizer(arguments: Any, texts: Dataset) -> PreTrainedTokenizerBase:
    """Train a tokenizer with the tokens that the objective needs, or open the one that is named.

    One that is trained on texts on disk lies beside them, as their rows do: for the other processes of the machine,
    and for later runs.

    Args:
        arguments: of the pretraining recipe.
        texts: the training texts.

    Raises:
        ValueError: the named one lacks such tokens, or padding or end.
    """
    options, objective = arguments.tokenizer, arguments.objective.objective
    needed = special_tokens(objective)
    name = options.tokenizer_name_or_path or arguments.model.model_name_or_path
    if name is None:
        files = texts.cache_files
        if not files:
            return _new_tokenizer(arguments, texts)
        code = inspect.getsource(sys.modules[train_tokenizer.__module__])
        length, version = arguments.data.row_length, tokenizers.__version__
        hashed = Hasher.hash([fingerprint_of(texts), *astuple(options), objective, length, version, code])
        folder = Path(f"{files[0]['filename']}.tokenizer-{hashed}")
        with in_turn(texts):
            if not folder.is_dir():
                unfinished = folder.with_suffix(".unfinished")
                _new_tokenizer(arguments, texts).save_pretrained(unfinished)
                unfinished.rename(folder)
        return AutoTokenizer.from_pretrained(folder)

    named: Any = AutoTokenizer.from_pretrained(name)
    if named.pad_token_id is None or named.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name} must have a padding and an end token")
    lacking = [token for token in needed if token not in named.get_vocab()]
    if lacking and not (objective == "mlm" and named.mask_token_id is not None):
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        raise ValueError(f"the tokenizer of {name} lacks {shown}, which the objective {objective} needs")
    read_prompts_as_text(named, as_text=not needed)  # prompts name the objective's tokens
    return named


def _new_tokenizer(arguments: Any, texts: Dataset) -> PreTrainedTokenizerBase:
    options, objective = arguments.tokenizer, arguments.objective.objective
    needed = special_tokens(objective)
    try:
        tokenizer = train_tokenizer(
            *(Values(texts, arguments.data.text_column), options.tokenizer_kind, options.vocab_size - len(needed)),
            model_max_length=arguments.data.row_length,
            ends_texts=objective not in CAUSAL,
        )
    except ValueError as error:
        if not needed:
            raise
        tokens = f"{len(needed)} of the objective {objective}"
        raise ValueError(f"{error} (of {options.vocab_size} tokens, {tokens} are taken off)") from error
    if objective == "mlm":
        add_gap_tokens(tokenizer, options.tokenizer_kind, mask=needed[0])
    elif objective == "span_corruption":
        add_gap_tokens(tokenizer, options.tokenizer_kind, others=needed)
    elif needed:
        tokenizer.add_tokens(needed, special_tokens=True)
    return tokenizer

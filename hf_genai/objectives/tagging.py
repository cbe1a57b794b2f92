"""Tagging: a label for each word of a text."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.plain_text import encode_text, join_words

logger = logging.getLogger(__name__)


def align(words: Sequence[int | None], tags: Sequence[int], all_pieces: bool = False) -> list[int]:
    """Return a label for each token: that of its word at the word's first token, -100 elsewhere.

    With the words [None, 0, 1, 1, None] of five tokens and the tags [3, 5]: [-100, 3, 5, -100, -100]; with
    `all_pieces`: [-100, 3, 5, 5, -100].
    """
    labels, before = [], None
    for word in words:
        labels.append(-100 if word is None or (word == before and not all_pieces) else tags[word])
        before = before if word is None else word
    return labels


def words_of_tokens(
    text: str, starts: Sequence[int], words: Sequence[str], offsets: Sequence[Sequence[int]]
) -> list[int | None]:
    """Return the word that each token of a running text belongs to, None for special tokens and lone spaces.

    A token belongs to the word of its first character that is no space. Of the text "New York", with words at [0, 4],
    the tokens "New", " Yo", "rk" and the end, at [[0, 3], [3, 6], [6, 8], [0, 0]], belong to [0, 1, 1, None].
    """
    found: list[int | None] = []
    for begin, end in offsets:
        begin += len(text[begin:end]) - len(text[begin:end].lstrip())
        word = bisect_right(starts, begin) - 1
        inside = begin < end and word >= 0 and begin < starts[word] + len(words[word])
        found.append(word if inside else None)
    return found


def tokenize_words(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    word_column: str = "tokens",
    tag_column: str = "tags",
    max_length: int | None = None,
    all_pieces: bool = False,
) -> Dataset:
    """Turn lists of words and their tags into `input_ids` and `labels`.

    Words are read as running text (`join_words`), so that a model sees the tokens that it will see in a plain text,
    whatever its tokenizer does with spaces: "New York" is "New", "ĠYork" to GPT-2's, and the two words alone are
    "New", "York".

    A word's tag stands at its first token, so that each word counts once, however many pieces it has. Words that are
    cut off, or make no token, are neither learned nor scored; a warning counts them.

    Args:
        dataset: with the columns named; each row has as many tags as words.
        tokenizer: a fast one, which knows the word of each token.
        names: of all tags, in the order of their numbers.
        max_length: in ids; longer texts are cut. None: the tokenizer's limit.
        all_pieces: label each token of a word.

    Raises:
        ValueError: a column that is not there, a row with more tags than words or fewer, an unknown tag, or a slow
            tokenizer.
    """
    if missing := [column for column in (word_column, tag_column) if column not in dataset.column_names]:
        raise ValueError(
            f"dataset has no column {', '.join(missing)}; it has {', '.join(dataset.column_names) or 'none'}"
        )
    if not tokenizer.is_fast:
        raise ValueError("tokenizer must be a fast one: a slow one does not say which word a token comes from")
    numbers = {name: number for number, name in enumerate(names)}

    def tokenize(batch: dict[str, list], rows: list[int]) -> dict[str, Any]:
        running = [join_words(words) for words in batch[word_column]]
        encoded = encode_text(
            tokenizer,
            [text for text, _ in running],
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
            verbose=False,
        )
        labels = []
        for place, (words, tags) in enumerate(zip(batch[word_column], batch[tag_column], strict=True)):
            if len(words) != len(tags):
                raise ValueError(f"row {rows[place]} has {len(words)} words but {len(tags)} tags")
            if unknown := [tag for tag in tags if str(tag) not in numbers]:
                raise ValueError(
                    f"row {rows[place]}: tag {unknown[0]!r} is none of the {len(names)} known: {', '.join(names)}"
                )
            text, starts = running[place]
            of_words = words_of_tokens(text, starts, words, encoded["offset_mapping"][place])
            labels.append(align(of_words, [numbers[str(tag)] for tag in tags], all_pieces))
        kept = ("input_ids", "attention_mask", "token_type_ids")
        return {**{name: encoded[name] for name in kept if name in encoded}, "labels": labels}

    tagged = dataset.map(tokenize, batched=True, with_indices=True, remove_columns=dataset.column_names)
    words = sum(map(len, dataset[tag_column]))
    if not all_pieces and (lost := words - sum(label != -100 for labels in tagged["labels"] for label in labels)):
        logger.warning(
            "%d of %d words have no token within max_length (%s): they are neither learned nor scored",
            *(lost, words, max_length or tokenizer.model_max_length),
        )
    return tagged

"""Tagging: predict a label for each word of a text."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.plain_text import MODEL_INPUTS, encode_text, join_words

logger = logging.getLogger(__name__)


def align(word_indices: Sequence[int | None], tags: Sequence[int], all_pieces: bool = False) -> list[int]:
    """Return a label for each token: the word's tag at the first token of a word, -100 at all other tokens.

    The word indices [None, 0, 1, 1, None] of five tokens and the tags [3, 5] give [-100, 3, 5, -100, -100]; with
    `all_pieces` they give [-100, 3, 5, 5, -100].
    """
    labels, before = [], None
    for word in word_indices:
        labels.append(-100 if word is None or (word == before and not all_pieces) else tags[word])
        before = before if word is None else word
    return labels


def words_of_tokens(
    text: str, starts: Sequence[int], words: Sequence[str], offsets: Sequence[Sequence[int]]
) -> list[int | None]:
    """Return the word index of each token of a text, None for special tokens and for tokens of spaces alone.

    A token belongs to the word of its first character that is not a space. In the text "New York" with words starting
    at [0, 4], the tokens "New", " Yo", "rk" and the end token, with offsets [[0, 3], [3, 6], [6, 8], [0, 0]], have the
    word indices [0, 1, 1, None].
    """
    word_indices: list[int | None] = []
    for begin, end in offsets:
        begin += len(text[begin:end]) - len(text[begin:end].lstrip())
        word = bisect_right(starts, begin) - 1
        inside = begin < end and word >= 0 and begin < starts[word] + len(words[word])
        word_indices.append(word if inside else None)
    return word_indices


def tokenize_words(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    word_column: str = "tokens",
    tag_column: str = "tags",
    max_length: int | None = None,
    all_pieces: bool = False,
) -> Dataset:
    """Tokenize lists of words and convert their tags to class indices.

    Words are joined to a text (`join_words`) before tokenization, so that training has the same tokens as a plain
    text: GPT-2's tokenizer splits "New York" into "New", "ĠYork", but the separate words into "New", "York".

    A word's tag is the label of the word's first token, so that each word counts once. Words without a token, because
    the text was truncated or the tokenizer drops them, are neither learned nor scored; a warning counts them.

    Args:
        dataset: has the columns `word_column` and `tag_column`; each row has as many tags as words.
        tokenizer: a fast tokenizer, which returns character offsets.
        names: names of all tags, in the order of their class indices.
        max_length: maximum number of ids; longer texts are truncated. None: the tokenizer's limit.
        all_pieces: label every token of a word.

    Returns:
        A dataset with the columns input_ids, labels and, if the tokenizer makes them, attention_mask, token_type_ids.

    Raises:
        ValueError: a missing column, a row whose numbers of words and tags differ, an unknown tag, or a slow
            tokenizer.
    """
    if missing := [column for column in (word_column, tag_column) if column not in dataset.column_names]:
        raise ValueError(
            f"dataset has no column {', '.join(missing)}; it has {', '.join(dataset.column_names) or 'none'}"
        )
    if not tokenizer.is_fast:
        raise ValueError("tokenizer must be a fast one, not a slow one, which does not return character offsets")
    numbers = {name: number for number, name in enumerate(names)}

    def tokenize(batch: dict[str, list], rows: list[int]) -> dict[str, Any]:
        joined = [join_words(words) for words in batch[word_column]]
        encoded = encode_text(
            tokenizer,
            [text for text, _ in joined],
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
            verbose=False,
        )
        labels = []
        for index, (words, tags) in enumerate(zip(batch[word_column], batch[tag_column], strict=True)):
            if len(words) != len(tags):
                raise ValueError(f"row {rows[index]} has {len(words)} words but {len(tags)} tags")
            if unknown := [tag for tag in tags if str(tag) not in numbers]:
                raise ValueError(
                    f"row {rows[index]}: tag {unknown[0]!r} is none of the {len(names)} known: {', '.join(names)}"
                )
            text, starts = joined[index]
            word_indices = words_of_tokens(text, starts, words, encoded["offset_mapping"][index])
            labels.append(align(word_indices, [numbers[str(tag)] for tag in tags], all_pieces))
        columns = {name: encoded[name] for name in MODEL_INPUTS if name in encoded}
        return columns | {"labels": labels}

    tagged = dataset.map(tokenize, batched=True, with_indices=True, remove_columns=dataset.column_names)
    words = sum(map(len, dataset[tag_column]))
    if not all_pieces and (lost := words - sum(label != -100 for labels in tagged["labels"] for label in labels)):
        logger.warning(
            "%d of %d words have no token within max_length (%s) and are neither learned nor scored",
            lost,
            words,
            max_length or tokenizer.model_max_length,
        )
    return tagged

"""Tokens back to words, for any tokenizer.

The text is what the tokenizer itself decodes, so byte-level, SentencePiece, WordPiece, word and character vocabularies
need no rules of their own; the words are those of the Unicode standard (UAX 29, default word boundaries), which keep
"don't" and "3.14" whole, part punctuation from words, and never join Chinese or Japanese characters into a phrase.
Offsets of a fast tokenizer would not do: generated ids have none, and SentencePiece calls a Chinese sentence one word.
"""

from os.path import commonprefix

import regex
from transformers import PreTrainedTokenizerBase

WORD_BOUNDARY = regex.compile(r"\b", flags=regex.WORD | regex.VERSION1)


def word_groups(ids: list[int], tokenizer: PreTrainedTokenizerBase, join: bool = True) -> tuple[list[str], list[int]]:
    """Return the words that ids spell and, for each word, the index of its first token.

    Args:
        join: join tokens to words; if False, each token is a group of its own.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    labels: list[str] = []
    starts: list[int] = []
    begin = 0
    while begin < len(ids):
        end = begin
        while end < len(ids) and ids[end] not in special:
            end += 1
        if end > begin:  # a run of ordinary tokens
            for text, start in _run(ids[begin:end], tokenizer, join):
                labels.append(text)
                starts.append(begin + start)
        if end < len(ids):  # a special token that the caller kept
            labels.append(str(tokenizer.convert_ids_to_tokens(ids[end])))
            starts.append(end)
        begin = end + 1
    return labels, starts


def _run(ids: list[int], tokenizer: PreTrainedTokenizerBase, join: bool) -> list[tuple[str, int]]:
    def decode(count: int) -> str:
        return str(tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    text = decode(len(ids))
    # Where each token begins in the text. A prefix that ends inside a character decodes to a replacement character,
    # hence the part that it shares with the whole text; a token that adds no text has the place of the next.
    places = [len(commonprefix([decode(count), text])) for count in range(len(ids))]
    places.append(len(text))
    for index in range(len(ids), 0, -1):
        places[index - 1] = min(places[index - 1], places[index])
    if not join:
        pieces = [text[places[i] : places[i + 1]] for i in range(len(ids))]
        return [(_piece_label(piece, ids[i], tokenizer), i) for i, piece in enumerate(pieces)]

    boundaries = {match.start() for match in WORD_BOUNDARY.finditer(text)}
    starts = [0]
    for index in range(1, len(ids)):
        so_far = text[places[starts[-1]] : places[index]]
        # white space and half characters wait for the text that follows them
        if so_far.strip() and places[index] in boundaries:
            starts.append(index)
    ends = [*starts[1:], len(ids)]
    groups = [(text[places[start] : places[end]].strip(), start) for start, end in zip(starts, ends, strict=True)]
    if len(groups) > 1 and not groups[-1][0]:
        groups.pop()  # trailing white space belongs to the last word
    return [(label or "▁", start) for label, start in groups]


def _piece_label(piece: str, token_id: int, tokenizer: PreTrainedTokenizerBase) -> str:
    if not piece.strip():
        return str(tokenizer.convert_ids_to_tokens(token_id))
    return "▁" + piece.strip() if piece[0].isspace() else piece.strip()

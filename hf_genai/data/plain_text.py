"""Tokenize user text as text: `<s>`, `</s>`, `<mask>` or a chat role in it never becomes a control token.

Only a tokenizer's template (the end of a text), a chat template and an objective (masks, sentinels) write control
tokens. A user's text may spell such words: a log, a web page, `<s>` for strike-through in HTML.

Training and scoring encode with `encode_text`. Prompts follow the tokenizer's setting `split_special_tokens`, which is
saved with the tokenizer and which a stock AutoTokenizer obeys. The setting is true for tokenizers of
`train_tokenizer`, and false if prompts must name control tokens: masks, sentinels, fill-in-the-middle tokens, roles.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Scripts without spaces between words: Thai, Lao; Myanmar; Khmer; Japanese and Chinese
UNSPACED = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff]"
)
# Outputs of a tokenizer that models take as inputs.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_UNSPACED = re.compile(UNSPACED)
_HALF = re.compile("[\ud800-\udfff]")


def ends_inside_words(characters: str) -> bool:
    """Return whether an answer may start or end next to one of the characters without a space.

    True for scripts without spaces between words, and for Korean, where particles follow a noun without a space.
    """
    return any(
        _UNSPACED.match(character) or "\u1100" <= character <= "\u11ff" or "\uac00" <= character <= "\ud7a3"
        for character in characters
    )


def check_characters(text: str, name: str) -> None:
    """Check that a text holds no unpaired surrogate, which tokenizers cannot encode.

    Invalid UTF-8 on a command line and truncated JSON escapes produce unpaired surrogates.

    Args:
        name: name of the text for the error message, such as "text 3".

    Raises:
        ValueError: an unpaired surrogate; the message names its position.
    """
    if half := _HALF.search(text):
        raise ValueError(
            f"{name} has {half[0]!r} at character {half.start() + 1}: half of a surrogate pair, which is no character"
        )


def encode_text(tokenizer: PreTrainedTokenizerBase, *texts: Any, **options: Any) -> BatchEncoding:
    """Return `tokenizer(*texts, **options)` with everything that looks like a control token tokenized as text."""
    _guard(tokenizer)
    return tokenizer(*texts, split_special_tokens=True, **options)


def read_prompts_as_text(tokenizer: PreTrainedTokenizerBase, as_text: bool = True) -> None:
    """Set whether the tokenizer reads control tokens in prompts as text; the setting is saved with the tokenizer."""
    if as_text:
        _guard(tokenizer)
    tokenizer.split_special_tokens = as_text
    tokenizer.init_kwargs["split_special_tokens"] = as_text  # save_pretrained saves init_kwargs


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Any) -> str:
    """Decode token ids (a list or a tensor (T,)) to text without control tokens."""
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def naming(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer that reads `tokens` in prompts as control tokens and all others as text.

    A slow tokenizer cannot distinguish control tokens and is returned unchanged.
    """
    if not tokenizer.is_fast:
        return tokenizer
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    for added in description["added_tokens"]:
        added["special"] = added["special"] and added["content"] not in tokens
    names: dict[str, Any] = tokenizer.special_tokens_map
    result = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **names,
    )
    read_prompts_as_text(result)
    return result


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the id of each control token: padding, start, end, masks, sentinels, roles, ..."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def spelling_of(tokens: Sequence[str]) -> str:
    """Return a regular expression that matches the first character of each token if the rest of the token follows."""
    rests: dict[str, list[str]] = {}
    for token in sorted(set(tokens)):
        if len(token) > 1:
            rests.setdefault(token[0], []).append(re.escape(token[1:]))
    return "|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items())


def _guard(tokenizer: PreTrainedTokenizerBase) -> None:
    """Split spelled-out control tokens after the first character, so that a unigram model cannot match them.

    The control tokens of a unigram model (T5, XLM-RoBERTa, mBART) are ordinary pieces with the best score. BPE and
    WordPiece models do not need the split, because their words end at punctuation.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "Unigram":
        return
    tokens = [token for token in control_tokens(tokenizer) if backend.model.token_to_id(token) is not None]
    pattern, pre_tokenizer = spelling_of(tokens), backend.pre_tokenizer
    state_json = (
        "" if pre_tokenizer is None else pre_tokenizer.__getstate__().decode()
    )  # its JSON, which nothing else gives
    if not pattern or json.dumps(pattern, ensure_ascii=False) in state_json:
        return
    guard = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = guard if pre_tokenizer is None else pre_tokenizers.Sequence([pre_tokenizer, guard])


def join_words(words: Sequence[str]) -> tuple[str, list[int]]:
    """Join words to a text; return the text and the start character of each word.

    ["New", "York", "hat"] becomes "New York hat" and [0, 4, 9]. Words of scripts without spaces are joined without
    spaces: ["東京", "都", "に"] becomes "東京都に".
    """
    text, starts = "", []
    for word in words:
        if text and word and not (_UNSPACED.match(text[-1]) and _UNSPACED.match(word[0])):
            text += " "
        starts.append(len(text))
        text += word
    return text, starts

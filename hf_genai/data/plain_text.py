"""Text of the user's is text: `<s>`, `</s>`, `<mask>` or a chat role in it is spelt out, and becomes no control token.

Control tokens are written by a tokenizer's own template (the end of a text), by a chat template and by an objective
(masks, sentinels), never by what a user typed: a log, a web page or a strike-through in HTML holds such words.

Training and scoring encode by `encode_text`. A prompt follows the tokenizer's own setting `split_special_tokens`,
which is saved with it and which a stock AutoTokenizer obeys: true for the tokenizers of `train_tokenizer`, and false
where prompts have to name tokens: masks, sentinels, the marks of filling in the middle, chat templates.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Scripts that put no space between words: Thai, Lao; Myanmar; Khmer; Japanese and Chinese
UNSPACED = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff]"
)
# Outputs of a tokenizer that models take as inputs.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_UNSPACED = re.compile(UNSPACED)
_HALF = re.compile("[\ud800-\udfff]")


def ends_inside_words(characters: str) -> bool:
    """Tell whether an answer may begin or end at one of the characters, in the middle of what has no spaces around it.

    So it is in scripts without spaces between words, and in Korean, where particles follow a noun without one.
    """
    return any(
        _UNSPACED.match(character) or "\u1100" <= character <= "\u11ff" or "\uac00" <= character <= "\ud7a3"
        for character in characters
    )


def check_characters(text: str, name: str) -> None:
    """Refuse half of a surrogate pair, which bad UTF-8 on a command line and cut JSON leave, and no tokenizer reads.

    Args:
        name: of the text, for the error: "text 3".

    Raises:
        ValueError: says where it stands.
    """
    if half := _HALF.search(text):
        raise ValueError(
            f"{name} has {half[0]!r} at character {half.start() + 1}: half of a surrogate pair, which is no character"
        )


def encode_text(tokenizer: PreTrainedTokenizerBase, *texts: Any, **options: Any) -> BatchEncoding:
    """Return what `tokenizer(*texts, **options)` does, with all that looks like a control token read as text."""
    _guard(tokenizer)
    return tokenizer(*texts, split_special_tokens=True, **options)


def read_prompts_as_text(tokenizer: PreTrainedTokenizerBase, as_text: bool = True) -> None:
    """Set whether control tokens in what a user types are text to the tokenizer, also once it is saved and loaded."""
    if as_text:
        _guard(tokenizer)
    tokenizer.split_special_tokens = as_text
    tokenizer.init_kwargs["split_special_tokens"] = as_text  # which save_pretrained goes by


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Any) -> str:
    """Return token ids (a list, or a tensor (T,)) as text, without control tokens."""
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def naming(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return a tokenizer for prompts that name the given control tokens: all others are text in them.

    A slow tokenizer cannot tell one from the other, and is returned itself.
    """
    if not tokenizer.is_fast:
        return tokenizer
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    for added in description["added_tokens"]:
        added["special"] = added["special"] and added["content"] not in tokens
    names: dict[str, Any] = tokenizer.special_tokens_map
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **names,
    )
    read_prompts_as_text(made)
    return made


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the id of each control token: padding, beginning, end, masks, sentinels, roles, ..."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def spelling_of(tokens: Sequence[str]) -> str:
    """Return a regular expression for the first character of each of the tokens, where the rest follows it."""
    rests: dict[str, list[str]] = {}
    for token in sorted(set(tokens)):
        if len(token) > 1:
            rests.setdefault(token[0], []).append(re.escape(token[1:]))
    return "|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items())


def _guard(tokenizer: PreTrainedTokenizerBase) -> None:
    """Keep a unigram model from finding a control token in a text by itself.

    Its control tokens are pieces like others, with the best score of all (T5, XLM-RoBERTa, mBART): text that spells
    one is cut after the first character. Merges and word pieces never get there, as their words end at punctuation.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "Unigram":
        return
    tokens = [token for token in control_tokens(tokenizer) if backend.model.token_to_id(token) is not None]
    pattern, before = spelling_of(tokens), backend.pre_tokenizer
    state = "" if before is None else before.__getstate__().decode()  # its JSON, which nothing else gives
    if not pattern or json.dumps(pattern, ensure_ascii=False) in state:
        return
    guard = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = guard if before is None else pre_tokenizers.Sequence([before, guard])


def join_words(words: Sequence[str]) -> tuple[str, list[int]]:
    """Return words as running text, and the character at which each begins.

    ["New", "York", "hat"] becomes "New York hat" and [0, 4, 9]. No space stands between two words whose scripts are
    written without: ["東京", "都", "に"] becomes "東京都に".
    """
    text, starts = "", []
    for word in words:
        if text and word and not (_UNSPACED.match(text[-1]) and _UNSPACED.match(word[0])):
            text += " "
        starts.append(len(text))
        text += word
    return text, starts

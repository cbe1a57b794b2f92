"""Dialogue: a causal model learns the assistant's turns; tokens of the other turns have no loss.

The chat template writes roles and ends of turns as control tokens. The same words inside a message are text: a user
cannot start an assistant's turn by typing <|assistant|>. For prompts, transformers' option
`apply_chat_template(..., sanitize_control_tokens=True)` ensures this. `tokenize_dialogues` makes the same tokens and
labels the assistant's tokens.
"""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.chat_template_utils import render_jinja_template

from ..data.plain_text import encode_text, read_prompts_as_text

logger = logging.get_logger(__name__)
Row = dict[str, list[int]]

ROLES = ("system", "user", "assistant")
# Noncharacters of Unicode. One of them separates message text from the template's control tokens.
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
# One line for each turn; `generation` marks the assistant's text and end token.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('role must be system, user or assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def add_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set `CHAT_TEMPLATE` and add the roles as control tokens, if the tokenizer has no chat template.

    The tokenizer gets up to three new ids; `make_room_for_roles` adds their embeddings to a model. Prompts then read
    control tokens as such (`split_special_tokens=False`), which a stock `apply_chat_template` needs.
    """
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
        roles = [AddedToken(f"<|{role}|>", special=True, normalized=False) for role in ROLES]
        tokenizer.add_tokens(roles, special_tokens=True)
    read_prompts_as_text(tokenizer, False)


def make_room_for_roles(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add embeddings for the tokens of `ROLES`, if no other token of the tokenizer is beyond the vocabulary size."""
    vocabulary, size = tokenizer.get_vocab(), model.config.get_text_config().vocab_size
    new_ids = {token: token_id for token, token_id in vocabulary.items() if token_id >= size}
    if new_ids and set(new_ids) <= {f"<|{role}|>" for role in ROLES}:
        model.resize_token_embeddings(max(new_ids.values()) + 1)


# ShareGPT's names of speakers (the field "from" of a turn) and their roles
_SPEAKERS = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
}


def from_sharegpt(dataset: Dataset) -> Dataset:
    """Rename ShareGPT's column `conversations` to `messages`; a dataset that has `messages` is returned unchanged."""
    names = dataset.column_names
    if "messages" in names or "conversations" not in names:
        return dataset
    return dataset.rename_column("conversations", "messages")


def as_messages(turns: Sequence[Any]) -> list[dict[str, str]]:
    """Return the turns of a dialogue as messages with role and content.

    Turns are messages, texts by user and assistant in turn, or ShareGPT's turns. ["Hi", "Hello"] and
    [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}] both become
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}].

    Raises:
        ValueError: a turn of another form, or an unknown speaker.
    """
    if all(isinstance(turn, str) for turn in turns):
        return [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]
    return [_message(turn) for turn in turns]


def _message(turn: Any) -> dict[str, str]:
    # in an Arrow table every turn has every field, with None for missing values
    fields = {name: value for name, value in turn.items() if value is not None} if isinstance(turn, dict) else {}
    if isinstance(fields.get("from"), str) and isinstance(fields.get("value"), str) and "role" not in fields:
        if fields["from"] not in _SPEAKERS:
            raise ValueError(f"a turn must be from {', '.join(_SPEAKERS)}, not {fields['from']!r:.80}")
        return {"role": _SPEAKERS[fields["from"]], "content": fields["value"]}
    if not all(isinstance(fields.get(name), str) for name in ("role", "content")):
        raise ValueError(
            f"a turn must be a text, or a mapping with role and content (or from and value), not {turn!r:.80}"
        )
    return fields


def tokenize_dialogues(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> tuple[Dataset, Counter]:
    """Tokenize the column `messages` into `input_ids` and `labels` (-100 for all tokens but the assistant's).

    A tokenizer without a chat template gets `CHAT_TEMPLATE` by `add_chat_template`. With this template, the messages

        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

    become

        <|user|> Hi</s> <|assistant|> Hello</s>        (each space shown here is a line break)

    with labels for `Hello</s>` only.

    Args:
        dataset: has a column `messages`: lists of {"role": ..., "content": ...}, or of turns that `as_messages` takes.
        tokenizer: a chat template of its own must mark the assistant's text by `{% generation %}`.
        max_length: maximum number of ids in a row. A longer dialogue becomes several rows, split before a user's turn;
            each row repeats the system message. Each answer is learned once.

    Returns:
        The tokenized dataset, and the numbers of dialogues that were "cut" into several rows, "shortened" because some
        turns fit into no row, and "dropped" because no answer was left. A warning reports the last two.

    Raises:
        ValueError: no column `messages`, a malformed turn, an unknown role, or a template that marks no assistant
            text.
    """
    if "messages" not in dataset.column_names:
        raise ValueError(f"dataset must have a column messages; it has {', '.join(dataset.column_names) or 'none'}")
    add_chat_template(tokenizer)
    if "{% generation %}" not in str(tokenizer.chat_template).replace("{%-", "{%").replace("-%}", "%}"):
        raise ValueError(
            "the tokenizer's chat template must mark the assistant's text by {% generation %} ... "
            "{% endgeneration %}; without these marks the tokens to learn are unknown"
        )
    report: Counter = Counter()
    tokenized: list[Row] = []
    for index, messages in enumerate(dataset["messages"]):
        try:
            rows, whole = _rows(as_messages(messages), tokenizer, max_length)
        except TemplateError as error:  # such as a role that the template does not know
            raise ValueError(f"messages: row {index}: {error}") from error
        tokenized += rows
        report.update({"cut": len(rows) > 1, "shortened": bool(rows) and not whole, "dropped": not rows})
    report = +report  # drops zero counts
    if report["shortened"] or report["dropped"]:
        # once: baselines tokenize the same rows again
        logger.warning_once(
            f"Of {len(dataset)} dialogues, {report['shortened']} lost turns that are too long for max_length"
            f" ({max_length} tokens), and {report['dropped']} were dropped because no answer is left."
        )
    return Dataset.from_dict({name: [row[name] for row in tokenized] for name in ("input_ids", "labels")}), report


def recent_turns(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, str]]:
    """Return the system message and the most recent turns whose prompt has at most `max_length` ids.

    The returned turns start with a user's turn. The result is empty if the last user's turn does not fit.
    """
    system = messages[:1] if messages and messages[0]["role"] == "system" else []
    for begin in range(len(system), len(messages)):
        recent = [*system, *messages[begin:]]
        if messages[begin]["role"] != "user":
            continue
        prompt: Any = tokenizer.apply_chat_template(
            recent,
            add_generation_prompt=True,
            return_dict=True,
            sanitize_control_tokens=True,
            tokenizer_kwargs={"verbose": False},
        )
        if len(prompt["input_ids"]) <= max_length:
            return recent
    return []


def _rows(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> tuple[list[Row], bool]:
    """Return the rows of a dialogue, and whether the rows contain all turns."""
    if not messages:
        return [], True
    row = _tokenize(messages, tokenizer)
    if max_length is None or len(row["input_ids"]) <= max_length:
        return ([row] if _learns(row) else []), True
    system = messages[:1] if messages[0]["role"] == "system" else []
    turns, rows, whole = messages[len(system) :], [], True
    is_user = [turn["role"] == "user" for turn in turns]
    cuts = [index for index in range(1, len(turns)) if is_user[index] and not is_user[index - 1]] + [len(turns)]
    begin = 0
    while begin < len(turns):
        fits, reached = None, begin
        for end in (cut for cut in cuts if cut > begin):
            row = _tokenize([*system, *turns[begin:end]], tokenizer)
            if len(row["input_ids"]) > max_length:
                break
            fits, reached = row, end
        if fits is None:
            whole, reached = False, end
        elif _learns(fits):
            rows.append(fits)
        begin = reached
    return rows, whole


def _learns(row: Row) -> bool:
    return any(label != -100 for label in row["labels"])


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    """Return a pattern for control tokens: special tokens, and added tokens that the chat template contains."""
    named = getattr(tokenizer, "chat_control_tokens", None)
    template = str(tokenizer.chat_template)
    tokens = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special
        or (token.content in named if named is not None else token.content in template and token.content.strip())
    ]
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def _tokenize(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return the ids of a dialogue and labels for the assistant's tokens; control tokens inside turns are text.

    transformers' `sanitize_control_tokens` does not work together with `return_assistant_tokens_mask`. The mask also
    misses turns that start with a space, if the tokenizer's offsets exclude spaces.
    """
    control_tokens = _control_tokens(tokenizer)
    unused_marks = [
        mark for mark in _MARKS if not any(mark in str(part) for turn in messages for part in turn.values())
    ]
    if not unused_marks:
        raise ValueError("messages must not hold all of the noncharacters U+FDD0 to U+FDEF")
    mark = unused_marks[0]
    marked = [
        {
            name: control_tokens.sub(f"{mark}\\g<0>{mark}", part) if isinstance(part, str) and name != "role" else part
            for name, part in turn.items()
        }
        for turn in messages
    ]
    names: dict[str, Any] = tokenizer.special_tokens_map
    rendered: Any = render_jinja_template(
        conversations=[marked],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **names,
    )
    (text,), (learned,) = rendered
    row: Row = {"input_ids": [], "labels": []}
    begin = 0
    for number, piece in enumerate(text.split(mark)):
        for token, left, right in _tokens_of_piece(piece, tokenizer, as_text=number % 2 == 1, first=number == 0):
            is_learned = any(begin + left < last and begin + right > first for first, last in learned)
            row["input_ids"].append(token)
            row["labels"].append(token if is_learned else -100)
        begin += len(piece) + len(mark)
    return row


def _tokens_of_piece(
    piece: str, tokenizer: PreTrainedTokenizerBase, as_text: bool, first: bool
) -> list[tuple[int, int, int]]:
    """Return (id, start character, end character) of each token of a piece of a dialogue.

    Some tokenizers add a space at the start of a text. Pieces after the first are therefore tokenized after a line
    break, which is removed again, unless a token spans the line break and the piece.
    """
    encode = encode_text if as_text else functools.partial(type(tokenizer).__call__, split_special_tokens=False)
    for before in ("",) if first else ("\n", ""):
        text = before + piece
        encoded = encode(tokenizer, text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = [(left - len(before), right - len(before)) for left, right in encoded["offset_mapping"]]
        if not any(left < 0 < right for left, right in spans):
            break
    tokens = zip(encoded["input_ids"], spans, strict=True)
    return [(token, left, right) for token, (left, right) in tokens if right > 0]

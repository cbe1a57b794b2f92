"""Dialogue: a causal model learns the assistant's turns, and nothing of the user's.

Roles and ends of turns are control tokens that the chat template writes. In what is said they are text: nobody begins
an assistant's turn by typing <|assistant|>. For prompts, `apply_chat_template(..., sanitize_control_tokens=True)` of
transformers sees to it; `tokenize_dialogues` makes the same tokens, and marks the assistant's.
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
# Noncharacters of Unicode, of which one sets what is typed apart from what the template writes.
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
# A line for each turn; `generation` marks what the assistant writes, its end token included.
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
    """Give a tokenizer without a chat template `CHAT_TEMPLATE`, and the template's roles as control tokens.

    The tokenizer gets up to three ids more; `make_room_for_roles` gives a model their embeddings. One with a template
    of its own keeps it. Prompts name control tokens from then on, as a stock `apply_chat_template` needs it.
    """
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
        roles = [AddedToken(f"<|{role}|>", special=True, normalized=False) for role in ROLES]
        tokenizer.add_tokens(roles, special_tokens=True)
    read_prompts_as_text(tokenizer, False)


def make_room_for_roles(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model embeddings for the tokens of `ROLES` that are the only ones to lie beyond its vocabulary."""
    vocabulary, size = tokenizer.get_vocab(), model.config.get_text_config().vocab_size
    beyond = {token: number for token, number in vocabulary.items() if number >= size}
    if beyond and set(beyond) <= {f"<|{role}|>" for role in ROLES}:
        model.resize_token_embeddings(max(beyond.values()) + 1)


# ShareGPT's names of those who speak, "from" in its turns
_SPEAKERS = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
}


def from_sharegpt(dataset: Dataset) -> Dataset:
    """Return rows whose dialogues stand in ShareGPT's column conversations with the column messages instead."""
    names = dataset.column_names
    if "messages" in names or "conversations" not in names:
        return dataset
    return dataset.rename_column("conversations", "messages")


def as_messages(turns: Sequence[Any]) -> list[dict[str, str]]:
    """Return a dialogue as messages: as it is, or made of texts that user and assistant say in turn.

    ["Hi", "Hello"] becomes [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], and so do
    ShareGPT's turns, [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}].

    Raises:
        ValueError: a turn that is neither a text nor a role with its content, or from someone unknown.
    """
    if all(isinstance(turn, str) for turn in turns):
        return [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    return [_message(turn) for turn in turns]


def _message(turn: Any) -> dict[str, str]:
    # a table has every field in each turn, and None where the turn had none
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
    """Turn the column `messages` into `input_ids` and `labels`: the assistant's tokens, -100 everywhere else.

    A tokenizer without a chat template gets `CHAT_TEMPLATE`, by `add_chat_template`, and is saved with it. Of the
    messages

        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

    that template makes

        <|user|> Hi</s> <|assistant|> Hello</s>        (a line break for each space shown here)

    and labels on `Hello</s>` alone.

    Args:
        dataset: with a column `messages`: lists of {"role": ..., "content": ...}, or of what `as_messages` takes.
        tokenizer: whose template, if it has one, must mark the assistant's text by `{% generation %}`.
        max_length: in ids. Longer dialogues become several rows, each with the system message, if there is one, and
            cut between a question's answer and the next question: each answer is learned once.

    Returns:
        The tokenized dataset, and how many dialogues were "cut" into several rows, "shortened" because turns were too
        long for any row, and "dropped" because no answer was left. The last two are also said in a warning.

    Raises:
        ValueError: no column `messages`, a turn that is none or of an unknown role, or a template that marks nothing.
    """
    if "messages" not in dataset.column_names:
        raise ValueError(f"dataset must have a column messages; it has {', '.join(dataset.column_names) or 'none'}")
    add_chat_template(tokenizer)
    if "{% generation %}" not in str(tokenizer.chat_template).replace("{%-", "{%").replace("-%}", "%}"):
        raise ValueError(
            "the tokenizer's chat template does not mark the assistant's text by {% generation %} ... "
            "{% endgeneration %}: what is to be learned cannot be told from the rest"
        )
    report: Counter = Counter()
    found: list[Row] = []
    for place, messages in enumerate(dataset["messages"]):
        try:
            rows, whole = _rows(as_messages(messages), tokenizer, max_length)
        except TemplateError as error:  # such as a role that the template does not know
            raise ValueError(f"messages: row {place}: {error}") from error
        found += rows
        report.update({"cut": len(rows) > 1, "shortened": bool(rows) and not whole, "dropped": not rows})
    report = +report  # without the reasons that never came up
    if report["shortened"] or report["dropped"]:
        # not twice for the same rows, which baselines count again
        logger.warning_once(
            f"Of {len(dataset)} dialogues, {report['shortened']} lost turns that are too long for max_length"
            f" ({max_length} tokens), and {report['dropped']} were dropped: no answer is left."
        )
    return Dataset.from_dict({name: [row[name] for row in found] for name in ("input_ids", "labels")}), report


def recent_turns(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, str]]:
    """Return the system message and as many of the last turns, from a question on, as make a prompt of max_length ids.

    Nothing, if not even the last question fits.
    """
    system = messages[:1] if messages and messages[0]["role"] == "system" else []
    for begin in range(len(system), len(messages)):
        found = [*system, *messages[begin:]]
        if messages[begin]["role"] != "user":
            continue
        prompt: Any = tokenizer.apply_chat_template(
            found,
            add_generation_prompt=True,
            return_dict=True,
            sanitize_control_tokens=True,
            tokenizer_kwargs={"verbose": False},
        )
        if len(prompt["input_ids"]) <= max_length:
            return found
    return []


def _rows(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> tuple[list[Row], bool]:
    """Return the rows of a dialogue, and whether all its turns are in them."""
    if not messages:
        return [], True
    row = _tokenize(messages, tokenizer)
    if max_length is None or len(row["input_ids"]) <= max_length:
        return ([row] if _learns(row) else []), True
    system = messages[:1] if messages[0]["role"] == "system" else []
    turns, rows, whole = messages[len(system) :], [], True
    asked = [turn["role"] == "user" for turn in turns]
    cuts = [place for place in range(1, len(turns)) if asked[place] and not asked[place - 1]] + [len(turns)]
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
    """Return a pattern of what is a control token where a template writes it: special tokens, and added ones in it."""
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
    """Return the ids of a dialogue and the assistant's as labels, with control tokens in its turns as text.

    transformers reads them as text in prompts, but not where it also tells whose a token is; and there it loses a turn
    that begins with a space, where the tokenizer counts no space to a token.
    """
    typed = _control_tokens(tokenizer)
    free = [mark for mark in _MARKS if not any(mark in str(part) for turn in messages for part in turn.values())]
    if not free:
        raise ValueError("messages must not hold all of the noncharacters U+FDD0 to U+FDEF")
    mark = free[0]
    marked = [
        {
            name: typed.sub(f"{mark}\\g<0>{mark}", part) if isinstance(part, str) and name != "role" else part
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
            keep = any(begin + left < last and begin + right > first for first, last in learned)
            row["input_ids"].append(token)
            row["labels"].append(token if keep else -100)
        begin += len(piece) + len(mark)
    return row


def _tokens_of_piece(
    piece: str, tokenizer: PreTrainedTokenizerBase, as_text: bool, first: bool
) -> list[tuple[int, int, int]]:
    """Return (id, first character, one past the last) of each token of a part of a dialogue.

    All parts but the first are read after a line break, which is taken off again, unless it grows into one token with
    the part: some tokenizers put a space before the start of a text.
    """
    encode = encode_text if as_text else functools.partial(type(tokenizer).__call__, split_special_tokens=False)
    for before in ("",) if first else ("\n", ""):
        encoded = encode(
            tokenizer, before + piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        spans = [(left - len(before), right - len(before)) for left, right in encoded["offset_mapping"]]
        if not any(left < 0 < right for left, right in spans):
            break
    tokens = zip(encoded["input_ids"], spans, strict=True)
    return [(token, left, right) for token, (left, right) in tokens if right > 0]

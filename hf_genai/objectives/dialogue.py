"""Dialogue: a causal model learns the assistant's turns, and nothing of the user's."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

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


def as_messages(turns: Sequence[Any]) -> list[dict[str, str]]:
    """Return a dialogue as messages: as it is, or made of texts that user and assistant say in turn.

    ["Hi", "Hello"] becomes [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}].

    Raises:
        ValueError: a turn that is neither a text nor a role with its content.
    """
    if all(isinstance(turn, str) for turn in turns):
        return [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    for turn in turns:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(name), str) for name in ("role", "content")):
            raise ValueError(f"a turn must be a text, or a mapping with role and content, not {turn!r:.80}")
    return list(turns)


def tokenize_dialogues(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> tuple[Dataset, Counter]:
    """Turn the column `messages` into `input_ids` and `labels`: the assistant's tokens, -100 everywhere else.

    A tokenizer without a chat template gets `CHAT_TEMPLATE`, and is saved with it. Of the messages

        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

    that template makes

        <|user|> Hi</s> <|assistant|> Hello</s>        (a line break for each space shown here)

    and labels on `Hello</s>` alone.

    Args:
        dataset: with a column `messages`: lists of {"role": ..., "content": ...}, or of what `as_messages` takes.
        tokenizer: whose template, if it has one, must mark the assistant's text by `{% generation %}`.
        max_length: in ids. Longer dialogues lose their oldest turns, after a system message, two at a time: the
            question and its answer.

    Returns:
        The tokenized dataset, and how many dialogues were "shortened", and "dropped" for want of an assistant's turn
        that fits.

    Raises:
        ValueError: no column `messages`, a turn that is none or of an unknown role, or a template that marks nothing.
    """
    if "messages" not in dataset.column_names:
        raise ValueError(f"dataset must have a column messages; it has {', '.join(dataset.column_names) or 'none'}")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    if "{% generation %}" not in str(tokenizer.chat_template).replace("{%-", "{%").replace("-%}", "%}"):
        raise ValueError(
            "the tokenizer's chat template does not mark the assistant's text by {% generation %} ... "
            "{% endgeneration %}: what is to be learned cannot be told from the rest"
        )
    report: Counter = Counter()
    rows: dict[str, list] = {"input_ids": [], "labels": []}
    for messages in dataset["messages"]:
        row = _tokenize(as_messages(messages), tokenizer, max_length, report)
        if row is None:
            report["dropped"] += 1
            continue
        for name, values in row.items():
            rows[name].append(values)
    return Dataset.from_dict(rows), report


def _tokenize(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int | None, report: Counter
) -> dict[str, list[int]] | None:
    first = 1 if messages and messages[0]["role"] == "system" else 0
    shortened = False
    while any(message["role"] == "assistant" for message in messages):
        encoded: Any = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, learned = encoded["input_ids"], encoded["assistant_masks"]
        if max_length is None or len(ids) <= max_length:
            if shortened:
                report["shortened"] += 1
            return {
                "input_ids": ids,
                "labels": [token if keep else -100 for token, keep in zip(ids, learned, strict=True)],
            }
        messages, shortened = messages[:first] + messages[first + 2 :], True
    return None

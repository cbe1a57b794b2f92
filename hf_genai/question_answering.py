"""`pipeline("question-answering")`, which transformers 5 removed: questions about a text, answered by a part of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .data.plain_text import check_characters, encode_text, ends_inside_words
from .evaluation.generation import length_limit
from .objectives.question_answering import Window, find_answers, margin_of_none

logger = logging.get_logger(__name__)


TASK = "question-answering"
# what the model's config may say of them
SETTINGS = (
    *("handle_impossible_answer", "null_score_diff_threshold", "max_answer_len", "max_seq_len", "doc_stride"),
    *("max_question_len", "align_to_words"),
)


@dataclass(frozen=True)
class _Part:
    """A part of a context: for each of its tokens (start, end) in characters, of the token and of its word.

    Tokens that no answer may hold, of the question and special ones, have None.
    """

    context: str
    tokens: list[tuple[int, int] | None]
    words: list[tuple[int, int] | None]


class QuestionAnsweringPipeline(ChunkPipeline):
    """Question and context in, answer out, with the results of transformers 4.

    A context that is too long for the model comes in windows that overlap. Where transformers 4 needed a tokenizer
    with a [CLS] token to say that a text holds no answer, here the first token stands for that, as in training.

    Args:
        model: one with a head for question answering.
        tokenizer: a fast one.
        kwargs: device, batch_size (in windows), and defaults for the arguments of `__call__`.

    Raises:
        ValueError: there is no tokenizer, or a slow one.
    """

    tokenizer: Any

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, **kwargs: Any):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"tokenizer must be a fast one, which knows each token's characters, got {type(tokenizer).__name__}"
            )
        known = (getattr(model.config, "task_specific_params", None) or {}).get(TASK) or {}
        settings = {name: value for name, value in known.items() if name in SETTINGS}
        super().__init__(model, tokenizer=tokenizer, **{"task": TASK, **settings, **kwargs})  # type: ignore[arg-type]

    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Return the answers.

        Args:
            inputs: {"question": ..., "context": ...}, a list of such, or a dataset or generator that yields such.
            question: instead of inputs, one question or a list.
            context: the text, or a list with one for each question.
            kwargs: top_k (1: answers wanted); handle_impossible_answer (False; True: "" may win);
                null_score_diff_threshold (0.0: by how much the log-probability of no answer must exceed that of the
                best one for "" to win); max_answer_len (15 tokens); max_seq_len (384 tokens of a window, question
                included, or the limit of tokenizer and model); doc_stride (128 tokens that two windows share, at most
                half a window); max_question_len (64 tokens: the rest of a question is cut off, with a warning);
                align_to_words (True: answers are whole words, in scripts that put spaces between words); batch_size.
                What the model's config has under task_specific_params["question-answering"], as the recipe writes it,
                goes before these defaults.

        Returns:
            For each question {"score", "start", "end", "answer"}: the probability, 0 to 1; the characters of the
            context where the answer begins and ends; its text. A list of such, best first, if top_k is above 1 and
            there are several. A list of these for several questions, an iterator for a dataset or generator.

        Raises:
            ValueError: no question or context, more of one than of the other, or a limit that leaves no room.
        """
        if (inputs is None) == (question is None and context is None):
            raise ValueError("give either inputs, or question and context")
        if inputs is None:
            inputs = _paired(question, context)
        if isinstance(inputs, Mapping):
            return super().__call__(_checked(inputs, 1), **kwargs)
        if isinstance(inputs, Dataset):
            return super().__call__(inputs, **kwargs)
        if isinstance(inputs, str) or not isinstance(inputs, Iterable):
            raise ValueError(f"inputs must be a mapping, or a list or iterator of such, got {type(inputs).__name__}")
        if isinstance(inputs, Iterator):
            return super().__call__((_checked(item, number) for number, item in enumerate(inputs, 1)), **kwargs)
        rows = [_checked(item, number) for number, item in enumerate(inputs, 1)]
        if not rows:
            raise ValueError("inputs must hold at least one question, got none")
        return super().__call__(rows, **kwargs)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        top_k: int | None = None,
        handle_impossible_answer: bool | None = None,
        null_score_diff_threshold: float | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        align_to_words: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no argument of question answering")
        before: dict[str, Any] = {
            "max_seq_len": max_seq_len,
            "doc_stride": doc_stride,
            "max_question_len": max_question_len,
        }
        after: dict[str, Any] = {"top_k": top_k, "max_answer_len": max_answer_len}
        for name, value in (before | after).items():
            if value is not None and value < (0 if name == "doc_stride" else 1):
                raise ValueError(f"{name} must be at least {0 if name == 'doc_stride' else 1}, got {value}")
        after |= {"handle_impossible_answer": handle_impossible_answer, "align_to_words": align_to_words}
        after["null_score_diff_threshold"] = null_score_diff_threshold
        before, after = ({key: value for key, value in own.items() if value is not None} for own in (before, after))
        return before, {}, after

    def preprocess(  # type: ignore[override]
        self,
        example: Mapping[str, str],
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int = 64,
    ) -> Iterator[dict[str, Any]]:
        example = _checked(example, None)
        length = max_seq_len or min(384, length_limit(self.model, self.tokenizer, None) or 384)
        stride = min(length // 2, 128) if doc_stride is None else doc_stride
        question = self._cut(example["question"], max_question_len)
        alone = encode_text(self.tokenizer, [question], [""], verbose=False)  # one "" alone counts as none
        taken = len(alone["input_ids"][0])
        if taken + stride >= length:
            raise ValueError(
                f"max_seq_len ({length}) must be above doc_stride ({stride}) and the question ({taken}) together"
            )
        encoded = encode_text(
            self.tokenizer,
            question,
            example["context"],
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_attention_mask=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = ["attention_mask", *self.tokenizer.model_input_names]
        last = len(encoded["input_ids"]) - 1
        for place, encoding in enumerate(encoded.encodings or []):
            sides = encoding.sequence_ids
            tokens = [span if side == 1 else None for span, side in zip(encoding.offsets, sides, strict=True)]
            words = [
                span
                if span is None or word is None
                else _aligned(example["context"], span, encoding.word_to_chars(word, sequence_index=1))
                for span, word in zip(tokens, encoding.word_ids, strict=True)
            ]
            yield {
                "is_last": place == last,
                "window": _Part(example["context"], tokens, words),
                **{name: torch.tensor([encoded[name][place]]) for name in names if name in encoded},
            }

    def _cut(self, question: str, length: int) -> str:
        offsets = encode_text(
            self.tokenizer, question, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        if len(offsets) <= length:
            return question
        logger.warning(f"Cut a question of {len(offsets)} tokens to max_question_len ({length}).")
        return question[: offsets[length - 1][1]]

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        rest = {name: model_inputs.pop(name) for name in ("is_last", "window")}
        output = self.model(**model_inputs)
        if "start_logits" not in output:
            raise ValueError(f"model must have a head for question answering, got {type(self.model).__name__}")
        mask = model_inputs["attention_mask"]
        return {**rest, "attention_mask": mask, "start": output["start_logits"], "end": output["end_logits"]}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int = 1,
        handle_impossible_answer: bool = False,
        null_score_diff_threshold: float = 0.0,
        max_answer_len: int = 15,
        align_to_words: bool = True,
    ) -> Any:
        windows = []
        for output in model_outputs:
            part, real = output["window"], output["attention_mask"][0].bool()  # batches are padded, on either side
            starts, ends = (output[name][0][real].float().numpy() for name in ("start", "end"))
            windows.append(Window(part.words if align_to_words else part.tokens, starts, ends))
        found, nothing = find_answers(model_outputs[0]["window"].context, windows, top_k, max_answer_len)
        if handle_impossible_answer:
            wins = margin_of_none(found, nothing) > null_score_diff_threshold
            better = 0 if wins else sum(answer["score"] >= nothing for answer in found) or 1
            found = [*found[:better], {"score": nothing, "start": 0, "end": 0, "answer": ""}, *found[better:]][:top_k]
        return found[0] if len(found) == 1 else found


def _aligned(context: str, token: tuple[int, int], word: Any) -> tuple[int, int]:
    """Return the characters of a token widened to those of its word, (start, end) both.

    In scripts without spaces, and in Korean, an answer may end inside of what a tokenizer takes for a word: a token of
    those stays as it is, and one of others ends where those begin.
    """
    begin, end = token
    while begin > word[0] and not ends_inside_words(context[begin - 1 : begin + 1]):
        begin -= 1
    while 0 < end < word[1] and not ends_inside_words(context[end - 1 : end + 1]):
        end += 1
    return begin, end


def _paired(question: Any, context: Any) -> Any:
    if isinstance(question, str) and isinstance(context, str):
        return {"question": question, "context": context}
    if question is None or context is None:
        raise ValueError(f"{'question' if question is None else 'context'} is missing")
    if isinstance(question, str):
        raise ValueError("question is one text, but context several: give a question for each")
    contexts = [context] * len(question) if isinstance(context, str) else list(context)
    if len(contexts) != len(question):
        raise ValueError(f"question has {len(question)} texts, but context {len(contexts)}")
    return [{"question": one, "context": text} for one, text in zip(question, contexts, strict=True)]


def _checked(example: Any, number: int | None) -> Mapping[str, str]:
    """Return a question with its context; `number` is which of all it is, from 1, if that is known."""
    if not isinstance(example, Mapping) or not {"question", "context"} <= set(example):
        raise ValueError(f"inputs must be mappings with question and context, got {example!r:.80}")
    for name in ("question", "context"):
        if not isinstance(example[name], str) or not example[name].strip():
            raise ValueError(f"{name} must be a text that is not empty, got {example[name]!r}")
        check_characters(example[name], name if number is None else f"{name} {number}")
    return example

"""Texts in, texts out: encode with a counted cut, decode in batches of similar length, answer in the input order."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.plain_text import check_characters
from ..data.tokenizers import encode_cut
from .prefixes import prefix_of

logger = logging.get_logger(__name__)

# generate() alone would stop after 20 tokens where neither caller nor model says a length
DEFAULT_NEW_TOKENS = 256


@contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; the mode that the model was in comes back, also after an error."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def length_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int | None:
    """Return the longest source in tokens: max_length if given, else the smaller limit of tokenizer and model, if any.

    Raises:
        ValueError: if max_length is not positive.
    """
    if max_length is not None:
        if max_length < 1:
            raise ValueError(f"max_source_length must be at least 1, got {max_length}")
        return max_length
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    # tokenizers without a limit carry 1e30 instead
    return min((limit for limit in limits if limit is not None and limit < 1e12), default=None)


def default_length(model: PreTrainedModel, generate_kwargs: dict[str, Any]) -> dict[str, int]:
    """Return {"max_new_tokens": ...} unless the caller or the model's generation config says how long to decode."""
    configs = [model.generation_config, generate_kwargs.get("generation_config")]
    if any(generate_kwargs.get(key) is not None for key in ("max_length", "max_new_tokens")):
        return {}
    if any(config is not None and (config.max_new_tokens or config.max_length) for config in configs):
        return {}
    positions = getattr(model.config, "max_position_embeddings", None) or DEFAULT_NEW_TOKENS + 1
    return {"max_new_tokens": min(DEFAULT_NEW_TOKENS, positions - 1)}


def is_blank(text: str) -> bool:
    """Return whether a text holds nothing to read; its output is blank too, and no model is asked for it."""
    return not text.strip()


def _check(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of strings, got the string {texts!r}")
    if not len(texts):
        raise ValueError("texts must hold at least one text, got none")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings, got {type(text).__name__} at index {index}")
        check_characters(text, f"text {index + 1}")


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    limit: int | None,
    as_target: bool = False,
    as_text: bool = True,
) -> list[list[int]]:
    """Return the ids of each text, special tokens included, cut to limit tokens with a warning that counts the cuts.

    Args:
        tokenizer: of the texts.
        texts: as users wrote them.
        limit: ids of a text, at most; None: no limit.
        as_target: encode them as targets.
        as_text: read control tokens in them as text; False: as the tokenizer's own setting is.

    Raises:
        ValueError: if there are no texts, or one has half of a surrogate pair.
        TypeError: if one is not a string.
    """
    _check(texts)
    rows, long = encode_cut(tokenizer, texts, limit, "text_target" if as_target else "text", as_text)
    if long:
        logger.warning(f"Cut {len(long)} of {len(rows)} texts to {limit} tokens; the longest has {max(long)}.")
    return rows


def generate_texts(
    model: PreTrainedModel,
    source_tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    target_tokenizer: PreTrainedTokenizerBase | None = None,
    batch_size: int = 32,
    max_source_length: int | None = None,
    prefix: str | None = None,
    **generate_kwargs: Any,
) -> list[str]:
    """Return one generated text per source, in the order of texts; "" for a source without anything to read.

    Sources of similar length share a batch, so that little is spent on padding. The best sequence is kept where
    `num_beams` makes several; for more than one answer per text, use the pipeline.

    Args:
        model: encoder-decoder.
        source_tokenizer: tokenizer of the sources.
        texts: sources.
        target_tokenizer: tokenizer of the outputs, source_tokenizer if None.
        batch_size: sources decoded together.
        max_source_length: longest source in tokens; None takes the limits of tokenizer and model.
        prefix: put before each source; None: what the model's config gives for translation.
        generate_kwargs: arguments of `model.generate`, such as num_beams or max_new_tokens (256 where neither they nor
            the model's generation config set a length).

    Raises:
        ValueError: if texts is empty or has half of a surrogate pair, or batch_size, max_source_length or
            num_return_sequences is out of range.
        TypeError: if a text is not a string.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if generate_kwargs.get("num_return_sequences", 1) != 1:
        raise ValueError(
            f"num_return_sequences must be 1 here, got {generate_kwargs['num_return_sequences']}; "
            "hf_genai.pipeline returns several texts per source"
        )
    target_tokenizer = target_tokenizer or source_tokenizer
    _check(texts)
    limit = length_limit(model, source_tokenizer, max_source_length)
    asked = [index for index, text in enumerate(texts) if not is_blank(text)]
    outputs: list[str] = [""] * len(texts)
    if not asked:
        return outputs
    prefix = prefix_of(model.config) if prefix is None else prefix
    found = encode_texts(source_tokenizer, [prefix + texts[index] for index in asked], limit)
    rows = dict(zip(asked, found, strict=True))
    generate_kwargs = {**default_length(model, generate_kwargs), **generate_kwargs}
    order = sorted(rows, key=lambda index: -len(rows[index]))  # longest first: memory runs out at once
    with inference(model), logging.tqdm(total=len(rows), desc="Generating", unit="text") as progress:
        for start in range(0, len(rows), batch_size):
            some = order[start : start + batch_size]
            batch = source_tokenizer.pad({"input_ids": [rows[index] for index in some]}, return_tensors="pt")
            sequences = model.generate(**batch.to(model.device), **generate_kwargs)  # type: ignore[operator]
            sequences = getattr(sequences, "sequences", sequences)
            decoded = target_tokenizer.batch_decode(sequences, skip_special_tokens=True)
            for index, text in zip(some, decoded, strict=True):
                outputs[index] = text
            progress.update(len(some))
    return outputs

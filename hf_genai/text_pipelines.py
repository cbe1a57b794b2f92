"""transformers' pipelines for masks, tags, labels and chats, where what a user types is text (data/plain_text.py).

In a text for "fill-mask" the mask alone is read as a token, and no control token is offered for it. In a chat for
"text-generation" the template alone writes control tokens: `<|assistant|>` in a message begins no turn. For
"token-classification", tokens that are a space alone make no word. In all, half of a surrogate pair is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import transformers

from .data.plain_text import check_characters, control_tokens, naming

_SPACES = " \u0120\u2581"  # as tokens have it: as it is, byte-level, and of unigram models


class _ReadableTexts:
    """A pipeline that refuses half of a surrogate pair, and says in which of its texts it stands."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            return super().__call__(checked(args[0]), *args[1:], **kwargs)  # type: ignore[misc]
        named = {name: checked(kwargs[name]) for name in ("inputs", "text_inputs", "sequences") if name in kwargs}
        return super().__call__(**{**kwargs, **named})  # type: ignore[misc]


def checked(inputs: Any) -> Any:
    """Return what a pipeline is given, its texts checked; those of a generator are as they come.

    Raises:
        ValueError: a text has half of a surrogate pair; names its number, from 1.
    """
    if isinstance(inputs, Iterator):
        return (_check(item, f"text {number}") for number, item in enumerate(inputs, 1))
    if isinstance(inputs, (list, tuple)) and not (inputs and isinstance(inputs[0], Mapping) and "role" in inputs[0]):
        for number, item in enumerate(inputs, 1):
            _check(item, f"text {number}")
        return inputs
    return _check(inputs, "text 1")


def _check(item: Any, name: str) -> Any:
    """Check a text, a pair of texts, or a chat."""
    if isinstance(item, str):
        check_characters(item, name)
    elif isinstance(item, Mapping):
        for part, value in item.items():
            _check(value, f"{name}, {part}")
    elif isinstance(item, (list, tuple)):
        for number, value in enumerate(item, 1):
            _check(value, f"{name}, part {number}")
    return item


class FillMaskPipeline(_ReadableTexts, transformers.FillMaskPipeline):
    """Fill the mask of a text by words, the likeliest first."""

    tokenizer: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.given_tokenizer = self.tokenizer
        self.tokenizer = naming(self.tokenizer, [self.tokenizer.mask_token])

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save model and tokenizer, the tokenizer as it was given."""
        super().save_pretrained(save_directory, **kwargs)
        self.given_tokenizer.save_pretrained(save_directory)

    def postprocess(self, model_outputs: Any, top_k: int = 5, target_ids: Any = None) -> Any:  # type: ignore[override]
        if target_ids is not None:
            return super().postprocess(model_outputs, top_k=top_k, target_ids=target_ids)
        control = set(control_tokens(self.given_tokenizer).values())
        most = min(top_k + len(control), model_outputs["logits"].shape[-1])
        found = super().postprocess(model_outputs, top_k=most)
        several = [found] if isinstance(found[0], dict) else found
        words = [[row for row in rows if row["token"] not in control][:top_k] for rows in several]
        return words[0] if isinstance(found[0], dict) else words


class TokenClassificationPipeline(_ReadableTexts, transformers.TokenClassificationPipeline):
    """Tag words and find entities."""

    def aggregate(self, pre_entities: list[dict], aggregation_strategy: Any) -> list[dict]:
        """Return words or entities made of tokens, without the tokens that are a space alone.

        No tag was learned for these: some characters have no token that holds them and the space before them.
        """
        if aggregation_strategy.value != "none":
            pre_entities = [part for part in pre_entities if part["word"].strip(_SPACES)]
        return super().aggregate(pre_entities, aggregation_strategy)


class TextGenerationPipeline(_ReadableTexts, transformers.TextGenerationPipeline):
    """Go on with a text, or answer a chat."""

    def preprocess(self, prompt_text: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if hasattr(prompt_text, "messages"):  # a chat, as the call of the pipeline wraps it
            options = kwargs.pop("tokenizer_encode_kwargs", None) or {}
            kwargs["tokenizer_encode_kwargs"] = {"sanitize_control_tokens": True, **options}
        return super().preprocess(prompt_text, **kwargs)


class TextClassificationPipeline(_ReadableTexts, transformers.TextClassificationPipeline):
    """Label texts."""


class FeatureExtractionPipeline(_ReadableTexts, transformers.FeatureExtractionPipeline):
    """Return the hidden states of texts."""


class ZeroShotClassificationPipeline(_ReadableTexts, transformers.ZeroShotClassificationPipeline):
    """Label texts with labels that are given along."""


PIPELINES = {
    "fill-mask": FillMaskPipeline,
    "token-classification": TokenClassificationPipeline,
    "ner": TokenClassificationPipeline,
    "text-generation": TextGenerationPipeline,
    "text-classification": TextClassificationPipeline,
    "sentiment-analysis": TextClassificationPipeline,
    "feature-extraction": FeatureExtractionPipeline,
    "zero-shot-classification": ZeroShotClassificationPipeline,
}

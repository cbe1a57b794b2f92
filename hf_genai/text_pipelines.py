"""transformers' pipelines for masked words, tags and chats, where what a user types is text (data/plain_text.py).

In a text for "fill-mask" the mask alone is read as a token, and no control token is offered for it. In a chat for
"text-generation" the template alone writes control tokens: `<|assistant|>` in a message begins no turn. For
"token-classification", tokens that are a space alone make no word.
"""

from typing import Any

import transformers

from .data.plain_text import control_tokens, naming

_SPACES = " \u0120\u2581"  # as tokens have it: as it is, byte-level, and of unigram models


class FillMaskPipeline(transformers.FillMaskPipeline):
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


class TokenClassificationPipeline(transformers.TokenClassificationPipeline):
    """Tag words and find entities."""

    def aggregate(self, pre_entities: list[dict], aggregation_strategy: Any) -> list[dict]:
        """Return words or entities made of tokens, without the tokens that are a space alone.

        No tag was learned for these: some characters have no token that holds them and the space before them.
        """
        if aggregation_strategy.value != "none":
            pre_entities = [part for part in pre_entities if part["word"].strip(_SPACES)]
        return super().aggregate(pre_entities, aggregation_strategy)


class TextGenerationPipeline(transformers.TextGenerationPipeline):
    """Go on with a text, or answer a chat."""

    def preprocess(self, prompt_text: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if hasattr(prompt_text, "messages"):  # a chat, as the call of the pipeline wraps it
            options = kwargs.pop("tokenizer_encode_kwargs", None) or {}
            kwargs["tokenizer_encode_kwargs"] = {"sanitize_control_tokens": True, **options}
        return super().preprocess(prompt_text, **kwargs)


PIPELINES = {
    "fill-mask": FillMaskPipeline,
    "token-classification": TokenClassificationPipeline,
    "ner": TokenClassificationPipeline,
    "text-generation": TextGenerationPipeline,
}

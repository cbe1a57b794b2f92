"""Sizes and choices of the recurrent family: encoder-decoder, language model and classifiers of GRU or LSTM layers."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .fields import (
    check_after,
    check_before,
    check_whole,
    deviation_field,
    layers_field,
    positive_int_field,
    probability_field,
)


@strict
class GenaiRNNConfig(PreTrainedConfig):
    """Configuration of the recurrent models.

    The defaults are Luong's global attention with additive scores: a bidirectional encoder, an unfed decoder,
    attention after it. Other classic models are one or two fields away: `attention_type="none"` with
    `attention_position="before"` is Cho et al. (2014), with `"after"` Sutskever et al. (2014, with `cell_type="lstm"`,
    `bidirectional_encoder=False`, `reverse_source=True`); `attention_position="before"` is Bahdanau et al. (2015);
    `input_feeding=True` is Luong et al. (2015), section 3.3.

    Args:
        vocab_size: Number of token ids of the decoder; of the encoder too unless `source_vocab_size` says otherwise.
        source_vocab_size: Number of token ids of the encoder, where it has a vocabulary of its own. None: one
            vocabulary.
        share_encoder_decoder_embeddings: One embedding table for both sides; needs one vocabulary.
        embedding_size: Size of a token's vector. None: `hidden_size`.
        hidden_size: Size of a decoder state, and of the vector that the vocabulary is scored with.
        encoder_hidden_size: Size of an encoder output, both directions together. None: `hidden_size`.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        cell_type: "gru" (Cho et al. 2014) or "lstm" (Hochreiter and Schmidhuber 1997).
        bidirectional_encoder: Read the source in both directions, each with half of `encoder_hidden_size`.
        reverse_source: Read the source from its end (Sutskever et al. 2014); only for a one-directional encoder.
        attention_type: Score function of the decoder's attention over the source: "additive" (Bahdanau et al. 2015),
            "dot" and "general" (Luong et al. 2015), "scaled_dot" (Vaswani et al. 2017), or "none": the whole source in
            one vector.
        attention_position: "before" the cell (the query is the previous state and the context enters the cell) or
            "after" it (the query is the new state). Without attention: the source vector enters every step, or the
            start state only.
        input_feeding: Hand the attentional vector of each step to the next one; only after the cell.
        num_attention_heads: Heads of the decoder's attention: 1. PEFT's prompts and transformers' static caches ask
            every configuration.
        attention_size: Size of projected queries and keys ("additive" and "scaled_dot"). None: `hidden_size`.
        dropout: Probability of dropping a number of the embeddings, between layers and before the vocabulary; 0 to 1.
        classifier_dropout: The same before a classification head. None: `dropout`.
        tie_word_embeddings: Score the vocabulary with the decoder's embedding table, which needs vectors of
            `hidden_size`.
        initializer_range: Standard deviation of embeddings and heads at the start.
    """

    model_type = "genai_rnn"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]
    # num_hidden_layers is the decoder's depth, since caches are made from it
    attribute_map: ClassVar[dict[str, str]] = {"num_hidden_layers": "decoder_layers"}
    # Auto class -> model class: read by the registry, and written whole into the auto_map of each saved model
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "GenaiRNNModel",
        "AutoModelForSeq2SeqLM": "GenaiRNNForConditionalGeneration",
        "AutoModelForCausalLM": "GenaiRNNForCausalLM",
        "AutoModelForSequenceClassification": "GenaiRNNForSequenceClassification",
        "AutoModelForTokenClassification": "GenaiRNNForTokenClassification",
    }
    _auto_class: ClassVar[str | None] = "AutoConfig"

    vocab_size: int = positive_int_field(default=8192)
    source_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    embedding_size: int | None = None
    hidden_size: int = positive_int_field(default=256)
    encoder_hidden_size: int | None = None
    encoder_layers: int = layers_field(default=1)
    decoder_layers: int = layers_field(default=1)
    cell_type: Literal["gru", "lstm"] = "gru"
    bidirectional_encoder: bool = True
    reverse_source: bool = False
    attention_type: Literal["none", "dot", "general", "additive", "scaled_dot"] = "additive"
    attention_position: Literal["before", "after"] = "after"
    input_feeding: bool = False
    num_attention_heads: Literal[1] = 1
    attention_size: int | None = None
    dropout: float | int = probability_field(default=0.1)
    classifier_dropout: float | int | None = None
    tie_word_embeddings: bool = True
    initializer_range: float | int = deviation_field(default=0.05)
    use_cache: bool = True
    is_encoder_decoder: bool = True
    is_decoder: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs):
        check_before(self, kwargs)
        self.embedding_size = self.embedding_size or self.hidden_size
        self.encoder_hidden_size = self.encoder_hidden_size or self.hidden_size
        self.attention_size = self.attention_size or self.hidden_size
        super().__post_init__(**kwargs)

    @property
    def layer_types(self) -> list[str]:
        """The kind of cache layer that each decoder layer needs; generate() builds the cache from it."""
        return ["genai_recurrent"] * self.decoder_layers

    def validate_layer_type(self):
        """The kinds that transformers knows by name do not include ours."""

    def validate_rope(self):
        """No layer has rotary positions."""

    def validate_architecture(self):
        """Refuse combinations that have no meaning, each with its reason."""
        for name in ("source_vocab_size", "embedding_size", "encoder_hidden_size", "attention_size"):
            if getattr(self, name) is not None:
                check_whole(getattr(self, name), name=name)
        check_after(
            self,
            ("vocab_size", "embedding_size"),
            *([("source_vocab_size", "embedding_size")] if self.source_vocab_size else []),
            ("decoder_layers", "hidden_size", "hidden_size"),
            ("encoder_layers", "encoder_hidden_size", "encoder_hidden_size"),
            ("attention_size", "hidden_size"),
            ("attention_size", "encoder_hidden_size"),
        )
        if self.bidirectional_encoder and self.encoder_hidden_size % 2:
            raise ValueError(
                f"encoder_hidden_size ({self.encoder_hidden_size}) must be even: each direction of a bidirectional"
                " encoder takes half of it"
            )
        if self.bidirectional_encoder and self.reverse_source:
            raise ValueError(
                "reverse_source=True needs bidirectional_encoder=False: a bidirectional encoder reads both ways anyway"
            )
        if self.input_feeding and self.attention_type == "none":
            raise ValueError(
                "input_feeding=True needs an attention_type: without attention there is no attentional vector to feed"
            )
        if self.input_feeding and self.attention_position == "before":
            raise ValueError(
                "input_feeding=True needs attention_position='after': before the cell, the context enters it anyway"
            )
        if self.attention_type == "dot" and self.encoder_hidden_size != self.hidden_size:
            raise ValueError(
                "attention_type='dot' compares states with encoder outputs as they are, so encoder_hidden_size"
                f" ({self.encoder_hidden_size}) must equal hidden_size ({self.hidden_size}); 'general' projects them"
            )
        if self.tie_word_embeddings and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"tie_word_embeddings=True scores the vocabulary with the embedding table, so embedding_size"
                f" ({self.embedding_size}) must equal hidden_size ({self.hidden_size})"
            )
        if self.share_encoder_decoder_embeddings and self.source_vocab_size is not None:
            raise ValueError(
                f"source_vocab_size={self.source_vocab_size} (two vocabularies) needs"
                " share_encoder_decoder_embeddings=False"
            )
        if self.classifier_dropout is not None and not 0 <= self.classifier_dropout <= 1:
            raise ValueError(f"classifier_dropout must be between 0 and 1, not {self.classifier_dropout}")


__all__ = ["GenaiRNNConfig"]

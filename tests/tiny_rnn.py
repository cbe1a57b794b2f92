"""Tiny recurrent models and batches for tests: one variant for each thing that a configuration can choose."""

import torch

from hf_genai import GenaiRNNConfig

SIZES = {"vocab_size": 19, "hidden_size": 8, "dropout": 0.0}
ONE_WAY = {"bidirectional_encoder": False}
TWO_LAYERS = {"encoder_layers": 2, "decoder_layers": 2}
TWO_VOCABULARIES = {"share_encoder_decoder_embeddings": False, "source_vocab_size": 23}

# Together they have each cell, score, position, depth, direction, kind of tying and of vocabulary in them.
ENCODER_DECODERS = {
    "gru, additive after": {},
    "gru, additive fed, two layers": {"input_feeding": True, **TWO_LAYERS},
    "gru, additive before, two layers": {"attention_position": "before", **TWO_LAYERS},
    "lstm, general fed, reversed source": {
        **{"cell_type": "lstm", "attention_type": "general", "input_feeding": True, "reverse_source": True, **ONE_WAY},
        **{"share_encoder_decoder_embeddings": False},
    },
    "lstm, scaled dot before": {"cell_type": "lstm", "attention_type": "scaled_dot", "attention_position": "before"},
    "lstm, dot after, two layers one way": {"cell_type": "lstm", "attention_type": "dot", **TWO_LAYERS, **ONE_WAY},
    "gru, general before, two vocabularies, sizes of their own": {
        **{"attention_type": "general", "attention_position": "before", "tie_word_embeddings": False},
        **{"embedding_size": 6, "encoder_hidden_size": 10, **TWO_VOCABULARIES},
    },
    "gru, none before, two vocabularies": {
        **{"attention_type": "none", "attention_position": "before", **TWO_VOCABULARIES}
    },
    "lstm, none after, untied": {
        **{"cell_type": "lstm", "attention_type": "none", "tie_word_embeddings": False, **TWO_LAYERS}
    },
}
# What a language model and the classifiers have of all that.
STACKS = {
    "gru, two layers": TWO_LAYERS,
    "lstm, untied, one way": {"cell_type": "lstm", "tie_word_embeddings": False, **ONE_WAY},
}


def tiny_config(variant: dict | None = None, **more) -> GenaiRNNConfig:
    return GenaiRNNConfig(**{**SIZES, **(variant or {}), **more})


def loud(model, std: float = 0.7, seed: int = 0):
    """Give a model large weights, so that what it writes depends on what it reads; return it in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape, dtype=torch.float32).normal_(std=std, generator=generator)
            parameter.copy_(noise)
    return model.eval()


def tiny_model(model_class, variant: dict | None = None, seed: int = 0, std: float = 0.7, **more):
    """A loud model of a class."""
    torch.manual_seed(seed)
    return loud(model_class(tiny_config(variant, **more)), std, seed)


def ragged(batch: int, longest: int, vocab_size: int, side: str = "right", seed: int = 0, shortest: int = 2):
    """Return ids (batch, longest) of several lengths, each row different, and their mask; padded with 0 on a side."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (batch,), generator=generator)
    lengths[0] = longest
    ids = torch.randint(3, vocab_size, (batch, longest), generator=generator)
    mask = torch.arange(longest) < lengths[:, None]
    if side == "left":
        mask = mask.flip(1)
    return ids * mask, mask.long()

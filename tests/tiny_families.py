"""One tiny model of each Transformer family, modern and classic, with a batch for it."""

import torch

import hf_genai

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
SPECIAL = {
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
DEPTH = {"T5": {"encoder_layers": 2, "decoder_layers": 2, "decoder_start_token_id": 1}}
HEAD = {"BERT": "GenaiBertForMaskedLM", "GPT": "GenaiGPTForCausalLM", "T5": "GenaiT5ForConditionalGeneration"}
NO_DROPOUT = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout_prob"), 0.0)


def make(family: str, layout: str = "modern", head: str | None = None, **options):
    """Return a model in evaluation mode with random weights, the same each time."""
    config_class = getattr(hf_genai, HEAD[family].split("For")[0] + "Config")
    depth = DEPTH.get(family, {"num_hidden_layers": 2})
    fields = {**SIZES, **SPECIAL, **depth, **NO_DROPOUT, **options}
    config = config_class(**fields) if layout == "modern" else config_class.classic(**fields)
    torch.manual_seed(0)
    return getattr(hf_genai, head or HEAD[family])(config).eval()


def batch_of(family: str, length: int = 7, rows: int = 2) -> dict:
    """Return ids with a row of padding at the end of the second text, and labels."""
    ids = torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask, "labels": labels}

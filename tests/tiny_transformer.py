"""Tiny Transformers for tests: a few layouts that together have every choice of a configuration in them."""

SIZES = {
    **{"vocab_size": 19, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24},
    **{"max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LAYERS = {"num_hidden_layers": 2}
HALVES = {"encoder_layers": 2, "decoder_layers": 2}

POST_NORM = {
    **{"attention_type": "additive", "position_embedding_type": "sinusoidal", "norm_position": "post"},
    **{"norm_type": "layer_norm", "hidden_act": "relu", "gated_mlp": False, "mlp_bias": True},
    **{"num_key_value_heads": 1, "head_dim": 6},
}
RELATIVE = {
    **{"attention_type": "dot", "position_embedding_type": "relative_bias", "relative_attention_num_buckets": 8},
    **{"relative_attention_max_distance": 12, "hidden_act": "gelu", "tie_word_embeddings": False},
    **{"attention_bias": True},
}
# GPT-2, BERT and T5 as `classic()` makes them, without the sizes that `SIZES` gives
LEARNED = {
    **{"position_embedding_type": "learned", "norm_type": "layer_norm", "gated_mlp": False},
    **{"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
}
GPTS = {
    "modern": LAYERS,
    "classic": {**LAYERS, **LEARNED, "hidden_act": "gelu_pytorch_tanh"},
    "additive, sinusoidal, post-norm": {**LAYERS, **POST_NORM},
    "dot, relative, untied": {**LAYERS, **RELATIVE},
}
BERTS = {
    "modern": LAYERS,
    "classic": {**LAYERS, **LEARNED, "hidden_act": "gelu", "norm_position": "post"},
    "roberta, no token types": {
        **{**LAYERS, **LEARNED, "norm_position": "post", "position_offset": 1},
        **{"type_vocab_size": 0, "tie_word_embeddings": False, "pooler_act": "relu"},
    },
    "additive, sinusoidal, post-norm": {**LAYERS, **POST_NORM, "type_vocab_size": 1, "norm_embeddings": False},
    "dot, relative, untied": {**LAYERS, **RELATIVE, "norm_embeddings": False},
}
T5S = {
    "modern": HALVES,
    "classic": {
        **{**HALVES, **RELATIVE, "hidden_act": "relu", "gated_mlp": False, "num_key_value_heads": 4},
        **{"attention_bias": False, "tie_word_embeddings": True, "scale_decoder_outputs": True},
    },
    "learned, untied, of two depths": {
        **{**LEARNED, "tie_word_embeddings": False, "hidden_act": "gelu"},
        **{"encoder_layers": 1, "decoder_layers": 2},
    },
    "additive, sinusoidal, post-norm": {**HALVES, **POST_NORM},
}

"""What transformers' own common tests are told about our families; each skip and each override says why.

A recurrent family appears three times, because the common tests take a family to be of one kind: as encoder-decoder,
as encoder with classification heads, and as language model.
"""

from suite_spec import Family

SIZES = {"vocab_size": 99, "hidden_size": 32, "encoder_layers": 2, "decoder_layers": 2}


def check_states(self, batch_size, past_key_values, seq_length, config):
    """A recurrent cache holds a state a layer, whatever the length of the text."""
    cache = getattr(past_key_values, "self_attention_cache", past_key_values)
    self.assertEqual(len(cache), config.num_hidden_layers)
    self.assertEqual(cache.get_seq_length(), seq_length)
    for layer in cache.layers:
        slots = 2 if config.cell_type == "lstm" else 1
        self.assertEqual(layer.state.shape, (batch_size, slots, config.hidden_size))


def check_equal_states(self, one, two):
    one, two = (getattr(cache, "self_attention_cache", cache) for cache in (one, two))
    self.assertEqual(len(one), len(two))
    for first, second in zip(one.layers, two.layers, strict=True):
        self.assertEqual(first.get_seq_length(), second.get_seq_length())
        self.assertTrue((first.state - second.state).abs().max() < 1e-5)


# A recurrent model has no heads to count; rwkv and mamba name the same two.
PROPERTIES = {"common_properties": ["hidden_size", "num_hidden_layers"]}
# The common tests ask families whose cache is not keys and values for these two.
RECURRENT = {"_check_past_key_values_for_generate": check_states, "_check_caches_are_equal": check_equal_states}


def families():
    import hf_genai

    return [
        Family(
            name="genai_rnn",
            kind="recurrent-encoder-decoder",
            config_class=hf_genai.GenaiRNNConfig,
            config_kwargs=SIZES,
            base=hf_genai.GenaiRNNModel,
            heads={"seq2seq_lm": hf_genai.GenaiRNNForConditionalGeneration},
            # The tests want self-attention and cross-attention weights, or none: a recurrent decoder has the latter
            # alone. tests/models/test_rnn.py holds cross_attentions to the shapes and sums that the flag switches off
            # here.
            config_tester=PROPERTIES,
            flags={"has_attentions": False},
            override=RECURRENT,
        ),
        Family(
            name="genai_rnn_encoder",
            kind="encoder",
            config_class=hf_genai.GenaiRNNConfig,
            config_kwargs={**SIZES, "is_encoder_decoder": False},
            base=hf_genai.GenaiRNNModel,
            heads={
                "sequence_classification": hf_genai.GenaiRNNForSequenceClassification,
                "token_classification": hf_genai.GenaiRNNForTokenClassification,
            },
            config_tester=PROPERTIES,
            flags={"has_attentions": False},  # a recurrent encoder has no attention at all
        ),
        Family(
            name="genai_rnn_decoder",
            kind="recurrent-decoder",
            config_class=hf_genai.GenaiRNNConfig,
            config_kwargs={**SIZES, "is_encoder_decoder": False, "is_decoder": True},
            base=hf_genai.GenaiRNNModel,
            heads={"causal_lm": hf_genai.GenaiRNNForCausalLM},
            config_tester=PROPERTIES,
            flags={"has_attentions": False},  # without a source there is nothing to attend to
            override=RECURRENT,
        ),
    ]

"""What transformers' own common tests are told about our families; each skip and each override says why.

A recurrent family appears three times, because the common tests take a family to be of one kind: as encoder-decoder,
as encoder with classification heads, and as language model.
"""

from types import SimpleNamespace

import torch
from suite_spec import Family, default_inputs

SMALL = {
    **{"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
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


# Rotary positions have no longest text, but the text-generation test wants one of all models that are not in a list of
# names.
LONGEST_TEXT = {"position_embedding_type": "learned"}
# A recurrent model has no heads to count; rwkv and mamba name the same two.
PROPERTIES = {"common_properties": ["hidden_size", "num_hidden_layers"]}
# The common tests ask families whose cache is not keys and values for these two.
RECURRENT = {"_check_past_key_values_for_generate": check_states, "_check_caches_are_equal": check_equal_states}


def started_inputs(tester, config):
    """The decoder's input begins with its start token: else `generate` puts one before it, of which the mask that the
    test of continued generation makes knows nothing."""
    inputs = default_inputs(SimpleNamespace(modality="text", is_encoder_decoder=True), tester, config)
    inputs["decoder_input_ids"][:, 0] = config.decoder_start_token_id
    inputs["decoder_attention_mask"][:, 0] = 1
    return inputs


def both_labels(tester, config, inputs):
    """Pretraining predicts words and the relation of sentences, which the common tests do not know of."""
    return {
        "labels": torch.zeros(tester.batch_size, tester.seq_length, dtype=torch.long),
        "next_sentence_label": torch.zeros(tester.batch_size, dtype=torch.long),
    }


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
        Family(
            name="genai_bert",
            kind="encoder",
            config_class=hf_genai.GenaiBertConfig,
            config_kwargs={**SMALL, "num_hidden_layers": 2},
            base=hf_genai.GenaiBertModel,
            heads={
                "masked_lm": hf_genai.GenaiBertForMaskedLM,
                "pretraining": hf_genai.GenaiBertForPreTraining,
                "next_sentence_prediction": hf_genai.GenaiBertForNextSentencePrediction,
                "multiple_choice": hf_genai.GenaiBertForMultipleChoice,
                "question_answering": hf_genai.GenaiBertForQuestionAnswering,
                "sequence_classification": hf_genai.GenaiBertForSequenceClassification,
                "token_classification": hf_genai.GenaiBertForTokenClassification,
                # last: some tests make the next class with the configuration of this one, which says is_decoder
                "causal_lm": hf_genai.GenaiBertForCausalLM,
            },
            labels={"GenaiBertForPreTraining": both_labels},
            pipeline_config_kwargs=LONGEST_TEXT,
        ),
        Family(
            name="genai_bert_classic",
            kind="encoder",
            config_class=hf_genai.GenaiBertConfig,
            config_kwargs=SMALL,
            config_fn=lambda: hf_genai.GenaiBertConfig.classic(**SMALL, num_hidden_layers=2, type_vocab_size=16),
            # One configuration serves rotary and learned positions; these have no frequencies to scale.
            skip={
                f"test_model_rope_scaling_from_config_{name}": "learned positions have no rotary frequencies"
                for name in ("0_linear", "1_dynamic", "2_yarn")
            },
            base=hf_genai.GenaiBertModel,
            heads={
                "masked_lm": hf_genai.GenaiBertForMaskedLM,
                "pretraining": hf_genai.GenaiBertForPreTraining,
                "next_sentence_prediction": hf_genai.GenaiBertForNextSentencePrediction,
                "multiple_choice": hf_genai.GenaiBertForMultipleChoice,
                "question_answering": hf_genai.GenaiBertForQuestionAnswering,
                "sequence_classification": hf_genai.GenaiBertForSequenceClassification,
                "token_classification": hf_genai.GenaiBertForTokenClassification,
                # last: some tests make the next class with the configuration of this one, which says is_decoder
                "causal_lm": hf_genai.GenaiBertForCausalLM,
            },
            labels={"GenaiBertForPreTraining": both_labels},
        ),
        Family(
            name="genai_gpt",
            kind="decoder",
            config_class=hf_genai.GenaiGPTConfig,
            config_kwargs={**SMALL, "num_hidden_layers": 2},
            base=hf_genai.GenaiGPTModel,
            heads={
                "causal_lm": hf_genai.GenaiGPTForCausalLM,
                "question_answering": hf_genai.GenaiGPTForQuestionAnswering,
                "sequence_classification": hf_genai.GenaiGPTForSequenceClassification,
                "token_classification": hf_genai.GenaiGPTForTokenClassification,
            },
            pipeline_config_kwargs=LONGEST_TEXT,
        ),
        Family(
            name="genai_t5",
            kind="encoder-decoder",
            config_class=hf_genai.GenaiT5Config,
            config_kwargs={**SMALL, "encoder_layers": 2, "decoder_layers": 2},
            base=hf_genai.GenaiT5Model,
            heads={
                "seq2seq_lm": hf_genai.GenaiT5ForConditionalGeneration,
                "question_answering": hf_genai.GenaiT5ForQuestionAnswering,
                "sequence_classification": hf_genai.GenaiT5ForSequenceClassification,
            },
            inputs=started_inputs,
            skip={
                f"test_model_rope_scaling_from_config_{name}": (
                    "scales get_text_config(decoder=True), which is a copy where an encoder-decoder has one"
                    " configuration for both sides: tests/models/test_positions.py scales the configuration itself"
                )
                for name in ("0_linear", "1_dynamic", "2_yarn")
            },
        ),
        Family(
            name="genai_t5_encoder",
            kind="encoder",
            config_class=hf_genai.GenaiT5Config,
            # as transformers' own tests of T5's encoder alone do
            config_kwargs={**SMALL, "encoder_layers": 2, "decoder_layers": 2, "is_encoder_decoder": False},
            base=hf_genai.GenaiT5EncoderModel,
            heads={"token_classification": hf_genai.GenaiT5ForTokenClassification},
        ),
    ]

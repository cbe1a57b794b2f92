"""The arguments of each model's `forward`, as users, Trainer, PEFT and torch.export read them off the class."""

import inspect

import pytest

import hf_genai

# class -> its arguments in the order in which they may be given by position
ARGUMENTS = {
    "GenaiBertForCausalLM": (
        "input_ids attention_mask token_type_ids position_ids inputs_embeds encoder_hidden_states "
        "encoder_attention_mask labels cache use_cache logits_to_keep skip_logits"
    ),
    "GenaiBertForMaskedLM": "input_ids attention_mask token_type_ids position_ids inputs_embeds labels skip_logits",
    "GenaiBertForMultipleChoice": "input_ids attention_mask token_type_ids position_ids inputs_embeds labels",
    "GenaiBertForNextSentencePrediction": "input_ids attention_mask token_type_ids position_ids inputs_embeds labels",
    "GenaiBertForPreTraining": (
        "input_ids attention_mask token_type_ids position_ids inputs_embeds labels next_sentence_label skip_logits"
    ),
    "GenaiBertForQuestionAnswering": (
        "input_ids attention_mask token_type_ids position_ids inputs_embeds start_positions end_positions"
    ),
    "GenaiBertForSequenceClassification": "input_ids attention_mask token_type_ids position_ids inputs_embeds labels",
    "GenaiBertForTokenClassification": "input_ids attention_mask token_type_ids position_ids inputs_embeds labels",
    "GenaiBertModel": (
        "input_ids attention_mask token_type_ids position_ids inputs_embeds encoder_hidden_states "
        "encoder_attention_mask cache use_cache"
    ),
    "GenaiGPTForCausalLM": (
        "input_ids attention_mask position_ids cache inputs_embeds encoder_hidden_states encoder_attention_mask "
        "labels use_cache logits_to_keep skip_logits"
    ),
    "GenaiGPTForQuestionAnswering": (
        "input_ids attention_mask position_ids inputs_embeds start_positions end_positions"
    ),
    "GenaiGPTForSequenceClassification": "input_ids attention_mask position_ids cache inputs_embeds labels use_cache",
    "GenaiGPTForTokenClassification": "input_ids attention_mask position_ids inputs_embeds labels",
    "GenaiGPTModel": (
        "input_ids attention_mask position_ids cache inputs_embeds encoder_hidden_states encoder_attention_mask "
        "use_cache"
    ),
    "GenaiRNNForCausalLM": (
        "input_ids attention_mask cache inputs_embeds labels use_cache output_hidden_states logits_to_keep skip_logits"
    ),
    "GenaiRNNForConditionalGeneration": (
        "input_ids attention_mask decoder_input_ids decoder_attention_mask encoder_outputs cache inputs_embeds "
        "decoder_inputs_embeds labels use_cache output_attentions output_hidden_states logits_to_keep skip_logits"
    ),
    "GenaiRNNForSequenceClassification": "input_ids attention_mask inputs_embeds labels output_hidden_states",
    "GenaiRNNForTokenClassification": "input_ids attention_mask inputs_embeds labels output_hidden_states",
    "GenaiRNNModel": (
        "input_ids attention_mask decoder_input_ids decoder_attention_mask encoder_outputs cache inputs_embeds "
        "decoder_inputs_embeds use_cache output_attentions output_hidden_states"
    ),
    "GenaiT5EncoderModel": "input_ids attention_mask inputs_embeds",
    "GenaiT5ForConditionalGeneration": (
        "input_ids attention_mask decoder_input_ids decoder_attention_mask encoder_outputs cache inputs_embeds "
        "decoder_inputs_embeds labels use_cache logits_to_keep skip_logits"
    ),
    "GenaiT5ForQuestionAnswering": (
        "input_ids attention_mask decoder_input_ids decoder_attention_mask encoder_outputs inputs_embeds "
        "decoder_inputs_embeds start_positions end_positions use_cache"
    ),
    "GenaiT5ForSequenceClassification": (
        "input_ids attention_mask decoder_input_ids decoder_attention_mask encoder_outputs inputs_embeds "
        "decoder_inputs_embeds labels use_cache"
    ),
    "GenaiT5ForTokenClassification": "input_ids attention_mask inputs_embeds labels",
    "GenaiT5Model": (
        "input_ids attention_mask decoder_input_ids decoder_attention_mask encoder_outputs cache inputs_embeds "
        "decoder_inputs_embeds decoder_position_ids use_cache"
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_keep_their_order(name):
    parameters = inspect.signature(getattr(hf_genai, name).forward).parameters.values()
    positional = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert " ".join(positional[1:]) == ARGUMENTS[name]
    assert all(
        parameter.default is not parameter.empty for parameter in parameters if parameter.name in positional[1:]
    )
    keywords = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    # PEFT looks for the cache's old name
    assert keywords == (["past_key_values"] if "cache" in positional else [])


def test_every_model_is_in_the_table():
    models = {name for name in hf_genai.__all__ if hasattr(getattr(hf_genai, name), "forward")}
    assert models == set(ARGUMENTS)


def test_a_classification_head_without_classify_says_what_is_missing():
    from hf_genai.models.heads import SequenceClassificationHead

    class Unfinished(SequenceClassificationHead):
        """A head that a family has not finished."""

    head = Unfinished.__new__(Unfinished)
    with pytest.raises(TypeError, match=r"Unfinished must define classify\("):
        head.classify(outputs=None, input_ids=None, attention_mask=None)

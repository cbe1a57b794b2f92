"""`fast_generate`: a decode loop of our own behind transformers' `generate()`."""

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.generation import (
    EosTokenCriteria,
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers.generation.configuration_utils import GenerationMode
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from ..models.base import cache_of
from ..models.fast_path import fast_path_allowed
from ..models.matmul import Linear, is_hooked
from ..models.token_step import steppable
from ..private_names import attention_of
from .search import Search, search_by_beams, search_by_token
from .steps import ModelSteps, Steps, TransformerSteps
from .weights import PACKERS, packed_weights

MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH)
# Processors that treat each row for itself, wherever it stands in the batch; with others no row leaves it early.
ROW_WISE = {
    *("MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor"),
    *("NoRepeatNGramLogitsProcessor", "NoBadWordsLogitsProcessor", "SequenceBiasLogitsProcessor"),
    *("SuppressTokensLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor", "ForcedBOSTokenLogitsProcessor"),
    *("ForcedEOSTokenLogitsProcessor", "InfNanRemoveLogitsProcessor", "LogitNormalization"),
}


def fast_generate(
    model: Any,
    input_ids: Any,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: Any = None,
    dtype: str = "float32",
    **model_kwargs: Any,
):
    """Decode as `generate()` does, faster: `model.generate(..., custom_generate=hf_genai.fast_generate)`.

    Greedy search, sampling and beam search write the tokens that plain `generate()` writes. A `GenaiGPTForCausalLM` or
    `GenaiT5ForConditionalGeneration` in float32 on a CPU runs by packed weights, kept from call to call until the
    model changes (a second copy of the weights in memory, a third where batches of one and of many rows alternate);
    any other model runs by its own forward. Sampling with a seed draws the same tokens.

    transformers keeps `streamer`, `assistant_model` and `tokenizer` from a custom loop: text is not streamed here, no
    assistant is asked (its answers would be the same), and instead of `stop_strings` it takes
    `stopping_criteria=[StopStringCriteria(tokenizer, strings)]`. With `return_dict_in_generate` the output holds
    `sequences` and, of beams, `sequences_scores`; no cache comes with it.

    Args:
        dtype: in which the layers and the head multiply: "float32", or, for faster and slightly other results,
            "bfloat16" or "int8" (weights with a scale for each output, activations with one for all rows of a step, or
            in bfloat16 where there is one row, so that a text can depend on what it is batched with). The prompt is
            read in float32 in any case.

    Raises:
        ValueError: for a search, an output or a cache that it does not offer, and for a dtype that the model or the
            machine cannot decode in.
    """
    sharded = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)
    check_options(generation_config, model_kwargs, synced_gpus or sharded)
    beams = generation_config.num_beams
    steps = choose_steps(model, model_kwargs, beams, dtype)
    eos, pad = generation_config.eos_token_id, generation_config.pad_token_id
    eos = None if eos is None else torch.as_tensor(eos).flatten().tolist()
    pad = eos[0] if pad is None and eos else pad  # as generate() has it
    # the caller's own criteria of length and end tokens stand in the place of the configuration's
    ends = next((c for c in stopping_criteria if type(c) is EosTokenCriteria), None)
    max_length = max(generation_config.max_length, stopping_criteria.max_length)
    lengths = [c for c in stopping_criteria if type(c) is MaxLengthCriteria and c.max_length == max_length]
    custom = [c for c in stopping_criteria if c not in (ends, *lengths)]
    pad_id: int | None = 0 if pad is None else int(pad)
    if beams > 1:
        # transformers' fill: the pad token, unless that is token 0
        pad_id = -1 if eos is None else pad_id or int(eos[0])
    elif not any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria):
        pad_id = None
    row_wise = not custom and all(type(p).__name__ in ROW_WISE for p in logits_processor)
    search = Search(
        max_length=max_length,
        eos_ids=None if ends is None else ends.eos_token_id.to(input_ids.device),
        pad_id=pad_id,
        process=logits_processor if len(logits_processor) else None,
        stop=StoppingCriteriaList(custom) if custom else None,
        rows_are_free=row_wise and not generation_config.do_sample,
        do_sample=generation_config.do_sample,
        beams=beams,
        candidates=max(2, 1 + (0 if eos is None else len(eos))) * beams,
        length_penalty=generation_config.length_penalty,
        early_stopping=generation_config.early_stopping,
        texts_per_sentence=generation_config.num_return_sequences,
    )
    encoder_decoder = model.config.is_encoder_decoder
    if beams == 1:
        ids: Any = search_by_token(steps, input_ids, model_kwargs, search)
        if not generation_config.return_dict_in_generate:
            return ids
        return (GenerateEncoderDecoderOutput if encoder_decoder else GenerateDecoderOnlyOutput)(sequences=ids)
    ids, scores = search_by_beams(steps, input_ids, model_kwargs, search)
    if not generation_config.return_dict_in_generate:
        return ids
    output = GenerateBeamEncoderDecoderOutput if encoder_decoder else GenerateBeamDecoderOnlyOutput
    return output(sequences=ids, sequences_scores=scores)


def check_options(config: GenerationConfig, model_kwargs: dict[str, Any], synced_gpus: bool) -> None:
    """Refuse what this loop would otherwise pass over."""
    plain = "leave custom_generate out, plain generate() can"
    mode = config.get_generation_mode()
    if mode not in MODES:
        raise ValueError(f"fast_generate does greedy search, sampling and beam search, not {mode.value}: {plain}")
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name):
            raise ValueError(
                f"fast_generate keeps no {name.removeprefix('output_')} of its steps ({name}=True): {plain}"
            )
    if config.cache_implementation not in (None, "dynamic") or config.use_cache is False:
        raise ValueError(
            "fast_generate has a cache of its own: leave cache_implementation and use_cache unset, not"
            f" {config.cache_implementation!r} and {config.use_cache}"
        )
    if config.prefill_chunk_size is not None:
        raise ValueError(f"fast_generate reads a prompt at once, without prefill_chunk_size: {plain}")
    past = cache_of(model_kwargs)
    if past is not None and past.get_seq_length() > 0:
        raise ValueError(
            f"fast_generate starts from an empty cache, not from a given one (cache, past_key_values): {plain}"
        )
    if synced_gpus:
        raise ValueError(
            "fast_generate does not keep several processes in step, which synced_gpus=True and weights sharded by FSDP"
            f" or DeepSpeed need: {plain}"
        )


def choose_steps(model: Any, model_kwargs: dict[str, Any], beams: int, dtype: str) -> Steps:
    """Return packed steps where they compute what the model does, else steps by the model itself."""
    if dtype not in PACKERS:
        raise ValueError(f"dtype must be one of {', '.join(PACKERS)}, not {dtype!r}")
    reason = why_not_packed(model, model_kwargs)
    if reason is None:
        causal = model.config.model_type == "genai_gpt"
        stack = model.model if causal else model.model.decoder
        tokens = model.model.embed_tokens if causal else model.model.encoder.embed_tokens
        scale = 1.0 if causal or not model.config.scale_decoder_outputs else model.config.hidden_size**-0.5
        weights = packed_weights(model, stack.layers, model.lm_head, stack.config, dtype)
        return TransformerSteps(model, stack, tokens, weights, beams, scale)
    if dtype != "float32":
        raise ValueError(f"dtype={dtype!r} is not possible here: {reason}. Use dtype='float32'")
    return ModelSteps(model, beams)


def why_not_packed(model: Any, model_kwargs: dict[str, Any]) -> str | None:
    """Return why a model has to run by its own forward, or None."""
    if type(model).__name__ not in ("GenaiGPTForCausalLM", "GenaiT5ForConditionalGeneration"):
        return (
            f"packed steps are for GenaiGPTForCausalLM and GenaiT5ForConditionalGeneration, not {type(model).__name__}"
        )
    if model_kwargs.get("encoder_hidden_states") is not None:
        return "a decoder with encoder_hidden_states has no packed steps"
    if "prepare_inputs_for_generation" in vars(model):
        return "something puts its own inputs before the model's (a learned prompt or prefix)"
    if model.training:
        return "the model is in training mode (call model.eval())"
    stack = model.model if model.config.model_type == "genai_gpt" else model.model.decoder
    weight = model.lm_head.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not fast_path_allowed(*model.parameters()):
        return "packed steps need float32 weights on a CPU, without autocast or sharding"
    if attention_of(model.config) not in ("sdpa", "eager"):
        return f"packed steps replace attn_implementation 'sdpa' or 'eager', not {attention_of(model.config)!r}"
    known = type(model.lm_head) in (Linear, nn.Linear) and steppable(stack.layers)
    if not known or any(is_hooked(module) for module in model.modules()):
        return "a layer was replaced or is hooked (an adapter, a quantised layer, a recorder)"
    return None

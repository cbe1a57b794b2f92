"""The private names of other libraries that this package uses, each with its reason.

A release may move any of them without notice. Three files may use private names: this one,
`hf_genai/kernels/private_names.py`, and `hf_genai/models/base.py`, which travels with each model. `NAMES` lists the
private names of all three; a test looks each name up and says what to do when it is gone. `DECLARED` lists what the
libraries' documentation asks a subclass or dataclass to define.
"""

import os
from typing import Any

# where it is found -> why, and what to do when it is gone
NAMES = {
    # of hf_genai/models/base.py and hf_genai/kernels/private_names.py
    "torch.Tensor._version": (
        "tells whether a weight changed in place since it was packed. Gone: compare sums of the weights"
    ),
    **dict.fromkeys(
        (
            "torch.ops.mkldnn._linear_pointwise",
            "torch.ops.mkldnn._reorder_linear_weight",
            "torch.ops.mkldnn._is_mkldnn_bf16_supported",
        ),
        "oneDNN's product with an activation drawn in, its layout of weights, and whether it takes bfloat16. Gone: "
        "nothing to do, `packing_works` and `matmul` ask first and fall back on torch's own product",
    ),
    "torch.ops.aten._softmax_backward_data": (
        "the gradient of softmax in one pass. Gone: (grad - (grad * weights).sum(-1, keepdim=True)) * weights"
    ),
    "torch._C._are_functorch_transforms_active": (
        "under vmap and grad of torch.func numbers cannot be looked at. Gone: test for their tensors, which print so"
    ),
    "torch.autograd.forward_ad._current_level": (
        "kernels have no derivative in forward mode. Gone: `forward_ad.unpack_dual` of each input"
    ),
    **dict.fromkeys(
        (
            "torch.nn.Module.register_forward_hook:_forward_hooks",
            "torch.nn.Module.register_forward_pre_hook:_forward_pre_hooks",
            "torch.nn.Module.register_full_backward_hook:_backward_hooks",
            "torch.nn.Module.register_full_backward_pre_hook:_backward_pre_hooks",
            "torch.nn.modules.module._has_any_global_hook",
        ),
        "a kernel may not stand in for a module that somebody watches. Gone: see what Module.__call__ asks",
    ),
    "transformers.PreTrainedConfig._attn_implementation": (
        "which attention a model runs; it can be set in public, but not read. Gone: find what "
        "`set_attn_implementation` writes"
    ),
    "transformers.PreTrainedModel._check_and_adjust_attn_implementation": (
        "the one place that every choice of attention passes. Gone: check in __init__ and set_attn_implementation"
    ),
    **dict.fromkeys(
        ("transformers.PreTrainedModel._get_resized_embeddings", "transformers.PreTrainedModel._get_resized_lm_head"),
        "resize one of two embedding tables, and its head; the public method knows one table. Gone: copy rows by hand",
    ),
    "transformers.generation.GenerationMixin._prefill": (
        "reads prompts in parts. Gone: see how generate() uses prefill_chunk_size"
    ),
    "transformers.generation.GenerationMixin._prepare_position_ids_for_generation": (
        "counts positions from 0, where RoBERTa's begin later. Gone: do it in prepare_inputs_for_generation"
    ),
    "transformers.modeling_utils.PreTrainedModel._initialize_weights:_is_hf_initialized": (
        "the mark of parameters that a checkpoint filled, which views of them lack. Gone: see what "
        "transformers.initialization asks"
    ),
    "accelerate.hooks.add_hook_to_module:_hf_hook": (
        "tells where accelerate runs a module whose weights are elsewhere. Gone: see accelerate.hooks"
    ),
    # of this file
    "os._exit": (
        "ends a process whose threads still compute, as its documentation says. Gone: kill the process by a signal"
    ),
    "torch._weight_int8pack_mm": (
        "the one product of bfloat16 rows and 8-bit weights. Gone: nothing to do, `mixed_product_works` tells and the "
        "row is quantised"
    ),
    "torch.cpu._is_vnni_supported": (
        "torch before 2.13 has no torch.cpu.get_capabilities. Gone: nothing to do, that one is asked first"
    ),
    "transformers.AutoModel._model_mapping": (
        "what an Auto class opens; the exported tables (MODEL_MAPPING, ...) have other names than the classes. Gone: "
        "write a table from Auto classes to those exports here"
    ),
    "transformers.generation.GenerationMixin._update_model_kwargs_for_generation": (
        "what of a step's outputs goes into the next one; models override it. Gone: see what a decode loop of "
        "transformers calls in its place"
    ),
    **dict.fromkeys(
        (
            "transformers.utils.hub.cached_files:_raise_exceptions_for_missing_entries",
            "transformers.utils.hub.cached_files:_raise_exceptions_for_connection_errors",
        ),
        "tell a file that is not there from one that could not be read, which are one OSError without them. Gone: "
        "catch that OSError where nothing could be read before either",
    ),
    **dict.fromkeys(
        (
            "transformers.Pipeline.__init__:_generate_kwargs",
            "transformers.Pipeline.__init__:_generation_defaults",
            "transformers.Pipeline._prepare_generate_kwargs",
        ),
        "what a pipeline was given for generate() when it was made, the defaults under that, and what joins them. "
        "Gone: see what TextGenerationPipeline does",
    ),
    **dict.fromkeys(
        ("transformers.Pipeline.__init__:_preprocess_params", "transformers.Pipeline.__init__:_forward_params"),
        "the arguments that each call gets, which depend on the model's config here. Gone: give them in __call__",
    ),
    "transformers.Trainer._get_train_sampler": (
        "the order of training rows; get_train_dataloader would have to be copied whole. Gone: find what calls "
        "LengthGroupedSampler in transformers/trainer.py"
    ),
    "transformers.Trainer._issue_warnings_after_load": (
        "reports tied weights as missing. Gone: look whether transformers still does, else drop TrainerHooks's method"
    ),
    "transformers.Trainer._save_checkpoint": (
        "on_save comes after older checkpoints were deleted. Gone: find what writes checkpoint-N in "
        "transformers/trainer.py"
    ),
    "transformers.Trainer._get_output_dir": (
        "the folder of a trial in a search of hyperparameters. Gone: args.output_dir is right without such a search"
    ),
    "transformers.cli.serve.Serve.__init__:_generation_state": (
        "stops the worker of continuous batching, which no public method does. Gone: look whether `hf-genai serve` "
        "ends by itself on SIGINT"
    ),
    "transformers.cli.serve.Serve.__init__:_model_manager": (
        "has the model that `hf-genai serve` answers with, whose positions and tokenizer limit a prompt. Gone: open "
        "both a second time, with AutoTokenizer and AutoConfig"
    ),
    "evaluate.Metric._build_data_dir": (
        "makes a folder in the cache even for a metric in memory. Gone: see whether `Bleu()` still makes one, else "
        "drop MetricHooks"
    ),
    "datasets.Dataset.__init__:_fingerprint": (
        "names the state of a dataset, as the documentation of its cache does; hashing the rows reads all. Gone: "
        "Hasher.hash(dataset.cache_files)"
    ),
}

# names of loggers that drop what they say of an unused torchao; without them it is shown again
TORCHAO_LOGGERS = ("torchao", "torch.utils._pytree")

# class -> what its documentation asks subclasses to define
DECLARED = {
    "transformers.PreTrainedModel": (
        *("_no_split_modules", "_skip_keys_device_placement", "_tied_weights_keys", "_can_record_outputs"),
        *("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "_supports_attention_backend"),
        *("_can_compile_fullgraph", "_supports_context_parallel", "_init_weights"),
        *("_tp_plan", "_pp_plan", "_fsdp_plan"),
    ),
    "transformers.PreTrainedConfig": ("_auto_class",),
    "transformers.CacheLayerMixin": ("_layer_type",),
    "evaluate.Metric": ("_info", "_compute"),
    "transformers.Pipeline": ("_sanitize_parameters", "_forward", "_pipeline_calls_generate"),
    "transformers.HfArgumentParser": ("_argument_group_name",),  # of a dataclass: the title of its options
}


def weight_int8pack_mm(x: Any, weight: Any, scales: Any) -> Any:
    """Return the product of bfloat16 rows (1, K) and 8-bit weights (N, K) with a scale for each output.

    Raises:
        AttributeError: if this torch has none.
    """
    import torch

    return torch._weight_int8pack_mm(x, weight, scales)


def vnni_supported() -> bool:
    """Return whether this CPU adds up 8-bit products in 32 bits at once, as far as torch tells."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_vnni"))
    tell = getattr(torch.cpu, "_is_vnni_supported", None)
    return tell is not None and bool(tell())


def attention_of(config: Any) -> str | None:
    """Return the name of the attention implementation that a model with this configuration runs."""
    return config._attn_implementation


def models_of(auto_class: Any) -> Any:
    """Return what an Auto class opens, as a mapping from configuration to model classes."""
    return getattr(auto_class, "_model_mapping", {})


def file_if_there(folder_or_repo: Any, name: str, **options: Any) -> str | None:
    """Return the path of a file of a folder or repository, or None if it has none.

    Without a network the cache answers.
    """
    from transformers.utils import cached_file

    options |= {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(folder_or_repo, name, **options)


def inputs_of_next_step(model: Any, outputs: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what the next step of generation is given besides the tokens: the cache, a longer mask, ..."""
    is_encoder_decoder = model.config.is_encoder_decoder
    return model._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=is_encoder_decoder)


def generate_arguments(pipeline: Any) -> dict[str, Any]:
    """Return what a pipeline was given for generate() when it was made."""
    return pipeline._generate_kwargs


def generation_defaults(pipeline: Any) -> dict[str, Any]:
    """Return what a pipeline gives to generate() where neither its maker nor the call says more: to be changed."""
    return pipeline._generation_defaults


def with_generation_config(pipeline: Any, generate_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of generate() with the pipeline's defaults among them."""
    return pipeline._prepare_generate_kwargs(generate_kwargs)


def set_pipeline_defaults(pipeline: Any, preprocess: dict[str, Any], forward: dict[str, Any]) -> None:
    """Give each call of a pipeline these arguments, unless it or the maker gave others."""
    pipeline._preprocess_params = {**preprocess, **pipeline._preprocess_params}
    pipeline._forward_params = {**forward, **pipeline._forward_params}


def fingerprint_of(dataset: Any) -> str:
    """Return the name of a dataset's state: equal for equal rows that were made in equal steps."""
    return dataset._fingerprint


def stop_serving(server: Any) -> None:
    """Stop the worker of transformers' server, if it has started one: it keeps the process alive."""
    if hasattr(server, "_generation_state"):
        server._generation_state.shutdown()


def end_process(code: int) -> None:
    """End the process at once, whatever its threads do."""
    os._exit(code)


def model_served(server: Any) -> tuple[Any, Any]:
    """Return the model that transformers' server has opened, and its tokenizer or processor."""
    (opened,) = server._model_manager.loaded_models.values()
    return opened.model, opened.processor


class TrainerHooks:
    """Stands before transformers.Trainer in a class's bases and gives what it overrides public names."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.arrange(super()._get_train_sampler(train_dataset))  # type: ignore[misc]

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        self.forgive_missing(load_result)
        super()._issue_warnings_after_load(load_result)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        def write():
            super(TrainerHooks, self)._save_checkpoint(model, trial)  # type: ignore[misc]

        self.save_whole_checkpoint(self._get_output_dir(trial=trial), write)  # type: ignore[attr-defined]

    def arrange(self, sampler: Any) -> Any:
        """Return the sampler of training rows to use in the place of transformers'."""
        return sampler

    def forgive_missing(self, load_result: Any) -> None:
        """Take out of `load_result.missing_keys` what is not missing."""

    def save_whole_checkpoint(self, run: str, write: Any) -> None:
        """Call `write`, which writes a checkpoint into the folder `run` and deletes older ones."""
        write()


class MetricHooks:
    """Stands before evaluate.Metric in a class's bases: a metric that is kept in memory makes no folder."""

    def _build_data_dir(self) -> str:
        return "" if self.keep_in_memory else super()._build_data_dir()  # type: ignore[attr-defined, misc]


def find(name: str) -> Any:
    """Return what a dotted name of `NAMES` stands for; behind a colon stands a name that a function uses or takes.

    Raises:
        AttributeError: if it is gone.
        ImportError: if its module is gone.
    """
    import importlib

    name, _, used = name.partition(":")
    parts = name.split(".")
    found = None
    for place, part in enumerate(parts):
        if found is None or not hasattr(found, part):
            found = importlib.import_module(".".join(parts[: place + 1]))
        else:
            found = getattr(found, part)
    if used and used not in found.__code__.co_names + found.__code__.co_varnames:  # type: ignore[union-attr]
        raise AttributeError(used)
    return found

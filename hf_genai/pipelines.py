"""`pipeline("translation" | "summarization" | "text2text-generation" | "question-answering", model=...)`.

transformers 5 removed these tasks. They come back here on its own `Pipeline` class, with the results of transformers
4, for the models of this package and for T5, Marian, Bart, BERT and their kin; other tasks, such as
text-classification, go to `transformers.pipeline`; fill-mask, token-classification and text-generation do so with the
classes of text_pipelines.py.
"""

from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    Pipeline,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation import StopStringCriteria
from transformers.utils import logging

from .data.plain_text import check_characters, naming, read_prompts_as_text
from .data.tokenizers import TARGET_SUBFOLDER, load_tokenizers
from .evaluation.generation import default_length, encode_texts, is_blank, length_limit
from .evaluation.prefixes import TRANSLATION_PAIR, pairs_of, task_settings
from .loading import check_for_task, load_model
from .model_folder import check_json
from .private_names import generate_arguments, generation_defaults, set_pipeline_defaults, with_generation_config
from .question_answering import QuestionAnsweringPipeline
from .text_pipelines import PIPELINES, checked

logger = logging.get_logger(__name__)

# task -> first part of the keys of its results
RESULT_NAMES = {"translation": "translation", "summarization": "summary", "text2text-generation": "generated"}
SENTINELS = [f"<extra_id_{number}>" for number in range(300)]  # more than any T5 has
QUESTION_ANSWERING = "question-answering"


def pipeline(
    task: str | None = None,
    model: "str | Path | PreTrainedModel | None" = None,
    **kwargs: Any,
) -> Pipeline:
    """Return a pipeline for the task.

    Args:
        task: "translation" (or "translation_en_to_fr"), "summarization", "text2text-generation" or
            "question-answering"; any other name is handed to `transformers.pipeline` with all arguments.
        model: folder, repository on the Hub, or a model: an encoder-decoder, or one for question answering.
        kwargs: for the four tasks: tokenizer (name or object; needed with a model object, otherwise found beside the
            model; also target_tokenizer of an encoder-decoder), config, revision, token, trust_remote_code, dtype
            ("auto"), device, device_map, model_kwargs (for `from_pretrained`), and the arguments of the calls of
            `TextToTextPipeline` or `QuestionAnsweringPipeline` as defaults.

    Raises:
        ValueError: if the task is unknown, no model or tokenizer is given or found, the model does not fit, or a
            JSON file of its folder is broken.
    """
    for named in (model, kwargs.get("tokenizer"), kwargs.get("target_tokenizer")):
        if isinstance(named, (str, Path)) and Path(named).is_dir():
            check_json(Path(named))
    if task == QUESTION_ANSWERING:
        if kwargs.get("target_tokenizer") is not None:
            raise ValueError(f"target_tokenizer: {task} writes no text, so that it has no use for one")
        loaded, tokenizer, _, kwargs = _load(task, model, AutoModelForQuestionAnswering, **kwargs)
        return QuestionAnsweringPipeline(loaded, tokenizer, **kwargs)
    if task is None or _base_task(task) is None:
        if task in PIPELINES:
            kwargs.setdefault("pipeline_class", PIPELINES[task])
        if isinstance(model, (str, Path)):
            options = ("revision", "token", "trust_remote_code")
            check_for_task(task, model, **{key: kwargs[key] for key in options if key in kwargs})
        try:
            made: Any = transformers.pipeline(task, model=model, **kwargs)  # type: ignore[arg-type]
        except KeyError as error:
            if "Unknown task" not in str(error):
                raise
            ours = ", ".join([*RESULT_NAMES, QUESTION_ANSWERING])
            raise ValueError(f"task must be one of {ours} or one of transformers' own. {error}") from None
        if getattr(made.tokenizer, "split_special_tokens", False):
            read_prompts_as_text(made.tokenizer)  # some lose it when they are opened
        return made
    loaded, tokenizer, target_tokenizer, kwargs = _load(task, model, AutoModelForSeq2SeqLM, **kwargs)
    return TextToTextPipeline(loaded, tokenizer, target_tokenizer=target_tokenizer, task=task, **kwargs)


def _base_task(task: str) -> str | None:
    if TRANSLATION_PAIR.fullmatch(task):
        return "translation"
    return task if task in RESULT_NAMES else None


def _load(
    task: str,
    model: "str | Path | PreTrainedModel | None",
    auto_class: Any,
    *,
    tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    target_tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    config: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool | None = None,
    dtype: Any = "auto",
    device_map: Any = None,
    model_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return model, tokenizer, the outputs' tokenizer (None: none was given or found), and the other arguments."""
    if model is None:
        raise ValueError(f"model is needed for {task!r}: a folder, a repository or a model; there is no default")
    hub: dict[str, Any] = {"revision": revision, "token": token, "trust_remote_code": trust_remote_code}
    name = str(model) if isinstance(model, (str, Path)) else None
    if tokenizer is None and name is None:
        raise ValueError("tokenizer is needed with a model object: it cannot be found from the model")
    if tokenizer is None or isinstance(tokenizer, (str, Path)):
        place = str(model) if tokenizer is None else str(tokenizer)
        # a revision names a commit of the model's own repository
        own = hub if place == name else {**hub, "revision": None}
        try:
            tokenizer, found_target = load_tokenizers(place, **own)
        except (OSError, ValueError) as error:
            raise ValueError(f"no tokenizer could be loaded from {place!r}, pass tokenizer=...: {error}") from error
        _check_files(tokenizer, place)
        target_tokenizer = target_tokenizer or found_target
    if isinstance(target_tokenizer, (str, Path)):
        target_tokenizer = AutoTokenizer.from_pretrained(str(target_tokenizer), **{**hub, "revision": None})
    if name is not None:
        if device_map is not None:
            hub["device_map"] = device_map
        hub |= model_kwargs or {}
        loaded: Any = load_model(auto_class, name, config=config, dtype=dtype, **hub)
    else:
        given = {"config": config, "device_map": device_map, "model_kwargs": model_kwargs, "revision": revision}
        unused = [key for key, value in given.items() if value is not None] + (["dtype"] if dtype != "auto" else [])
        if unused:
            raise ValueError(f"{', '.join(unused)}: only for a model that is loaded by name, got a model object")
        loaded = model
    return loaded, tokenizer, target_tokenizer, kwargs


def _check_files(tokenizer: PreTrainedTokenizerBase, place: str) -> None:
    """AutoTokenizer makes an empty tokenizer, without a word, for a T5 or Bart folder that holds none."""
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if Path(place).is_dir() and not any((Path(place) / file).is_file() for file in files):
        raise ValueError(
            f"no tokenizer in the folder {place!r} (none of {', '.join(sorted(files))}): pass tokenizer=..."
        )


class TextToTextPipeline(Pipeline):
    """Text in, text out, through an encoder-decoder.

    Args:
        model: encoder-decoder that can generate.
        tokenizer: tokenizer of the sources.
        target_tokenizer: tokenizer of the outputs, tokenizer if None.
        task: "translation", "translation_xx_to_yy", "summarization" or "text2text-generation".
        kwargs: device, batch_size, and defaults for the arguments of `__call__`.

    Raises:
        ValueError: if the task is unknown, there is no tokenizer, or the model is no encoder-decoder.
    """

    tokenizer: Any
    _pipeline_calls_generate = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        target_tokenizer: PreTrainedTokenizerBase | None = None,
        task: str = "text2text-generation",
        **kwargs: Any,
    ):
        base_task = _base_task(task)
        if base_task is None:
            raise ValueError(f"task must be one of {', '.join(RESULT_NAMES)} or translation_xx_to_yy, got {task!r}")
        if tokenizer is None:
            raise ValueError(f"tokenizer is needed for {task!r}, got None")
        if not (model.config.is_encoder_decoder and model.can_generate()):
            raise ValueError(
                f"model must be an encoder-decoder that generates for {task!r}, got {type(model).__name__}; "
                'for a decoder alone use pipeline("text-generation")'
            )
        self.result_name = RESULT_NAMES[base_task]
        # prompts of a pretrained T5 name sentinels
        names_tokens = base_task == "text2text-generation" and not tokenizer.split_special_tokens
        self.reader = naming(tokenizer, SENTINELS) if names_tokens else None
        self.target_tokenizer = target_tokenizer or tokenizer
        super().__init__(
            model,
            tokenizer=tokenizer,  # type: ignore[arg-type]
            task=task,
            **kwargs,
        )
        if self.target_tokenizer.pad_token_id is not None:
            generation_defaults(self)["pad_token_id"] = self.target_tokenizer.pad_token_id
        task_params = self._task_params(task)
        prefix = task_params.pop("prefix", self.prefix)
        set_pipeline_defaults(self, preprocess={"prefix": prefix}, forward={"task_params": task_params})

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Return the generated texts under "translation_text", "summary_text" or "generated_text".

        A text without anything to read gets "", and the model is not asked.

        Args:
            inputs: one text, a list (or column) of texts, or a dataset or generator that yields texts.
            kwargs: batch_size; truncation (True: sources longer than the limit are cut, with a warning);
                max_source_length (in tokens; by default the limits of tokenizer and model); prefix (put before every
                source; by default what the model's config gives for the task, as T5's); src_lang and tgt_lang (for
                models of many languages); return_tensors (True: token ids, under "..._token_ids");
                clean_up_tokenization_spaces; every argument of `generate()`.

        Returns:
            For one text: a list with num_return_sequences dictionaries. For a list: one dictionary per text, or one
            list each if num_return_sequences is above 1. For a dataset or generator: an iterator over such lists.

        Raises:
            ValueError: if there is nothing in inputs, or it holds something other than texts, or a text has half of a
                surrogate pair.
        """
        if hasattr(inputs, "column_names"):
            raise ValueError(f"inputs must be texts: pass a column of the dataset, one of {inputs.column_names}")
        single = isinstance(inputs, str)
        if isinstance(inputs, Sized) and not len(inputs) and not single:
            raise ValueError("inputs must hold at least one text, got none")
        if not single and not isinstance(inputs, Dataset):
            if isinstance(inputs, dict) or not isinstance(inputs, Iterable):
                raise ValueError(f"inputs must be a text, or a list or iterator of texts, got {type(inputs).__name__}")
            inputs = checked(list(inputs) if isinstance(inputs, Sized) else iter(inputs))
        elif single:
            checked(inputs)
        results = super().__call__(inputs, **kwargs)
        if isinstance(inputs, list) and all(len(result) == 1 for result in results):
            return [result[0] for result in results]
        return results

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save model and tokenizers; a tokenizer for the outputs alone goes to the sub-folder target_tokenizer."""
        super().save_pretrained(save_directory, **kwargs)
        if self.target_tokenizer is not self.tokenizer:
            self.target_tokenizer.save_pretrained(Path(save_directory) / TARGET_SUBFOLDER)

    def _sanitize_parameters(
        self,
        truncation: bool | None = None,
        max_source_length: int | None = None,
        prefix: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        return_tensors: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess: dict[str, Any] = {"truncation": truncation, "max_source_length": max_source_length}
        postprocess = {
            "return_tensors": return_tensors,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }
        if src_lang is not None or tgt_lang is not None:
            language_prefix, task_params = self._language_params(src_lang, tgt_lang)
            preprocess |= {"src_lang": src_lang, "prefix": language_prefix}
            generate_kwargs["task_params"] = task_params
        if prefix is not None:
            preprocess["prefix"] = prefix
        # None leaves the default of the method
        preprocess, postprocess = (
            {key: value for key, value in params.items() if value is not None} for params in (preprocess, postprocess)
        )
        return preprocess, generate_kwargs, postprocess

    def _task_params(self, task: str) -> dict[str, Any]:
        """What the model's config says of the task: a prefix for its sources and arguments of generate()."""
        if settings := task_settings(self.model.config, task):
            return settings
        if task == "translation" and (pairs := pairs_of(self.model.config)):
            logger.warning(f"This model translates several languages: name the task, one of {', '.join(pairs)}.")
        match = TRANSLATION_PAIR.fullmatch(task)
        if match and hasattr(self.tokenizer, "src_lang"):
            self.tokenizer.src_lang = match[1]
            return {"forced_bos_token_id": self._language_id(match[2])}
        return {}

    def _language_params(self, src_lang: str | None, tgt_lang: str | None) -> tuple[str | None, dict[str, Any]]:
        if params := task_settings(self.model.config, f"translation_{src_lang}_to_{tgt_lang}"):
            return params.pop("prefix", None), params
        if hasattr(self.tokenizer, "src_lang"):
            if src_lang is not None:
                self._language_id(src_lang)
            return None, {} if tgt_lang is None else {"forced_bos_token_id": self._language_id(tgt_lang)}
        raise ValueError(
            f"src_lang and tgt_lang, got {src_lang!r} and {tgt_lang!r}: neither the tokenizer nor the model's "
            "config (task_specific_params) knows them"
        )

    def _language_id(self, language: str) -> Any:
        get_id = getattr(self.tokenizer, "get_lang_id", self.tokenizer.convert_tokens_to_ids)
        try:
            number = get_id(language)
        except KeyError:
            number = None
        if number is None or number == self.tokenizer.unk_token_id:
            raise ValueError(f"language {language!r} is not one of the tokenizer's")
        return number

    def preprocess(  # type: ignore[override]
        self,
        text: Any,
        truncation: bool = True,
        max_source_length: int | None = None,
        prefix: str | None = None,
        src_lang: str | None = None,
    ) -> dict[str, torch.Tensor]:
        if not isinstance(text, str):
            raise ValueError(f"inputs must be texts, got {type(text).__name__}: {text!r:.80}")
        check_characters(text, f"the text {text!r:.40}")
        if src_lang is not None and hasattr(self.tokenizer, "src_lang"):
            self.tokenizer.src_lang = src_lang
        limit = length_limit(self.model, self.tokenizer, max_source_length) if truncation else None
        reader = self.reader or self.tokenizer
        (ids,) = encode_texts(reader, [(prefix or "") + text], limit, as_text=self.reader is None)
        blank = is_blank(text)
        if not ids and not blank:
            raise ValueError(f"the text {text!r} has no tokens")
        input_ids = torch.tensor([ids or [self.tokenizer.pad_token_id or 0]])
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "blank": torch.tensor([[int(blank)]]),
        }

    def _forward(  # type: ignore[override]
        self, model_inputs: dict[str, torch.Tensor], task_params: dict[str, Any] | None = None, **generate_kwargs: Any
    ) -> dict[str, torch.Tensor]:
        if "generation_config" not in generate_kwargs:
            generate_kwargs = {**generate_arguments(self), **generate_kwargs}
            defaults = dict(task_params or {})
            if "max_new_tokens" in generate_kwargs:
                defaults.pop("max_length", None)
            generate_kwargs = {**defaults, **generate_kwargs}
        generate_kwargs |= default_length(self.model, generate_kwargs)
        if self.assistant_model is not None:
            generate_kwargs |= {"assistant_model": self.assistant_model}
        if generate_kwargs.get("stop_strings") is not None:
            generate_kwargs.setdefault("tokenizer", self.target_tokenizer)
            if callable(generate_kwargs.get("custom_generate")):  # transformers hands its tokenizer to no such loop
                stop = StopStringCriteria(generate_kwargs.pop("tokenizer"), generate_kwargs.pop("stop_strings"))
                generate_kwargs["stopping_criteria"] = [*generate_kwargs.get("stopping_criteria", []), stop]
        generate_kwargs = with_generation_config(self, generate_kwargs)
        model_inputs = dict(model_inputs)
        blank = model_inputs.pop("blank")
        output = self.model.generate(**model_inputs, **generate_kwargs)  # type: ignore[operator]
        sequences = getattr(output, "sequences", output)
        batch_size = len(model_inputs["input_ids"])
        sequences = sequences.view(batch_size, -1, sequences.shape[-1])  # (B, num_return_sequences, T)
        return {"sequences": sequences, "blank": blank}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: dict[str, torch.Tensor],
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[dict[str, Any]]:
        sequences = model_outputs["sequences"][0]
        if model_outputs["blank"].any():
            sequences = sequences[:, :0]
        if return_tensors:
            return [{f"{self.result_name}_token_ids": sequence} for sequence in sequences]
        texts = self.target_tokenizer.batch_decode(
            sequences, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
        )
        return [{f"{self.result_name}_text": text} for text in texts]

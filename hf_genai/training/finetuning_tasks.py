"""The tasks of the fine-tuning recipe: for each, what a row is, what is learned, and how it is scored.

A task turns text rows into tokenized ones, says which Auto class learns them, scores a trained model on held-out rows,
and knows the baseline to beat. Accuracies, exact match and F1 are 0 to 1, ROUGE 0 to 100, losses in nats per token.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from ..data.packing import pack
from ..data.plain_text import encode_text, text_of
from ..data.tokenizers import encode_cut, end_texts
from ..evaluation.baselines import first_sentence, majority, most_frequent_tags, unigram_loss
from ..evaluation.prefixes import prefix_of, set_prefix
from ..evaluation.task_scores import (
    Scores,
    answer_scores,
    entity_scorer,
    entity_scores,
    entity_tags,
    macro_f1,
    rouge,
    rouge_scorer,
)
from ..objectives.causal_lm import CausalLMCollator
from ..objectives.classification import label_names, tokenize_texts
from ..objectives.dialogue import as_messages, from_sharegpt, recent_turns, tokenize_dialogues
from ..objectives.question_answering import (
    LONGEST_ANSWER,
    Window,
    best_threshold,
    find_answers,
    from_squad,
    margin_of_none,
    tokenize_questions,
)
from ..objectives.seq2seq import Seq2SeqCollator
from ..objectives.tagging import tokenize_words
from .loop import evaluate

Samples = list[tuple[Any, ...]]
# outputs that a causal or an encoder-decoder model has beside its logits
UNSCORED = ["cache", "past_key_values", "encoder_last_hidden_state", "hidden_states", "attentions"]


class Task(ABC):
    """What all tasks have; `texts` are rows as they were read, `rows` tokenized ones."""

    auto_class = ""
    columns: tuple[str, ...] = ()
    optional_columns: tuple[str, ...] = ()
    reshape: Callable[[Dataset], Dataset] | None = None  # makes columns of another common form
    built_in = ""
    main_metric = ""
    pipeline_tag = ""
    # what the Trainer takes away from a batch to compare with; left to itself it looks for "label" in argument names
    label_names: tuple[str, ...] = ("labels",)

    def __init__(self, arguments: Any, tokenizer: Any):
        self.arguments, self.tokenizer = arguments, tokenizer

    @property
    def language(self) -> str | None:
        """The code of the texts' language, None if it is not known or there are several."""
        codes = {re.split("[-_]", code)[0].lower() for code in self.arguments.data.languages or ()}
        return codes.pop() if len(codes) == 1 else None

    def config(self, texts: Dataset) -> dict[str, Any]:
        """Return fields of the model's config that the data decides."""
        return {}

    @abstractmethod
    def tokenize(self, texts: Dataset) -> Dataset:
        """Return rows of token ids with what is to be learned from them."""

    @abstractmethod
    def collator(self, model: Any) -> Any:
        """Return what makes a batch of rows for a model."""

    def prepare(self, model: Any) -> None:  # noqa: B027
        """Put into the model's config what its pipeline has to know to do what is trained and scored here."""

    def calibrate(self, trainer: Any, texts: Dataset, rows: Dataset) -> None:  # noqa: B027
        """Choose on validation rows what is not learned, before the trained model is scored."""

    @abstractmethod
    def score(self, trainer: Any, texts: Dataset, rows: Dataset) -> tuple[Scores, Samples]:
        """Return metrics of the trained model, and samples (given, expected, found)."""

    def example(self, texts: Dataset) -> dict[str, Any] | None:
        """Return a row to show the model's use on, if that takes more than the text of a sample."""
        return None

    @abstractmethod
    def baselines(self, train: Dataset, texts: Dataset) -> dict[str, Scores]:
        """Return the metrics of predictors that need no training, by name."""


def _labels(labels: Sequence[Any], column: str) -> list[str]:
    items = (item for label in labels for item in (label if isinstance(label, list) else [label]))
    if numbers := [item for item in items if isinstance(item, float)]:
        raise ValueError(f"column {column} must hold names or whole numbers of classes, not {numbers[0]}")
    names = label_names(labels)
    if len(names) < 2:
        raise ValueError(f"column {column} must hold at least two different labels, not {names}")
    return names


def _named(names: Sequence[str]) -> dict[str, Any]:
    numbers = dict(enumerate(names))
    return {"num_labels": len(names), "id2label": numbers, "label2id": {name: n for n, name in numbers.items()}}


class Classification(Task):
    """A label for a text; labels that are lists make it a choice of several."""

    auto_class, built_in, columns = "AutoModelForSequenceClassification", "cldr:languages", ("text", "label")
    main_metric, pipeline_tag = "accuracy", "text-classification"

    def config(self, texts: Dataset) -> dict[str, Any]:
        self.names = _labels(texts["label"][:], "label")
        several = isinstance(texts[0]["label"], list)
        if several and (factor := self.arguments.training.label_smoothing_factor):
            raise ValueError(
                f"label_smoothing_factor must be 0 for rows of several labels, not {factor}: each label of a row is a"
                " question of its own"
            )
        kind = "multi_label_classification" if several else "single_label_classification"
        return {**_named(self.names), "problem_type": kind}

    def tokenize(self, texts: Dataset) -> Dataset:
        return tokenize_texts(texts, self.tokenizer, self.names, max_length=self.arguments.data.max_length)

    def collator(self, model: Any) -> Any:
        return DataCollatorWithPadding(self.tokenizer)

    def score(self, trainer: Any, texts: Dataset, rows: Dataset) -> tuple[Scores, Samples]:
        found = trainer.predict(rows, ignore_keys=UNSCORED)
        logits, labels = found.predictions, found.label_ids
        guesses = logits > 0 if labels.ndim == 2 else logits.argmax(-1)
        right = guesses == labels
        f1 = macro_f1(guesses.astype(int), labels.astype(int), len(self.names))
        names = [self._name(guess) for guess in guesses[:5]]
        shown = zip(texts["text"][:5], map(str, texts["label"][:5]), names, strict=True)
        return {"accuracy": float(right.all(-1).mean() if labels.ndim == 2 else right.mean()), "f1": f1}, list(shown)

    def example(self, texts: Dataset) -> dict[str, Any] | None:
        return texts[0] if isinstance(texts[0]["label"], list) else None  # of several labels a pipeline shows the best

    def _name(self, guess: Any) -> str:
        if np.ndim(guess):
            return str([name for name, own in zip(self.names, guess, strict=True) if own])
        return self.names[int(guess)]

    def baselines(self, train: Dataset, texts: Dataset) -> dict[str, Scores]:
        def plain(label: Any) -> str:  # of several labels the order says nothing
            return str(sorted(map(str, label)) if isinstance(label, list) else label)

        commonest = majority(map(plain, train["label"]))
        hits = np.mean([plain(label) == commonest for label in texts["label"]])
        return {"most frequent label": {"accuracy": float(hits)}}


class Tagging(Task):
    """A label for each word."""

    auto_class, built_in, columns = "AutoModelForTokenClassification", "stdlib:tokens", ("tokens", "tags")
    main_metric, pipeline_tag = "accuracy", "token-classification"

    def config(self, texts: Dataset) -> dict[str, Any]:
        self.names = _labels([tag for tags in texts["tags"] for tag in tags], "tags")
        self.entities = entity_tags(self.names)
        if self.entities is not None:
            entity_scorer()  # what scoring needs is asked for before training
        return _named(self.names)

    def tokenize(self, texts: Dataset) -> Dataset:
        return tokenize_words(texts, self.tokenizer, self.names, max_length=self.arguments.data.max_length)

    def collator(self, model: Any) -> Any:
        return DataCollatorForTokenClassification(self.tokenizer)

    def example(self, texts: Dataset) -> dict[str, Any]:
        return texts[0]

    def score(self, trainer: Any, texts: Dataset, rows: Dataset) -> tuple[Scores, Samples]:
        found = trainer.predict(rows, ignore_keys=UNSCORED)
        guesses, labels = found.predictions.argmax(-1), found.label_ids
        counted = labels != -100
        f1 = macro_f1(guesses[counted], labels[counted], len(self.names))
        own, right = (
            [[self.names[number] for number in row[places]] for row, places in zip(numbers, counted, strict=True)]
            for numbers in (guesses, labels)
        )
        samples = [
            (" ".join(words), " ".join(map(str, tags)), " ".join(names))
            for words, tags, names in zip(texts["tokens"][:5], texts["tags"][:5], own[:5], strict=True)
        ]
        accuracy = float((guesses == labels)[counted].mean())
        return {"accuracy": accuracy, "f1": f1, **self._of_entities(own, right)}, samples

    def _of_entities(self, own: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Scores:
        if (tags := self.entities) is None:
            return {}
        return entity_scores(*([[tags[name] for name in row] for row in rows] for rows in (own, right)))

    def baselines(self, train: Dataset, texts: Dataset) -> dict[str, Scores]:
        of_word, other = most_frequent_tags(train["tokens"], train["tags"])
        right = [list(map(str, tags)) for tags in texts["tags"]]
        guesses = {
            "most frequent tag": [[other] * len(tags) for tags in right],
            "most frequent tag of each word": [[of_word.get(w, other) for w in words] for words in texts["tokens"]],
        }
        return {
            name: {
                "accuracy": float(np.mean([one == two for one, two in zip(chain(*rows), chain(*right), strict=True)])),
                **self._of_entities(rows, right),
            }
            for name, rows in guesses.items()
        }


class QuestionAnswering(Task):
    """Where in a text the answer stands."""

    auto_class, built_in = "AutoModelForQuestionAnswering", "stdlib:calls"
    columns = ("question", "context", "answer", "answer_start")
    optional_columns = ("reference_answers",)
    reshape = staticmethod(from_squad)
    main_metric, pipeline_tag = "f1", "question-answering"
    label_names = ("start_positions", "end_positions")

    def config(self, texts: Dataset) -> dict[str, Any]:
        data = self.arguments.data
        stride = min(data.stride, data.max_length // 3)
        self.settings = {
            "max_answer_len": LONGEST_ANSWER,
            "max_seq_len": data.max_length,
            "doc_stride": stride,
            "max_question_len": max(1, data.max_length - stride - self.tokenizer.num_special_tokens_to_add(True) - 1),
            "align_to_words": False,
            "handle_impossible_answer": "" in texts["answer"],
            "null_score_diff_threshold": 0.0,
        }
        return {}

    def prepare(self, model: Any) -> None:
        model.config.task_specific_params = {self.pipeline_tag: self.settings}

    def tokenize(self, texts: Dataset) -> Dataset:
        data = self.arguments.data
        return tokenize_questions(texts, self.tokenizer, data.max_length, min(data.stride, data.max_length // 3))

    def collator(self, model: Any) -> Any:
        pad = DataCollatorWithPadding(self.tokenizer)
        return lambda examples: pad(
            [{k: v for k, v in example.items() if k not in ("row", "offsets")} for example in examples]
        )

    def calibrate(self, trainer: Any, texts: Dataset, rows: Dataset) -> None:
        if not self.settings["handle_impossible_answer"]:
            return
        found, score = self._find(trainer, texts, rows), partial(answer_scores, language=self.language)
        gains = [
            score([""], [references])["f1"] - score([text], [references])["f1"]
            for (text, _), references in zip(found, self._references(texts), strict=True)
        ]
        self.settings["null_score_diff_threshold"] = best_threshold([margin for _, margin in found], gains)
        self.prepare(trainer.model)

    def score(self, trainer: Any, texts: Dataset, rows: Dataset) -> tuple[Scores, Samples]:
        threshold = self.settings["null_score_diff_threshold"]
        may_be_none = self.settings["handle_impossible_answer"]
        found = [
            "" if may_be_none and margin > threshold else text for text, margin in self._find(trainer, texts, rows)
        ]
        samples = list(zip(texts["question"][:5], texts["answer"][:5], found[:5], strict=True))
        return self._scores(found, texts), samples

    def _find(self, trainer: Any, texts: Dataset, rows: Dataset) -> list[tuple[str, float]]:
        """Return the best answer to each question, and the margin of there being none."""
        predictions = trainer.predict(rows, ignore_keys=UNSCORED).predictions
        windows: list[list[Window]] = [[] for _ in range(len(texts))]
        for row, offsets, starts, ends in zip(rows["row"], rows["offsets"], *predictions[:2], strict=True):
            spans = [None if begin < 0 else (begin, end) for begin, end in offsets]
            windows[row].append(Window(spans, starts[: len(spans)], ends[: len(spans)]))  # windows come padded
        found = []
        for context, own in zip(texts["context"], windows, strict=True):
            answers, nothing = find_answers(context, own, max_answer_len=LONGEST_ANSWER)
            found.append((answers[0]["answer"] if answers else "", margin_of_none(answers, nothing)))
        return found

    def _scores(self, found: Sequence[str], texts: Dataset) -> Scores:
        """Return exact match and F1, and where some questions have no answer, both for either kind, as SQuAD 2 does.

        Reference: Rajpurkar, Jia and Liang (2018), arXiv:1806.03822.
        """
        references = self._references(texts)
        score = partial(answer_scores, language=self.language)
        scores = score(found, references)
        kinds = {"HasAns": [any(own) for own in references], "NoAns": [not any(own) for own in references]}
        if not all(kinds["HasAns"]):
            for name, chosen in kinds.items():
                of_kind = [index for index, wanted in enumerate(chosen) if wanted]
                if of_kind:
                    own_scores = score([found[i] for i in of_kind], [references[i] for i in of_kind])
                    scores |= {f"{name}_{metric}": value for metric, value in own_scores.items()}
        return scores

    def _references(self, texts: Dataset) -> list[list[str]]:
        several = self.optional_columns[0]
        return texts[several][:] if several in texts.column_names else [[answer] for answer in texts["answer"]]

    def example(self, texts: Dataset) -> dict[str, Any]:
        return min(texts.select(range(min(50, len(texts)))), key=lambda row: len(row["context"]))

    def baselines(self, train: Dataset, texts: Dataset) -> dict[str, Scores]:
        first = [first_sentence(context) for context in texts["context"]]
        found = {"first sentence of the text": self._scores(first, texts)}
        if "" in texts["answer"]:
            found["no answer to any question"] = self._scores([""] * len(texts), texts)
        return found


class Summarisation(Task):
    """A short text for a long one, written by an encoder-decoder."""

    auto_class, built_in, columns = "AutoModelForSeq2SeqLM", "stdlib:summaries", ("document", "summary")
    main_metric, pipeline_tag = "rougeL", "summarization"

    def __init__(self, arguments: Any, tokenizer: Any):
        super().__init__(arguments, tokenizer)
        rouge_scorer()  # what scoring needs is asked for before training

    def prepare(self, model: Any) -> None:
        given = self.arguments.data.prefix
        self.prefix = prefix_of(model.config, self.pipeline_tag) if given is None else given
        set_prefix(model.config, self.prefix)

    def tokenize(self, texts: Dataset) -> Dataset:
        data = self.arguments.data

        def encode(batch: dict[str, list[str]]) -> dict[str, list]:
            documents = [self.prefix + document for document in batch["document"]]
            sources, _ = encode_cut(self.tokenizer, documents, data.max_length)
            targets, _ = encode_cut(self.tokenizer, batch["summary"], data.max_target_length, "text_target")
            return {"input_ids": sources, "labels": targets}

        return texts.map(encode, batched=True, remove_columns=texts.column_names)

    def collator(self, model: Any) -> Any:
        return Seq2SeqCollator(self.tokenizer, model=model)

    def score(self, trainer: Any, texts: Dataset, rows: Dataset) -> tuple[Scores, Samples]:
        from ..evaluation.generation import generate_texts

        data, model = self.arguments.data, trainer.model
        found = generate_texts(
            *(model, self.tokenizer, texts["document"][:]),
            batch_size=trainer.args.per_device_eval_batch_size,
            prefix=self.prefix,
            max_source_length=data.max_length,  # how long summaries get, the model's generation config says
        )
        samples = [
            (document[:300], summary, own)
            for document, summary, own in zip(texts["document"][:5], texts["summary"][:5], found[:5], strict=True)
        ]
        return rouge(found, texts["summary"][:], self.language), samples

    def baselines(self, train: Dataset, texts: Dataset) -> dict[str, Scores]:
        first = [first_sentence(document) for document in texts["document"]]
        return {"first sentence of the text": rouge(first, texts["summary"][:], self.language)}


class Dialogue(Task):
    """The assistant's next turn, by a causal model."""

    auto_class, built_in, columns = "AutoModelForCausalLM", "stdlib:questions", ("messages",)
    reshape = staticmethod(from_sharegpt)
    main_metric, pipeline_tag = "loss", "text-generation"

    def tokenize(self, texts: Dataset) -> Dataset:
        rows, report = tokenize_dialogues(texts, self.tokenizer, self.arguments.data.max_length)
        if not len(rows):
            raise ValueError(f"no dialogue has an assistant's turn within max_length ({report['dropped']} dropped)")
        return rows

    def collator(self, model: Any) -> Any:
        return CausalLMCollator(self.tokenizer.pad_token_id)

    def score(self, trainer: Any, texts: Dataset, rows: Dataset) -> tuple[Scores, Samples]:
        return loss_of(trainer, rows), self.samples(trainer.model, texts)

    @torch.no_grad()
    def samples(self, model: Any, texts: Dataset) -> Samples:
        found = []
        for messages in map(as_messages, texts["messages"][:3]):
            last = max((place for place, message in enumerate(messages) if message["role"] == "assistant"), default=0)
            if not (given := recent_turns(messages[:last], self.tokenizer, self.arguments.data.max_length)):
                continue
            ids = self.tokenizer.apply_chat_template(
                given,
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                sanitize_control_tokens=True,
            ).to(model.device)
            made = model.generate(**ids, max_new_tokens=30, do_sample=False)[0, ids["input_ids"].shape[1] :]
            asked = given[-1]["content"]
            found.append((asked, messages[last]["content"], self.tokenizer.decode(made, skip_special_tokens=True)))
        return found

    def example(self, texts: Dataset) -> dict[str, Any] | None:
        for messages in map(as_messages, texts["messages"]):
            roles = [message["role"] for message in messages]
            if "user" in roles:  # up to the first question: a system turn asks nothing
                return {"messages": messages[: roles.index("user") + 1]}
        return None

    def baselines(self, train: Dataset, texts: Dataset) -> dict[str, Scores]:
        seen, held_out = (
            [[i for i in row if i != -100] for row in self.tokenize(own)["labels"]] for own in (train, texts)
        )
        loss = unigram_loss(seen, held_out, len(self.tokenizer))
        return {"single tokens' frequencies": {"loss": loss, "perplexity": math.exp(loss)}}


class Code(Dialogue):
    """The next token of source code (or any other text), by a causal model."""

    built_in, columns = "stdlib:code", ("text",)

    def example(self, texts: Dataset) -> None:
        return None

    def tokenize(self, texts: Dataset) -> Dataset:
        def tokenize(batch: dict[str, list[str]]) -> dict[str, list]:
            ids = encode_text(self.tokenizer, batch["text"], verbose=False)["input_ids"]
            return {"input_ids": end_texts(ids, self.tokenizer.eos_token_id)}

        rows = texts.map(tokenize, batched=True, remove_columns=texts.column_names)
        return pack(rows, self.arguments.data.max_length)[0]

    @torch.no_grad()
    def samples(self, model: Any, texts: Dataset) -> Samples:
        found = []
        for text in texts["text"][:3]:
            ids = encode_text(self.tokenizer, text, verbose=False)["input_ids"][:60]
            prompt = torch.tensor([ids[:40]], device=model.device)
            made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False)
            found.append(
                tuple(text_of(self.tokenizer, part) for part in (ids[:40], ids[40:], made[0, len(prompt[0]) :]))
            )
        return found

    def baselines(self, train: Dataset, texts: Dataset) -> dict[str, Scores]:
        seen, held_out = (self.tokenize(own)["input_ids"][:] for own in (train, texts))
        loss = unigram_loss(seen, held_out, len(self.tokenizer))
        return {"single tokens' frequencies": {"loss": loss, "perplexity": math.exp(loss)}}


TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "tagging": Tagging,
    "qa": QuestionAnswering,
    "summarisation": Summarisation,
    "dialogue": Dialogue,
    "code": Code,
}


def loss_of(trainer: Any, rows: Dataset) -> Scores:
    """Return the loss in nats per counted token, and its exponential; leaves the model in evaluation mode."""
    trainer.model.eval()
    size = trainer.args.per_device_eval_batch_size
    loss = evaluate(trainer.model, trainer.accelerator, rows, trainer.data_collator, size)
    return {"loss": loss, "perplexity": math.exp(min(loss, 50))}

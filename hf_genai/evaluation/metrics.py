"""Metrics behind `evaluate`'s interface that work without the network, and the baselines to read them against.

Instantiate the classes (`Bleu().compute(predictions=..., references=...)`); `add_batch` and `evaluate.combine` work as
usual. Units: BLEU and chrF 0-100; exact match, accuracy and F1 0-1; perplexity from 1 upwards, from nats per token.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import evaluate
from datasets import Features, List, Value
from transformers.utils import logging

from ..private_names import MetricHooks
from .scripts import without_spaces_between_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

TEXT_FEATURES = [
    Features({"predictions": Value("string"), "references": List(Value("string"))}),
    Features({"predictions": Value("string"), "references": Value("string")}),
]
LABEL_FEATURES = [
    Features({"predictions": Value("int64"), "references": Value("int64")}),
    Features({"predictions": Value("string"), "references": Value("string")}),
]


def _sklearn_metrics() -> Any:
    try:
        import sklearn.metrics
    except ImportError as error:
        raise ImportError("Accuracy and F1 need scikit-learn: pip install 'hf_genai[eval]'") from error
    return sklearn.metrics


class OfflineMetric(MetricHooks, evaluate.Metric):
    """A metric that is kept in memory (nothing is written to the cache) and refuses empty or unequal columns.

    Distributed use (`num_process > 1`) goes through files, as evaluate requires.
    """

    description = ""
    input_features: list[Features] = TEXT_FEATURES

    def __init__(self, config_name: str | None = None, keep_in_memory: bool | None = None, **kwargs):
        if keep_in_memory is None:
            keep_in_memory = kwargs.get("num_process", 1) == 1
        super().__init__(config_name, keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description=self.__class__._compute.__doc__ or "",
            features=self.input_features,
        )

    @property
    def columns(self) -> list[str]:
        """The names of what is scored: predictions and references."""
        return list(self.input_features[0])

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add aligned columns of equal length.

        Raises:
            ValueError: if a column is missing or the columns differ in length.
        """
        given = {"predictions": predictions, "references": references, **kwargs}
        lengths = {}
        for name in self.columns:
            column = given.get(name)
            if column is None:
                raise ValueError(f"{type(self).__name__} needs {name}, got None")
            if isinstance(column, str):
                raise ValueError(f"{name} must be a list with one item per example, got the string {column!r}")
            lengths[name] = len(column)
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise ValueError(f"{type(self).__name__} needs columns of equal length, got {counts}")
        if min(lengths.values()) == 0:
            return  # an empty batch among others is harmless; compute() refuses if nothing at all was added
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Score the columns given here and all that was added before; see `_compute` for the options.

        Raises:
            ValueError: if there is nothing to score.
        """
        given = {"predictions": predictions, "references": references, **kwargs}
        columns = [given.get(name) for name in self.columns]
        if self.writer is None and not any(column is not None and len(column) for column in columns):
            raise ValueError(f"{type(self).__name__} has nothing to score: no {' or '.join(self.columns)}")
        return super().compute(predictions=predictions, references=references, **kwargs)


def _reference_streams(references: Sequence[str] | Sequence[Sequence[str]]) -> list[list[Any]]:
    """One list per reference number, as sacreBLEU wants them; None where an example has fewer references."""
    if isinstance(references[0], str):
        return [list(references)]  # type: ignore[arg-type]
    empty = [index for index, row in enumerate(references) if not len(row)]
    if empty:
        raise ValueError(f"references: every example needs at least one, none at index {empty[0]}")
    most = max(len(row) for row in references)
    return [[row[i] if i < len(row) else None for row in references] for i in range(most)]


_BETWEEN_SPACES = ("13a", "intl", "none")  # of sacreBLEU's tokenizers


def _warn_of_words_without_spaces(streams: Sequence[Sequence[str | None]], what: str) -> None:
    if without_spaces_between_words(text for text in streams[0] if text is not None):
        logger.warning_once(f"the references put no spaces between words, and {what}")


class Bleu(OfflineMetric):
    """BLEU of a corpus, 0-100, by sacreBLEU. Reference: Papineni et al. (2002); Post (2018), arXiv:1804.08771."""

    description = "Corpus BLEU (0-100) by sacreBLEU, with its signature."

    def _compute(self, predictions, references, tokenize: str | None = None, lowercase: bool = False, **options):
        """Return bleu (0-100), its signature, n-gram precisions (0-100), brevity penalty (0-1) and lengths in tokens.

        Args:
            predictions: one text per example.
            references: one text, or a list of texts, per example.
            tokenize: sacreBLEU's name, "13a" if None; languages written without spaces need another one ("zh",
                "ja-mecab", "char").
            lowercase: compare without regard to case.
            options: further arguments of `sacrebleu.metrics.BLEU`, such as smooth_method.
        """
        from sacrebleu.metrics import BLEU

        bleu, streams = BLEU(tokenize=tokenize, lowercase=lowercase, **options), _reference_streams(references)
        if tokenize in (None, *_BETWEEN_SPACES):
            _warn_of_words_without_spaces(
                streams, "BLEU counts tokens between spaces: give tokenize, such as zh or char"
            )
        score = bleu.corpus_score(predictions, streams)
        return {
            "bleu": score.score,
            "bleu_signature": str(bleu.get_signature()),
            "bleu_precisions": list(score.precisions),
            "bleu_brevity_penalty": score.bp,
            "bleu_prediction_length": score.sys_len,
            "bleu_reference_length": score.ref_len,
        }


class ChrF(OfflineMetric):
    """Character n-gram F-score of a corpus, 0-100, by sacreBLEU. Reference: Popovic (2015), W15-3049."""

    description = "Corpus chrF (0-100) by sacreBLEU, with its signature."

    def _compute(self, predictions, references, word_order: int = 0, **options):
        """Return chrf (0-100) and its signature.

        Args:
            predictions: one text per example.
            references: one text, or a list of texts, per example.
            word_order: longest word n-gram that counts too; 2 gives chrF++. Words stand between spaces, so it is for
                languages that have them; a warning says where they do not.
            options: further arguments of `sacrebleu.metrics.CHRF`.
        """
        from sacrebleu.metrics import CHRF

        chrf, streams = CHRF(word_order=word_order, **options), _reference_streams(references)
        if word_order:
            _warn_of_words_without_spaces(
                streams, "chrF++ counts words between spaces: word_order=0 counts characters"
            )
        score = chrf.corpus_score(predictions, streams)
        return {"chrf": score.score, "chrf_signature": str(chrf.get_signature())}


class ExactMatch(OfflineMetric):
    """Share of predictions that equal a reference, 0-1."""

    description = "Share (0-1) of predictions equal to their reference, outer white space aside."

    def _compute(self, predictions, references, ignore_case: bool = False):
        """Return exact_match (0-1); white space at either end is not compared.

        Args:
            predictions: one text per example.
            references: one text, or a list of acceptable texts, per example.
            ignore_case: compare case-folded texts.
        """

        def clean(text: str) -> str:
            return text.strip().casefold() if ignore_case else text.strip()

        accepted = [[row] if isinstance(row, str) else row for row in references]
        hits = sum(
            clean(text) in {clean(row) for row in rows} for text, rows in zip(predictions, accepted, strict=True)
        )
        return {"exact_match": hits / len(predictions)}


class Accuracy(OfflineMetric):
    """Share of labels predicted correctly, 0-1."""

    description = "Share (0-1) of labels predicted correctly."
    input_features = LABEL_FEATURES

    def _compute(self, predictions, references, sample_weight: Sequence[float] | None = None):
        """Return accuracy (0-1).

        Args:
            predictions, references: integer or string labels.
            sample_weight: one non-negative weight per example.
        """
        metrics = _sklearn_metrics()
        return {"accuracy": float(metrics.accuracy_score(references, predictions, sample_weight=sample_weight))}


class F1(OfflineMetric):
    """Harmonic mean of precision and recall, 0-1."""

    description = "F1 (0-1): binary, micro, macro, weighted or per label."
    input_features = LABEL_FEATURES

    def _compute(self, predictions, references, average: str | None = "binary", **options):
        """Return f1 (0-1), or a list with one value per label if average is None.

        Args:
            predictions, references: integer or string labels.
            average: "binary" (of pos_label, 1 by default), "micro", "macro", "weighted" or None.
            options: further arguments of `sklearn.metrics.f1_score`: labels, pos_label, sample_weight, zero_division.
        """
        metrics = _sklearn_metrics()
        score = metrics.f1_score(references, predictions, average=average, **options)
        return {"f1": score.tolist() if average is None else float(score)}


class Perplexity(OfflineMetric):
    """exp of the mean negative log-likelihood per token, from sums, so that batches of any size combine exactly."""

    description = "Perplexity (>= 1) from summed nats and token counts."
    input_features = [Features({"nats": Value("float64"), "num_tokens": Value("int64")})]

    def _compute(self, nats, num_tokens):
        """Return perplexity, nats_per_token and num_tokens.

        Args:
            nats: negative log-likelihoods, each summed over the tokens of an example or a batch.
            num_tokens: how many tokens each sum covers.
        """
        return perplexity(math.fsum(nats), sum(num_tokens))


def perplexity(total_nats: float, num_tokens: int) -> dict[str, float]:
    """Return perplexity, nats_per_token and num_tokens for a summed negative log-likelihood.

    Raises:
        ValueError: if num_tokens is not positive.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
    mean = total_nats / num_tokens
    # beyond exp's range the perplexity of a broken model is infinite, which is no reason to lose the evaluation
    value = math.exp(mean) if mean < 709 else math.inf
    return {"perplexity": value, "nats_per_token": mean, "num_tokens": num_tokens}


def model_perplexity(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    targets: Sequence[str] | None = None,
    target_tokenizer: "PreTrainedTokenizerBase | None" = None,
    batch_size: int = 32,
    max_length: int | None = None,
) -> dict[str, float]:
    """Return the perplexity of a causal model on texts, or of an encoder-decoder on targets given texts.

    A causal model scores every token but the first of a text, which has no context. Longer texts than the limit are
    cut, with a warning that counts them.

    Args:
        max_length: limit in tokens for texts and targets; None takes the limits of tokenizer and model.

    Raises:
        ValueError: if there are no texts, or if targets and the kind of model do not fit.
    """
    import torch

    from .generation import encode_texts, inference, length_limit

    if model.config.is_encoder_decoder != (targets is not None):
        needed = "needs targets" if model.config.is_encoder_decoder else "takes no targets"
        raise ValueError(f"targets: {type(model).__name__} {needed}")
    if targets is not None and len(targets) != len(texts):
        raise ValueError(f"targets must be as many as texts ({len(texts)}), got {len(targets)}")
    limit = length_limit(model, tokenizer, max_length)
    target_tokenizer = target_tokenizer or tokenizer
    rows = encode_texts(tokenizer, texts, limit)
    label_rows = rows if targets is None else encode_texts(target_tokenizer, targets, limit, as_target=True)
    metric = Perplexity()
    with inference(model):
        for start in range(0, len(texts), batch_size):
            some = slice(start, start + batch_size)
            batch = tokenizer.pad({"input_ids": rows[some]}, return_tensors="pt").to(model.device)
            padded = target_tokenizer.pad({"input_ids": label_rows[some]}, return_tensors="pt").to(model.device)
            labels = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, -100)
            if targets is None:
                logits = model(**batch).logits[:, :-1]
                labels = labels[:, 1:]
            else:
                logits = model(**batch, labels=labels).logits
            nats = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
            )
            metric.add_batch(nats=[nats.item()], num_tokens=[int((labels != -100).sum())])
    return metric.compute()


def translation_scores(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]], tokenize: str | None = None
) -> dict[str, Any]:
    """Return bleu and chrf (0-100), exact_match (0-1), both signatures and num_examples.

    Args:
        tokenize: sacreBLEU's tokenizer for BLEU, "13a" if None; languages written without spaces need another one.

    Raises:
        ValueError: if there are no predictions, or not as many as references.
    """
    columns = {"predictions": predictions, "references": references}
    bleu = Bleu().compute(**columns, tokenize=tokenize)
    chrf = ChrF().compute(**columns)
    return {
        "bleu": bleu["bleu"],
        "chrf": chrf["chrf"],
        **ExactMatch().compute(**columns),
        "bleu_signature": bleu["bleu_signature"],
        "chrf_signature": chrf["chrf_signature"],
        "num_examples": len(predictions),
    }


def most_frequent_target(training_targets: Iterable[str], num_predictions: int) -> list[str]:
    """Predict the commonest training target every time; among equals, the one seen first.

    Raises:
        ValueError: if there are no training targets.
    """
    counts = Counter(training_targets)
    if not counts:
        raise ValueError("training_targets must hold at least one text, got none")
    return [counts.most_common(1)[0][0]] * num_predictions


def baseline_scores(
    sources: Sequence[str], references: Sequence[str], training_targets: Iterable[str], tokenize: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the translation scores of both baselines, by name."""
    predictions = {
        "copy_source": sources,  # what names, numbers and shared words alone are worth
        "most_frequent_target": most_frequent_target(training_targets, len(references)),
    }
    return {name: translation_scores(texts, references, tokenize) for name, texts in predictions.items()}

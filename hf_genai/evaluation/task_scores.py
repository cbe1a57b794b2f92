"""What the tasks of the fine-tuning recipe are scored by: F1 over classes, SQuAD's scores of answers, ROUGE."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .scripts import answer_units, beyond_latin, units

Scores = dict[str, float]
ROUGE = ["rouge1", "rouge2", "rougeL"]


def macro_f1(guesses: np.ndarray, labels: np.ndarray, number: int) -> float:
    """Return the mean over all classes of F1, of those that occur or are guessed."""
    if labels.ndim == 1:
        guesses, labels = np.eye(number, dtype=bool)[guesses], np.eye(number, dtype=bool)[labels]
    guesses, labels = guesses.astype(bool), labels.astype(bool)
    hits, both = (guesses & labels).sum(0), guesses.sum(0) + labels.sum(0)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


# the articles that MLQA's script takes out; a language without an entry has none, or none that stand alone
_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "ar": r"\bال",
}


def _plain(text: str) -> list[str]:
    text = "".join(mark for mark in text.lower() if mark not in string.punctuation)  # "U.S." is "us", as SQuAD has it
    return re.sub(_ARTICLES["en"], " ", text).split()


def _plain_in(text: str, language: str | None) -> list[str]:
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(mark for mark in text if mark not in string.punctuation and unicodedata.category(mark)[0] != "P")
    if articles := _ARTICLES.get(language or ""):
        text = re.sub(articles, " ", text)
    return [unit for word in text.split() for unit in answer_units(word)]


def _f1(one: list[str], two: list[str]) -> float:
    shared = sum((Counter(one) & Counter(two)).values())
    return 2 * shared / (len(one) + len(two)) if one and two else float(one == two)


def answer_scores(found: Sequence[str], expected: Sequence[Sequence[str]], language: str | None = None) -> Scores:
    """Return exact match and F1 over words, without case, punctuation and articles, each with the nearest reference.

    Answers in the Latin script are compared as SQuAD's script does. Others, and those in a language that is known and
    is not English, are compared as MLQA's script does: without any punctuation of Unicode, without the articles of the
    language, and by characters where no spaces stand between words. Korean counts by characters too, as in KorQuAD.

    Args:
        found: an answer to each question.
        expected: the reference answers of each question, one or more.
        language: code of the answers' language; None: not known.

    Reference: Rajpurkar et al. (2016), arXiv:1606.05250, section 6.1; Lewis et al. (2020), arXiv:1910.07475 (MLQA);
    Lim, Kim and Lee (2019), arXiv:1909.07005 (KorQuAD).
    """
    exact, f1 = [], []
    for own, references in zip(found, expected, strict=True):
        if language not in (None, "en") or any(map(beyond_latin, [own, *references])):
            one, *others = (_plain_in(text, language) for text in (own, *references))
        else:
            one, *others = map(_plain, [own, *references])
        exact.append(one in others)
        f1.append(max(_f1(one, two) for two in others))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}


class RougeTokens:
    """The tokens that ROUGE counts, in any script.

    Text in the Latin script is cut as rouge-score does, and its words are stemmed as English, so that figures stay
    comparable; other scripts come in `scripts.units`. Of a language that is known and is not English, words are
    neither cut at their accents nor stemmed.
    """

    def __init__(self, language: str | None = None):
        from rouge_score.tokenizers import DefaultTokenizer

        self.english, self.usual = language in (None, "en"), DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        if not self.english:
            return units(text.lower())
        if not beyond_latin(text):
            # where nothing but accents is left ("ở"), a whole word says more than no word
            return self.usual.tokenize(text) or units(text.lower())
        words = units(text.lower())
        return [token for word in words for token in ([word] if beyond_latin(word) else self.usual.tokenize(word))]


def rouge(found: Sequence[str], expected: Sequence[str], language: str | None = None) -> Scores:
    """Return ROUGE-1, -2 and -L, F-measure, 0 to 100; see `RougeTokens` for what is counted.

    Args:
        found: a summary of each document.
        expected: the reference of each.
        language: code of the summaries' language; None: not known.

    Reference: Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    scorer = rouge_scorer(language)
    rows = [scorer.score(right, own) for own, right in zip(found, expected, strict=True)]
    return {kind: 100 * float(np.mean([row[kind].fmeasure for row in rows])) for kind in ROUGE}


def rouge_scorer(language: str | None = None) -> Any:
    """Return what scores ROUGE, or raise ImportError, naming the extra."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ImportError("ROUGE needs rouge-score: pip install 'hf_genai[eval]'") from error
    return RougeScorer(ROUGE, tokenizer=RougeTokens(language))


# letters of the schemes -> seqeval's; BI: of IOB1, IOB2 and IO
_SCHEMES = [
    dict(zip(letters, own, strict=True))
    for letters, own in (
        ("BI", "BI"),
        ("IE", "IE"),
        ("BIES", "BIES"),
        ("BILU", "BIES"),
        ("BMES", "BIES"),
        ("BMEW", "BIES"),
    )
]


def entity_tags(names: Iterable[str]) -> dict[str, str] | None:
    """Return tags of entities as seqeval writes them ("B-PER", "O"), by the names that a data set has for them.

    Known are IOB1, IOB2 (BIO), IO, IOE, IOBES, BILOU, BMES and BMEWO, with the letter before the type ("B-PER",
    "b_per") or behind it ("PER-B"), or alone, as in the segmentation of words.

    Args:
        names: of all tags.

    Returns:
        None for tags that mark no entities, such as parts of speech.
    """
    names = list(names)
    inside = [name for name in names if name.upper() != "O"]
    for form in (r"(?P<letter>[a-z])[-_](?P<type>.+)", r"(?P<type>.+)[-_](?P<letter>[a-z])", r"(?P<letter>[a-z])"):
        matches = [re.fullmatch(form, name, flags=re.IGNORECASE) for name in inside]
        if not inside or not all(matches):
            continue
        parts = [match.groupdict() for match in matches if match]
        letters = {part["letter"].upper() for part in parts}
        scheme = next((scheme for scheme in _SCHEMES if letters <= set(scheme)), None)
        # without types or a tag for what is outside, the letters may mean anything: two are needed
        if (
            scheme is None
            or ("type" not in parts[0] or len(inside) == len(names))
            and not ("B" in letters and letters & set("IEML"))
        ):
            continue
        tags = {
            name: "-".join([scheme[part["letter"].upper()], *([part["type"]] if "type" in part else [])])
            for name, part in zip(inside, parts, strict=True)
        }
        return {**dict.fromkeys(set(names) - set(inside), "O"), **tags}
    return None


def entity_scores(found: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> Scores:
    """Return precision, recall and F1 of entities, 0 to 1, over all types together, as seqeval and conlleval do.

    An entity is right if its first word, its last word and its type are.

    Args:
        found: tags of the words of each text, as `entity_tags` writes them.
        expected: the right ones.

    Raises:
        ImportError: without seqeval; names the extra.

    Reference: Tjong Kim Sang and De Meulder (2003), "Introduction to the CoNLL-2003 Shared Task", section 2.
    """
    scorer = entity_scorer()
    rows = [list(map(list, column)) for column in (expected, found)]
    precision, recall, f1, _ = scorer.precision_recall_fscore_support(*rows, average="micro", zero_division=0)
    return {"entity_f1": float(f1), "entity_precision": float(precision), "entity_recall": float(recall)}


def entity_scorer() -> Any:
    """Return what scores entities, or raise ImportError, naming the extra."""
    try:
        from seqeval.metrics import sequence_labeling
    except ImportError as error:
        raise ImportError("F1 of entities needs seqeval: pip install 'hf_genai[eval]'") from error
    return sequence_labeling

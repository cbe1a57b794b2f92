"""Units of text in any script: what word-based metrics count, and which texts have no spaces between words.

| script                                                | unit                                                     |
|-------------------------------------------------------|----------------------------------------------------------|
| Latin, Cyrillic, Greek, Arabic, Hebrew, Devanagari, Hangul, ... | a run of letters, digits and combining marks   |
| Han, Hiragana, Katakana, Bopomofo, Yi                 | a character, with its marks                              |
| Thai, Lao, Khmer, Myanmar, Tibetan, Javanese, Tai ... | a grapheme cluster: a letter with its vowels and marks   |

Units of characters are what the benchmarks of these languages count: ROUGE in LCSTS (Hu, Chen and Zhu (2015),
arXiv:1506.05865, section 4), F1 of answers in CMRC 2018 (Cui et al. (2019), arXiv:1810.07366) and MLQA (Lewis et al.
(2020), arXiv:1910.07475). A word segmenter would make figures depend on its dictionary.
"""

from collections import Counter
from collections.abc import Iterable
from unicodedata import normalize

import regex

_IDEOGRAPHIC = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}"
_SYLLABIC = (
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}\p{Balinese}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Le}"
    r"\p{Tai_Viet}"
)
# U+30FC, the mark of a long vowel, is of both Hiragana and Katakana; U+0E46 and U+0EC6 repeat what stands before
_SPACELESS = rf"[{_IDEOGRAPHIC}{_SYLLABIC}\u30fc\uff70]"
_LETTER = regex.compile(r"\p{L}", flags=regex.VERSION1)
_SPACELESS_LETTER = regex.compile(rf"[{_SPACELESS}&&\p{{L}}]", flags=regex.VERSION1)
_BEYOND_LATIN = regex.compile(r"[\p{L}--\p{Latin}--\p{Common}]", flags=regex.VERSION1)
# what shows that a text without letters stands in one of these scripts: its digits and its punctuation
_EAST_ASIAN_SIGN = regex.compile(r"[\u3000-\u303f\uff00-\uffef]")
_UNIT = regex.compile(
    rf"""
    (?=[{_SPACELESS}&&[\p{{L}}\p{{N}}\p{{M}}]]) \X            # a character or a cluster where there are no spaces
    | [[\p{{L}}\p{{N}}\p{{M}}]--{_SPACELESS}]                 # else a run, with zero-width joiners inside
      (?: [[\p{{L}}\p{{N}}\p{{M}}]--{_SPACELESS}] | [\u200c\u200d](?=[\p{{L}}\p{{M}}]) )*
    """,
    flags=regex.VERSION1 | regex.VERBOSE,
)

_ANSWER_UNIT = regex.compile(
    rf"(?=[{_SPACELESS}\p{{Hangul}}])\X|(?:(?![{_SPACELESS}\p{{Hangul}}])\S)+", flags=regex.VERSION1
)


def units(text: str) -> list[str]:
    """Return the words of a text and, where words have no spaces between them, its characters, in their order.

    Punctuation and symbols are no units. Characters come in their compatibility form (NFKC): what reads the same is
    the same, however it was typed, be it a letter and its marks, a wide digit or a narrow katakana.
    """
    return [match.group() for match in _UNIT.finditer(normalize("NFKC", text))]


def answer_units(word: str) -> list[str]:
    """Return what counts of a word of an answer: characters in scripts without spaces and in Korean, else all of it.

    Korean has spaces, but a word carries its particles; see `task_scores.answer_scores`.
    """
    return _ANSWER_UNIT.findall(word)


def beyond_latin(text: str) -> bool:
    """Return whether a text has letters, or East Asian signs, of another script than Latin."""
    return bool(_BEYOND_LATIN.search(text) or _EAST_ASIAN_SIGN.search(text))


def without_spaces_between_words(texts: Iterable[str]) -> bool:
    """Return whether most letters of some texts are of scripts that put no spaces between words."""
    letters = spaceless = 0
    for text in texts:
        letters += len(_LETTER.findall(text))
        spaceless += len(_SPACELESS_LETTER.findall(text))
    return 2 * spaceless > letters


def likely_language(texts: Iterable[str]) -> str | None:
    """Return "zh", "ja" or "ko" where the script of some texts leaves no other choice of these, else None."""
    counts: Counter[str] = Counter()
    for text in texts:
        for name, pattern in _EAST_ASIAN.items():
            counts[name] += len(pattern.findall(text))
        counts["letters"] += len(_LETTER.findall(text))
    if 2 * counts["hangul"] > counts["letters"]:
        return "ko"
    if 2 * (counts["han"] + counts["kana"]) <= counts["letters"]:
        return None
    return "ja" if 20 * counts["kana"] > counts["han"] else "zh"  # Japanese has kana in nearly every sentence


_EAST_ASIAN = {
    "han": regex.compile(r"\p{Han}"),
    "kana": regex.compile(r"[\p{Hiragana}\p{Katakana}]"),
    "hangul": regex.compile(r"\p{Hangul}"),
}

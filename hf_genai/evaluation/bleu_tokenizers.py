"""Which of sacreBLEU's tokenizers BLEU takes: that of the target language.

| target language                                  | tokenizer | without its package |
|--------------------------------------------------|-----------|---------------------|
| Chinese, Cantonese, Wu                           | zh        |                     |
| Japanese                                         | ja-mecab  | char                |
| Korean                                           | ko-mecab  | char                |
| Thai, Lao, Khmer, Burmese, Tibetan, Javanese ... | char      |                     |
| any other                                        | 13a       |                     |

Under "13a" a sentence without spaces is one word, and BLEU is 0 for one wrong character. Figures of different
tokenizers are not comparable; the name stands in BLEU's signature.

Reference: Post (2018), arXiv:1804.08771; the shared tasks of WMT take these for the first three languages.
"""

import re
from collections.abc import Iterable

from transformers.utils import logging

from .scripts import likely_language, without_spaces_between_words

logger = logging.get_logger(__name__)

USUAL = "13a"
_OF_LANGUAGE = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "wuu"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
    **dict.fromkeys(("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur", "bo", "bod", "tib"), "char"),
}
_EXTRAS = {"ja-mecab": "ja", "ko-mecab": "ko"}
_ENOUGH_TEXTS = 1000  # to see what script they stand in


def check_bleu_tokenizer(name: str) -> None:
    """Refuse a tokenizer that sacreBLEU does not have, or that cannot run here.

    Raises:
        ValueError: unknown; names those that are known.
        ImportError: its package is missing; names the extra.
        OSError: its vocabulary is not on this machine and could not be downloaded.
    """
    from sacrebleu.metrics import BLEU

    if name not in BLEU.TOKENIZERS:
        raise ValueError(f"bleu_tokenize must be one of {', '.join(BLEU.TOKENIZERS)}, not {name!r}")
    try:
        BLEU(tokenize=name).corpus_score(["a"], [["a"]])
    except (RuntimeError, ImportError) as error:
        extra = _EXTRAS.get(name)
        wanted = f"'hf_genai[{extra}]'" if extra else "sentencepiece"
        raise ImportError(f"bleu_tokenize={name} needs a package: pip install {wanted}") from error
    except (OSError, ValueError) as error:  # what a download that fails or is cut off ends in
        raise OSError(
            f"bleu_tokenize={name} needs a vocabulary that sacreBLEU downloads once, and cannot here: {error}"
        ) from error


def language_code(text: str | None) -> str | None:
    """Return the language that a text is the code of ("zh" of "zh-CN", "zho" of "zho_Hans"), None if it is none."""
    match = re.fullmatch(r"([a-z]{2,3})([-_][a-zA-Z0-9]{2,8})*", text or "")
    code = match and match.group(1)
    return code if code and (len(code) == 2 or code in _OF_LANGUAGE or code == "eng") else None


def choose_bleu_tokenizer(asked: str | None, language: str | None, texts: Iterable[str]) -> str:
    """Return the tokenizer of a target language; says so where it is not the one that was to be expected.

    Args:
        asked: the user's choice; None: by the language.
        language: code of the target language; None: seen by the script of the texts.
        texts: in the target language.

    Raises:
        ValueError, ImportError, OSError: see `check_bleu_tokenizer`; for `asked` alone.
    """
    if asked is not None:
        check_bleu_tokenizer(asked)
        return asked
    some = [text for text, _ in zip(texts, range(_ENOUGH_TEXTS), strict=False)]
    known = language_code(language)
    seen = known or likely_language(some)
    usual = "char" if known is None and without_spaces_between_words(some) else USUAL
    name = _OF_LANGUAGE.get(seen or "", usual)
    if known is None and name != USUAL:
        logger.warning(
            f"BLEU takes sacreBLEU's tokenizer {name}, by the script of the references: to choose it, give"
            " --bleu_tokenize"
        )
    elif name == USUAL and without_spaces_between_words(some):
        logger.warning(
            f"BLEU takes sacreBLEU's tokenizer {USUAL}, as the target language is {known}, but the references have no"
            " spaces between words, and one wrong character makes a sentence wrong: see --bleu_tokenize"
        )
    if name in _EXTRAS:
        try:
            check_bleu_tokenizer(name)
        except ImportError:
            logger.warning(
                f"BLEU takes characters (char): sacreBLEU's {name} needs pip install 'hf_genai[{_EXTRAS[name]}]'"
            )
            return "char"
    return name

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
from collections.abc import Iterable, Sequence
from itertools import islice

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


def choose_bleu_tokenizer(asked: str | None, languages: Sequence[str], texts: Iterable[str]) -> str:
    """Return the tokenizer of a target language; a warning says where it is not the one that was to be expected.

    Args:
        asked: the user's choice; None: by the language.
        languages: codes of the data's languages ("zh", "zh-CN", "zho_Hans"), the target's last; none if they are not
            known. The script of the texts decides where they do not.
        texts: in the target language.

    Raises:
        ValueError, ImportError, OSError: see `check_bleu_tokenizer`; for `asked` alone.
    """
    if asked is not None:
        check_bleu_tokenizer(asked)
        return asked
    known = re.split("[-_]", languages[-1].lower())[0] if languages else ""
    name = _OF_LANGUAGE.get(known)
    if name is None:
        some = list(islice(texts, _ENOUGH_TEXTS))
        usual = "char" if without_spaces_between_words(some) else USUAL
        name = _OF_LANGUAGE.get(likely_language(some) or "", usual)
        if name != USUAL:
            logger.warning(
                f"BLEU takes sacreBLEU's tokenizer {name}, by the script of the references; --bleu_tokenize chooses"
                " another"
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

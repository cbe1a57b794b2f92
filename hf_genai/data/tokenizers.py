"""Train tokenizers on raw text and save them as stock fast tokenizers, which AutoTokenizer loads without this package.

The special tokens are <pad> 0, <s> 1, </s> 2 and <unk> 3 for every kind. Encoded texts end in </s>. Text that looks
like a special token stays text (see plain_text.py).
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..private_names import file_if_there
from .plain_text import UNSPACED, encode_text, read_prompts_as_text, spelling_of

KINDS = ("byte_bpe", "unigram", "wordpiece", "word", "char")
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>"]
TARGET_SUBFOLDER = "target_tokenizer"
# What save_pretrained of a fast tokenizer writes.
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class TokenizersBackend(PreTrainedTokenizerFast):
    """transformers' fast tokenizer, saved under the name of transformers' class.

    After special tokens are added or a chat template is set, prompts may name control tokens.
    """

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        added = super().add_tokens(new_tokens, special_tokens)
        if added and special_tokens:
            read_prompts_as_text(self, False)
        return added

    @property
    def chat_template(self) -> Any:
        return self._chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        self._chat_template = template
        if template is not None:
            read_prompts_as_text(self, False)


def train_tokenizer(
    texts: Iterable[str],
    kind: str = "byte_bpe",
    vocab_size: int = 4000,
    model_max_length: int = 512,
    ends_texts: bool = True,
    unspaced_alone: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer. The same texts and arguments give the same bytes in `tokenizer.json`.

    | kind      | tokens                                    | decoding restores                                    |
    |-----------|-------------------------------------------|------------------------------------------------------|
    | byte_bpe  | merges of bytes (Sennrich et al. 2016)    | every text, exactly                                  |
    | unigram   | most probable pieces (Kudo 2018)          | every text, except unseen characters: <unk>          |
    | char      | single code points                        | every text, except unseen characters: <unk>          |
    | word      | words and runs of punctuation             | all but one leading space; unknown words: <unk>      |
    | wordpiece | merges of characters within words (BERT)  | words and punctuation; spaces are normalised         |

    All kinds but byte_bpe compose characters first (NFC). unigram and word write a space as \u2581, so this character
    in a text is decoded as a space.

    Control tokens in a text are text, in training and in `tokenizer(text)`. The saved tokenizer behaves in the same
    way as a stock AutoTokenizer (`split_special_tokens` in tokenizer_config.json). Adding special tokens later, such
    as masks, or setting a chat template turns the setting off, because prompts must then name control tokens;
    `encode_text` still reads all texts as text.

    Args:
        texts: training texts; sources and targets for a shared vocabulary. The texts are iterated over several times,
            so that a column of a dataset on disk is never in memory as a whole.
        kind: one of the kinds above.
        vocab_size: maximum number of ids, special tokens included. Small texts give fewer: see `len(tokenizer)`.
        model_max_length: number of ids, </s> included, to which the tokenizer truncates on request.
        ends_texts: append </s> to each text. False for a causal model, which continues its prompt; `end_texts` then
            appends </s> to training texts.
        unspaced_alone: for byte_bpe: no token contains more than one character of scripts without spaces between
            words (Chinese, Japanese, Thai, ...). Otherwise a token may hold a whole clause, and an answer or a tagged
            word may start or end inside a token.

    Raises:
        ValueError: an unknown kind, unspaced_alone with another than byte_bpe, no text, or a `vocab_size` too small
            for the alphabet and the special tokens.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if unspaced_alone and kind != "byte_bpe":
        raise ValueError(f"unspaced_alone must be False for kind {kind!r}, not True: only byte_bpe supports it")
    texts = _Texts(texts)
    if next(iter(texts), None) is None:
        raise ValueError("texts must hold at least one text that is not empty, not 0")
    train: Any = {"byte_bpe": _byte_bpe, "unigram": _unigram, "wordpiece": _wordpiece, "word": _word, "char": _char}[
        kind
    ]
    backend = train(texts, vocab_size, unspaced_alone) if kind == "byte_bpe" else train(texts, vocab_size)
    if ends_texts:
        _put_end(backend)
    return TokenizersBackend(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=model_max_length,
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )


def add_gap_tokens(
    tokenizer: PreTrainedTokenizerBase, kind: str, mask: str | None = None, others: Sequence[str] = ()
) -> None:
    """Add a mask token or sentinels, which stand for removed text and which prompts may name.

    If the tokens of this kind include the space before a word, the added tokens include the space too (as RoBERTa's
    mask does): "the bird <mask> in" has the tokens of "the bird sings in" with "sings" masked. `encode_text` still
    reads the added tokens in texts as text.

    Args:
        tokenizer: a tokenizer of `train_tokenizer`.
        kind: kind of the tokenizer.
        mask: the mask token.
        others: further tokens, such as sentinels.
    """

    def token(content: str) -> AddedToken:
        # normalized: the surrounding text is normalised as a whole, so that a word after the token starts with one
        # space
        return AddedToken(content, lstrip=kind != "char", normalized=kind in ("unigram", "word"), special=True)

    if mask is not None:
        tokenizer.add_special_tokens({"mask_token": token(mask)})
    if others:
        tokenizer.add_tokens([token(content) for content in others], special_tokens=True)


def _put_end(backend: Tokenizer) -> None:
    end = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", SPECIAL_TOKENS.index("</s>"))]
    )
    before = backend.post_processor
    backend.post_processor = end if before is None else processors.Sequence([before, end])


def let_texts_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer that `train_tokenizer` trained for a causal model append </s> to each text.

    A classifier reads the hidden state at the end token (Radford et al. 2018, section 3.3), and a decoder learns to
    stop at it. Other tokenizers are not changed.
    """
    first = tokenizer.convert_ids_to_tokens(list(range(len(SPECIAL_TOKENS))))
    if tokenizer.is_fast and first == SPECIAL_TOKENS and not tokenizer.num_special_tokens_to_add():
        _put_end(tokenizer.backend_tokenizer)


def end_texts(rows: Sequence[list[int]], end: int | None) -> list[list[int]]:
    """Append the end token to rows of token ids that lack it; a causal model's tokenizer does not append it.

    With the end token 2, [[5, 6], [5, 2]] becomes [[5, 6, 2], [5, 2]]; with None the rows are unchanged.
    """
    return [row if end is None or row[-1:] == [end] else [*row, end] for row in rows]


def save_tokenizers(
    folder: str | Path, source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase | None = None
) -> None:
    """Save the source tokenizer in `folder` and a separate target tokenizer in its sub-folder `target_tokenizer`.

    Without a separate target tokenizer, old tokenizer files in the sub-folder are deleted, or they would be loaded.
    """
    source.save_pretrained(folder)
    subfolder = Path(folder) / TARGET_SUBFOLDER
    if target is not None and target is not source:
        target.save_pretrained(subfolder)
    elif subfolder.is_dir():
        for name in _FILES:
            (subfolder / name).unlink(missing_ok=True)
        if not any(subfolder.iterdir()):
            subfolder.rmdir()


def load_tokenizers(
    folder_or_repo: str | Path, **kwargs: Any
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Return the source and the target tokenizer of a model; with a shared vocabulary both are the same object.

    Args:
        folder_or_repo: a folder that `save_tokenizers` wrote, or a repository on the Hub.
        **kwargs: passed to `AutoTokenizer.from_pretrained`, such as `revision` or `trust_remote_code`.
    """
    source = AutoTokenizer.from_pretrained(folder_or_repo, **kwargs)
    hub_options = ("revision", "token", "cache_dir", "local_files_only")
    options = {option: kwargs[option] for option in hub_options if option in kwargs}
    target_files = [
        file_if_there(folder_or_repo, name, subfolder=TARGET_SUBFOLDER, **options)
        for name in ("tokenizer_config.json", "tokenizer.json")
    ]
    if target_files[0] is None:
        return source, source
    # From the local folder: offline, a repository's sub-folder without a config.json cannot be loaded by name.
    trust = {key: value for key, value in kwargs.items() if key == "trust_remote_code"}
    return source, AutoTokenizer.from_pretrained(Path(target_files[0]).parent, **trust)


def encode_cut(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    limit: int | None,
    argument: str = "text",
    as_text: bool = True,
) -> tuple[list[list[int]], list[int]]:
    """Return the ids of each text, truncated to `limit`, and the original lengths of the truncated texts.

    All texts are encoded in full; long texts are then encoded again with truncation, which keeps special tokens.

    Args:
        limit: maximum number of ids, special tokens included.
        argument: argument of the tokenizer's call: "text", or "text_target" for targets.
        as_text: read control tokens as text. False: follow the tokenizer's setting.
    """
    encode = functools.partial(encode_text, tokenizer) if as_text else tokenizer
    # verbose=False: the count replaces the tokenizer's own warning about long inputs
    rows = encode(**{argument: list(texts)}, return_attention_mask=False, verbose=False)["input_ids"]
    long = {index: len(row) for index, row in enumerate(rows) if limit is not None and len(row) > limit}
    if long:
        long_texts = {argument: [texts[index] for index in long]}
        cut = encode(**long_texts, truncation=True, max_length=limit, return_attention_mask=False)["input_ids"]
        for index, row in zip(long, cut, strict=True):
            rows[index] = row
    return rows, list(long.values())


class _Texts:
    """The texts that are not empty; can be iterated over several times."""

    def __init__(self, texts: Iterable[str]):
        self.texts = list(texts) if isinstance(texts, Iterator) else texts  # an iterator can be read only once

    def __iter__(self) -> Iterator[str]:
        return (text for text in self.texts if text.strip())


def _byte_bpe(texts: Iterable[str], vocab_size: int, unspaced_alone: bool) -> Tokenizer:
    _check_size(vocab_size, 256, "bytes")
    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splits = [_digits(), *([pre_tokenizers.Split(Regex(UNSPACED), "isolated")] if unspaced_alone else [])]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    backend.decoder = decoders.ByteLevel()
    # offsets exclude a token's leading space, as in GPT-2, so that pipelines return words without spaces
    backend.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _unigram(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    # without the guard, the model would match the pieces <s>, </s>, ... in a text, because they have the best score
    guard = pre_tokenizers.Split(Regex(spelling_of(SPECIAL_TOKENS)), "isolated")
    _mark_spaces(backend, [_digits(), pre_tokenizers.Split("▁", "merged_with_next"), guard])
    alphabet = _alphabet(backend, texts)
    _check_size(vocab_size, len(alphabet), "characters")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    # The trainer sums in the order of a hash map, so scores differ in the last digits between runs, and characters
    # that are kept only for coverage get floor, floor + 1e-4, ... in this order. Rounding, levelling and sorting the
    # scores makes runs equal.
    vocab = json.loads(backend.to_str())["model"]["vocab"][len(SPECIAL_TOKENS) :]
    floor = min(score for _, score in vocab)
    covered = floor + 1e-4 * (len(alphabet) + 1)
    pieces = [(piece, round(floor if len(piece) == 1 and score <= covered else score, 6)) for piece, score in vocab]
    pieces.sort(key=lambda item: (-item[1], item[0]))
    backend.model = models.Unigram(
        [(token, 0.0) for token in SPECIAL_TOKENS] + pieces, unk_id=SPECIAL_TOKENS.index("<unk>")
    )
    return backend


def _wordpiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = sorted(_alphabet(backend, texts))
    # As special tokens, the ## forms get fixed ids; otherwise the order of a hash map would break ties.
    inner = [f"##{character}" for character in alphabet]
    _check_size(vocab_size, 2 * len(alphabet), "characters, at the start of a word and inside it")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS + inner, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    trained = Tokenizer(models.WordPiece(backend.get_vocab(), unk_token="<unk>"))
    trained.normalizer, trained.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trained.decoder = decoders.WordPiece(cleanup=True)
    trained.add_special_tokens(SPECIAL_TOKENS)
    return trained


def _word(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    _check_size(vocab_size, 1, "word")
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    # A word includes the space before it ("▁word"); punctuation may have none.
    words = pre_tokenizers.Split(Regex(r"▁?[\p{L}\p{M}\p{N}_]+|▁?[^\p{L}\p{M}\p{N}_▁]+|▁"), "isolated")
    _mark_spaces(backend, [words])
    trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


def _char(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    normalize = normalizers.NFC().normalize_str
    counts = Counter(character for text in texts for character in normalize(text))
    _check_size(vocab_size, len(counts), "characters")
    characters = sorted(counts, key=lambda character: (-counts[character], character))
    backend = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(SPECIAL_TOKENS + characters)}, unk_token="<unk>")
    )
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(SPECIAL_TOKENS)
    return backend


def _mark_spaces(backend: Tokenizer, splits: list[pre_tokenizers.PreTokenizer]) -> None:
    """Write spaces as ▁ and add one before the text, so that a word has the same token everywhere; decode them back.

    Metaspace adds no ▁ before a text that starts with one, so the normaliser doubles a leading ▁. Metaspace, unlike a
    normaliser, distinguishes the start of the text from the text after a mask.
    """
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\A(?=[ ▁])"), "▁")])
    mark = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([mark, *splits])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def _digits() -> pre_tokenizers.PreTokenizer:
    """Split off each digit with the space before it, so that unseen numbers can be copied digit by digit."""
    return pre_tokenizers.Split(Regex(r"[ ▁]?\p{Nd}"), "isolated")


def _alphabet(backend: Tokenizer, texts: Iterable[str]) -> set[str]:
    normalize = backend.normalizer.normalize_str
    return {c for text in texts for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normalize(text)) for c in piece}


def _check_size(vocab_size: int, alphabet: int, of: str) -> None:
    least = alphabet + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size ({vocab_size}) must be at least {least}: {alphabet} {of}, and {len(SPECIAL_TOKENS)} specials"
        )

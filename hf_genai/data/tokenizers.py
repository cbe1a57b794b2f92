"""Train a tokenizer on raw text and keep it as a stock fast tokenizer, which AutoTokenizer opens without this package.

Special ids are the same for every kind: <pad> 0, <s> 1, </s> 2, <unk> 3. Every encoded text ends in </s>, and what
looks like one of them in a text is text (see plain_text.py).
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
    """transformers' fast tokenizer, by whose name it is saved and opened again.

    Once special tokens are added, or a chat template is set, prompts name control tokens.
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
    """Train a tokenizer. Equal texts and arguments give a byte-equal `tokenizer.json`.

    | kind      | pieces                                    | decoding gives back                                  |
    |-----------|-------------------------------------------|------------------------------------------------------|
    | byte_bpe  | merges of bytes (Sennrich et al. 2016)    | every text, exactly                                  |
    | unigram   | likeliest pieces (Kudo 2018)              | exactly, but for characters never seen: <unk>        |
    | char      | single code points                        | exactly, but for characters never seen: <unk>        |
    | word      | words and runs of punctuation             | all but one leading space; words not kept: <unk>     |
    | wordpiece | merges of characters within words (BERT)  | words and punctuation, spaced afresh; spaces are lost |

    All but byte_bpe compose characters first (NFC). Unigram and word write a space as \u2581 and cannot tell the two
    apart: that character comes back as a space.

    Control tokens that stand in a text are text, in training and in `tokenizer(text)`; the saved tokenizer keeps to
    it as a stock AutoTokenizer (`split_special_tokens` in its tokenizer_config.json). Special tokens that are added
    later, such as masks, and a chat template turn that off for prompts, which have to name control tokens then;
    `encode_text` goes on reading texts as text.

    Args:
        texts: the training texts; both sides of a table of pairs for a shared vocabulary. They are read one by one,
            and more than once: a column of a data set on disk never is in memory as a whole.
        kind: one of the above.
        vocab_size: how many ids to make at most, specials included. Small texts support fewer: see `len(tokenizer)`.
        model_max_length: ids, </s> included, at which the tokenizer truncates when asked to.
        ends_texts: put </s> after each text. False for a causal model, which is to go on with what it is given; in
            training its texts get their end from `end_texts`.
        unspaced_alone: of byte_bpe, no token holds more than one character of the scripts that put no space between
            words (Chinese, Japanese, Thai, ...). Else whole clauses may become tokens, and what is sought or tagged
            may begin or end inside of one.

    Raises:
        ValueError: an unknown kind, unspaced_alone with another than byte_bpe, no text, or a `vocab_size` too small
            for the alphabet and the special tokens.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if unspaced_alone and kind != "byte_bpe":
        raise ValueError(f"unspaced_alone must be False for {kind!r}: it is for byte_bpe")
    texts = _Texts(texts)
    if next(iter(texts), None) is None:
        raise ValueError("texts holds no text to train on; pass an iterable of strings that are not empty")
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
    """Add tokens that stand for something taken out of a text, and that prompts name.

    Written after a space, such a token takes the space in (as RoBERTa's does), where the kind's pieces carry the space
    before them: "the bird <mask> in" then has the tokens that "the bird sings in" has with "sings" masked. In texts
    that `encode_text` reads they stay text.

    Args:
        tokenizer: of `train_tokenizer`.
        kind: of the tokenizer.
        mask: becomes the mask token.
        others: such as sentinels.
    """

    def token(content: str) -> AddedToken:
        # normalized: the text around it is normalised as one, and a word after it begins with its space alone
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
    """Have </s> put after each text, where a tokenizer of `train_tokenizer` was made for a causal model and does not.

    A classifier reads the state at the end of a text (Radford et al. 2018, section 3.3, have a token for it), and a
    decoder learns where to stop. Tokenizers of other makers stay as they are.
    """
    first = tokenizer.convert_ids_to_tokens(list(range(len(SPECIAL_TOKENS))))
    if tokenizer.is_fast and first == SPECIAL_TOKENS and not tokenizer.num_special_tokens_to_add():
        _put_end(tokenizer.backend_tokenizer)


def end_texts(rows: Sequence[list[int]], end: int | None) -> list[list[int]]:
    """Return rows of token ids that end in `end`, for which a tokenizer of a causal model does not care itself.

    With the end 2, [[5, 6], [5, 2]] becomes [[5, 6, 2], [5, 2]]; without one (None) they stay as they are.
    """
    return [row if end is None or row[-1:] == [end] else [*row, end] for row in rows]


def save_tokenizers(
    folder: str | Path, source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase | None = None
) -> None:
    """Save the source tokenizer in `folder` and a target's of its own in the sub-folder `target_tokenizer`.

    Where both are one, tokenizer files that lie in the sub-folder from before are deleted: they would be loaded.
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
    """Return the source and the target tokenizer of a model: the same object twice where they share a vocabulary.

    Args:
        folder_or_repo: a folder that `save_tokenizers` wrote, or a repository on the Hub.
        **kwargs: passed to `AutoTokenizer.from_pretrained`, such as `revision` or `trust_remote_code`.
    """
    source = AutoTokenizer.from_pretrained(folder_or_repo, **kwargs)
    hub_options = ("revision", "token", "cache_dir", "local_files_only")
    target_files = [
        file_if_there(
            folder_or_repo,
            name,
            subfolder=TARGET_SUBFOLDER,
            **{option: kwargs[option] for option in hub_options if option in kwargs},
        )
        for name in ("tokenizer_config.json", "tokenizer.json")
    ]
    if target_files[0] is None:
        return source, source
    # From its folder, as a repository's sub-folder without a config.json cannot be opened when the network is down.
    trust = {key: value for key, value in kwargs.items() if key == "trust_remote_code"}
    return source, AutoTokenizer.from_pretrained(Path(target_files[0]).parent, **trust)


def encode_cut(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    limit: int | None,
    argument: str = "text",
    as_text: bool = True,
) -> tuple[list[list[int]], list[int]]:
    """Return the ids of each text, special tokens included, at most `limit`, and the lengths of those that were cut.

    All are encoded whole, then again what is too long: so it keeps its special tokens, and the cuts are counted.

    Args:
        argument: of the tokenizer's call: "text", or "text_target" for targets.
        as_text: read control tokens in them as text; False: as the tokenizer's own setting is.
    """
    encode = functools.partial(encode_text, tokenizer) if as_text else tokenizer
    # verbose=False: the count replaces the tokenizer's own warning about long inputs
    rows = encode(**{argument: list(texts)}, return_attention_mask=False, verbose=False)["input_ids"]
    long = {place: len(row) for place, row in enumerate(rows) if limit is not None and len(row) > limit}
    if long:
        given = {argument: [texts[place] for place in long]}
        cut = encode(**given, truncation=True, max_length=limit, return_attention_mask=False)["input_ids"]
        for place, row in zip(long, cut, strict=True):
            rows[place] = row
    return rows, list(long.values())


class _Texts:
    """Texts that are not empty, read anew each time."""

    def __init__(self, texts: Iterable[str]):
        self.texts = list(texts) if isinstance(texts, Iterator) else texts  # which can be read but once

    def __iter__(self) -> Iterator[str]:
        return (text for text in self.texts if text.strip())


def _byte_bpe(texts: Iterable[str], vocab_size: int, unspaced_alone: bool) -> Tokenizer:
    _check_size(vocab_size, 256, "bytes")
    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splits = [_digits(), *([pre_tokenizers.Split(Regex(UNSPACED), "isolated")] if unspaced_alone else [])]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    backend.decoder = decoders.ByteLevel()
    # the characters that a token stands for begin after its space, as in GPT-2: what pipelines cut out is a word
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
    # without the guard, the pieces <s>, </s>, ... are found in a text: they have the best score of all
    guard = pre_tokenizers.Split(Regex(spelling_of(SPECIAL_TOKENS)), "isolated")
    _mark_spaces(backend, [_digits(), pre_tokenizers.Split("▁", "merged_with_next"), guard])
    alphabet = _alphabet(backend, texts)
    _check_size(vocab_size, len(alphabet), "characters")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    # The trainer sums in the order of a hash map: scores differ in the last digits between runs, and the characters
    # that it keeps for coverage alone get floor, floor + 1e-4, ... in that order. Rounded, levelled, sorted, they
    # agree.
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
    # Given to the trainer as specials, the ## forms get fixed ids; else the order of a hash map would break ties.
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
    # A word carries the space before it ("▁word"), a mark may stand without: "word" and ",".
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
    """Write a space as ▁, and one before the text, so that a word looks the same at the start and inside; and back.

    Metaspace puts none before a text that begins with one: such a text gets its second one first. It tells the start
    of the text from what follows a mask, which a normaliser cannot.
    """
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\A(?=[ ▁])"), "▁")])
    mark = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([mark, *splits])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def _digits() -> pre_tokenizers.PreTokenizer:
    """Each digit stands alone, with the space before it: a number never seen can still be copied digit by digit."""
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

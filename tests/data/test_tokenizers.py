import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_genai.data import load_tokenizers, save_tokenizers, train_tokenizer
from hf_genai.data.tokenizers import KINDS, SPECIAL_TOKENS, let_texts_end

TEXTS = [
    "Côte d'Ivoire, Åland Islands and São Tomé & Príncipe",
    "il y a 12 345 kilomètres par heure !",
    "isn't it?  Two spaces , and a comma: 3.5 %",
    "2021年3月9日火曜日、日本語またはフランス語",
    "вторник, 9 марта 2021 г.",
    "الثلاثاء، 9 مارس 2021",
] * 5
LOSSLESS = ("byte_bpe", "unigram", "char")


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: train_tokenizer(TEXTS, kind, 600, model_max_length=64) for kind in KINDS}


def decode(tokenizer, text):
    return tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_are_fixed_and_every_text_ends_in_the_end_token(tokenizers, kind):
    tokenizer = tokenizers[kind]
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        0,
        1,
        2,
        3,
    )
    batch = tokenizer(["9 марта", ""], padding=True)
    assert list(batch) == ["input_ids", "attention_mask"]
    ids = batch["input_ids"]
    assert [i for i in ids[0] if i < 4] == [2] and ids[0][-1] == 2
    assert ids[1] == [2] + [0] * (len(ids[0]) - 1)
    cut = tokenizer(TEXTS[0], truncation=True, max_length=5).input_ids
    assert len(cut) == 5 and cut[-1] == 2 and 2 not in cut[:-1]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_decoding_gives_the_text_back(tokenizers, kind):
    for text in [*TEXTS, " two  spaces ahead", "9 , 12 ! 345 isn't it", "日本語 ", "'", "  "]:
        assert decode(tokenizers[kind], text) == text


def test_byte_bpe_gives_back_what_it_has_never_seen(tokenizers):
    text = "Ζεύς\t\n🙂 ▁ ఒక\u200d <unk"
    assert decode(tokenizers["byte_bpe"], text) == text


@pytest.mark.parametrize("kind", ["unigram", "char", "word", "wordpiece"])
def test_an_unseen_character_becomes_unknown_and_nothing_else_changes(tokenizers, kind):
    ids = tokenizers[kind]("9 Ж 9").input_ids
    assert ids.count(3) == 1
    assert decode(tokenizers[kind], "9 Ж 9").replace(" ", "") == "99"


def test_words_come_back_with_their_spacing(tokenizers):
    for text in TEXTS:
        assert decode(tokenizers["word"], text) == text


def test_wordpiece_gives_back_words_and_punctuation_spaced_afresh(tokenizers):
    assert decode(tokenizers["wordpiece"], "Åland  Islands, isn't it?") == "Åland Islands, isn ' t it?"


def test_text_is_composed_but_by_bytes_and_otherwise_left_as_it_is(tokenizers):
    for kind in ("unigram", "char"):
        assert decode(tokenizers[kind], "Co\u0302te") == "Côte"
    assert decode(tokenizers["byte_bpe"], "TWO ½ ﬁ Co\u0302te") == "TWO ½ ﬁ Co\u0302te"


@pytest.mark.parametrize("kind", ["byte_bpe", "unigram"])
def test_every_digit_is_a_piece_so_that_unseen_numbers_can_be_copied(tokenizers, kind):
    pieces = tokenizers[kind].tokenize("2021 kilomètres")
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)][-3:] == ["0", "2", "1"]


def test_a_vocabulary_larger_than_the_text_supports_is_simply_smaller():
    tokenizer = train_tokenizer(["ab ab"], "char", 5000)
    assert len(tokenizer) == 4 + 3
    assert 260 <= len(train_tokenizer(["ab ab"], "byte_bpe", 5000)) < 270


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("byte_bpe", r"vocab_size \(6\) must be at least 260: 256 bytes"),
        ("unigram", r"vocab_size \(6\) must be at least 8: 4 characters"),
        ("wordpiece", r"vocab_size \(6\) must be at least 10: 6 characters"),
        ("char", r"vocab_size \(6\) must be at least 8: 4 characters"),
    ],
)
def test_a_vocabulary_smaller_than_the_alphabet_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(["abc abc"], kind, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_may_be_a_column_on_disk_or_come_one_by_one(kind, tokenizers):
    class Column:  # of which no list can be made
        __len__ = None

        def __iter__(self):
            return iter([*TEXTS, " "])

    for texts in (Column(), iter(TEXTS)):
        made = train_tokenizer(texts, kind, 600, model_max_length=64)
        assert made.backend_tokenizer.to_str() == tokenizers[kind].backend_tokenizer.to_str()


def test_unknown_kinds_and_empty_texts_are_refused():
    with pytest.raises(ValueError, match="kind must be one of byte_bpe, unigram, .* not 'bpe'"):
        train_tokenizer(TEXTS, "bpe")
    with pytest.raises(ValueError, match="texts must hold at least one text"):
        train_tokenizer(["", " "])


def test_another_process_trains_byte_equal_tokenizers_and_opens_saved_ones_without_this_package(tokenizers, tmp_path):
    """The order of a hash map differs between processes, and between runs in one."""
    code = f"""
import json, sys
from hf_genai.data.tokenizers import KINDS, train_tokenizer
again = {{kind: train_tokenizer({TEXTS!r}, kind, 600, model_max_length=64) for kind in KINDS}}
print(json.dumps([tokenizer.backend_tokenizer.to_str() for tokenizer in again.values()]))
for name in [name for name in sys.modules if name.split(".")[0] == "hf_genai"]:
    del sys.modules[name]
sys.modules["hf_genai"] = None
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast
opened = [AutoTokenizer.from_pretrained({str(tmp_path)!r} + "/" + kind) for kind in again]
print(json.dumps([[t(text).input_ids for text in {TEXTS[:6]!r}] for t in opened]))
print(json.dumps([[t.decode(t(text).input_ids, skip_special_tokens=True) for text in {TEXTS[:6]!r}] for t in opened]))
print(json.dumps([[t.padding_side, t.model_max_length, t.pad_token_id, t.eos_token_id] for t in opened]))
"""
    for kind, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(tmp_path / kind)
    out = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, check=True, encoding="utf8")
    files, ids, decoded, settings = map(json.loads, out.stdout.splitlines())
    for i, (kind, tokenizer) in enumerate(tokenizers.items()):
        assert files[i] == tokenizer.backend_tokenizer.to_str(), kind
        assert ids[i] == [tokenizer(text).input_ids for text in TEXTS[:6]]
        assert decoded[i] == [decode(tokenizer, text) for text in TEXTS[:6]]
    assert settings == [["right", 64, 0, 2]] * len(KINDS)


def test_two_vocabularies_are_saved_and_loaded_and_one_is_shared(tokenizers, tmp_path):
    source, target = tokenizers["byte_bpe"], tokenizers["char"]
    save_tokenizers(tmp_path / "two", source, target)
    one, two = load_tokenizers(tmp_path / "two")
    assert (one.get_vocab(), two.get_vocab()) == (source.get_vocab(), target.get_vocab())
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "two", subfolder="target_tokenizer").get_vocab() == target.get_vocab()
    )
    save_tokenizers(tmp_path / "one", source, source)
    one, two = load_tokenizers(str(tmp_path / "one"))
    assert one is two
    assert not (tmp_path / "one" / "target_tokenizer").exists()


def test_a_target_tokenizer_from_before_is_gone_once_both_are_one(tokenizers, tmp_path):
    source, target = tokenizers["char"], tokenizers["word"]
    save_tokenizers(tmp_path, source, target)
    save_tokenizers(tmp_path, source, source)
    again = load_tokenizers(tmp_path)
    assert again[0] is again[1] and not (tmp_path / "target_tokenizer").exists()
    (tmp_path / "target_tokenizer").mkdir()
    (tmp_path / "target_tokenizer" / "notes.txt").write_text("mine")
    save_tokenizers(tmp_path, source)
    assert (tmp_path / "target_tokenizer" / "notes.txt").read_text() == "mine"


def test_a_causal_models_tokenizer_ends_no_text_until_it_serves_a_classifier_or_a_decoder(tmp_path):
    made = train_tokenizer(["ab ab"], "char", 20, ends_texts=False)
    assert made.decode(made("ab").input_ids) == "ab"
    let_texts_end(made)
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.decode(again("ab").input_ids) == "ab</s>"
    assert again.decode(again("a", "b").input_ids) == "a</s>b</s>"
    assert train_tokenizer(["ab ab"], "char", 20)("ab").input_ids == again("ab").input_ids


def test_the_tokenizers_of_other_makers_keep_their_ends():
    pieces = {"<|endoftext|>": 0, "a": 1, "b": 2, "</s>": 3, "<unk>": 4}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(pieces, "<unk>")), eos_token="</s>")
    let_texts_end(other)
    assert other("a").input_ids == [1]

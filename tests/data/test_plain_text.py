"""Text of users is text, whatever it looks like; masks and sentinels take the space before them."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from hf_genai.data import train_tokenizer
from hf_genai.data.plain_text import (
    control_tokens,
    encode_text,
    join_words,
    naming,
    read_prompts_as_text,
    text_of,
)
from hf_genai.data.tokenizers import KINDS, add_gap_tokens, encode_cut

TEXTS = [
    "price <s>45</s> now 20 <unk> and <pad>, <mask> or <extra_id_0>, says <|user|>",
    "the bird sings in the river, and the cat meows. today",
]
CONTROL = {0, 1, 2, 3}


@pytest.fixture(params=KINDS)
def trained(request):
    return request.param, train_tokenizer(TEXTS * 4, request.param, 400)


def test_what_looks_like_a_control_token_is_text_to_every_kind_also_once_it_is_saved(trained, tmp_path):
    kind, tokenizer = trained
    tokenizer.save_pretrained(tmp_path)
    for made in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        for text in (*TEXTS, "<s>", "</s>", "a</s>", "<pad><unk>", "<s> <s>"):
            ids = made(text)["input_ids"]
            known = CONTROL - {3} if kind == "word" else CONTROL  # of words, not all are kept
            assert [token for token in ids if token in known] == [2] and ids[-1] == 2
            assert encode_cut(made, [text], None)[0] == [ids]
            if 3 in ids:
                continue
            back = made.decode(ids, skip_special_tokens=True)
            assert back == text if kind != "wordpiece" else back.replace(" ", "") == text.replace(" ", "")


def test_byte_bpe_gives_back_any_text_exactly():
    tokenizer = train_tokenizer(TEXTS, "byte_bpe", 300)
    draw = random.Random(0)
    alphabet = [*"<>/|s pad_unk\n\t\r\0", "Å", "\u212b", "A\u030a", "ﬁ", "▁", "Ġ", "\u200b", "\ufdd0", "豈", "👩‍👩‍👧"]

    def character():
        code = draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)))
        return draw.choice((chr(code), draw.choice(alphabet), draw.choice(["<s>", "</s>", "<unk>", "<pad>"])))

    for _ in range(500):
        text = "".join(character() for _ in range(draw.randrange(12)))
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
        assert tokenizer.decode(tokenizer(text)["input_ids"][:-1]) == text


def test_a_mask_takes_the_space_before_it_as_the_word_did(trained, tmp_path):
    kind, tokenizer = trained
    add_gap_tokens(tokenizer, kind, "<mask>", ["<extra_id_0>", "<extra_id_1>"])
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text, end = "the bird sings in the river.", len("the bird sings")
    encoded = encode_text(tokenizer, text)
    ids = encoded["input_ids"]
    spans = [encoded.token_to_chars(place) for place in range(len(ids))]
    after = ids[next(place for place, span in enumerate(spans) if span.end > end) :]
    before = encode_text(tokenizer, "the bird " if kind == "char" else "the bird")["input_ids"][:-1]
    assert ids[: len(before)] == before
    for token in ("<mask>", "<extra_id_1>"):
        in_training = [*before, tokenizer.convert_tokens_to_ids(token), *after]
        assert tokenizer(f"the bird {token} in the river.")["input_ids"] == in_training
        if kind != "char":
            assert tokenizer(f"the bird{token} in the river.")["input_ids"] == in_training
        at_the_end = tokenizer(f"the bird {token}.")["input_ids"]
        assert at_the_end[-2] == encode_text(tokenizer, "the bird sings.")["input_ids"][-2]
    # and in a text to learn from, it is text
    assert not set(encode_text(tokenizer, TEXTS[0])["input_ids"][:-1]) & set(control_tokens(tokenizer).values())


def test_prompts_name_tokens_that_were_added_or_that_a_chat_template_writes(tmp_path):
    tokenizer = train_tokenizer(TEXTS, "byte_bpe", 300)
    assert tokenizer.split_special_tokens
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.save_pretrained(tmp_path / "mask")
    for made in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "mask")):
        assert made("a <mask>")["input_ids"].count(made.mask_token_id) == 1
    tokenizer = train_tokenizer(TEXTS, "byte_bpe", 300, ends_texts=False)
    tokenizer.chat_template = "{{ messages[0]['content'] + eos_token }}"
    chat = [{"role": "user", "content": "a"}]
    tokenizer.save_pretrained(tmp_path / "chat")
    for made in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "chat")):
        assert made.apply_chat_template(chat)["input_ids"] == [*encode_text(made, "a")["input_ids"], 2]
    assert train_tokenizer(TEXTS, "byte_bpe", 300).split_special_tokens


def test_prompts_may_name_some_tokens_and_have_the_others_as_text(trained):
    kind, tokenizer = trained
    add_gap_tokens(tokenizer, kind, "<mask>", ["<extra_id_0>"])
    ids = naming(tokenizer, ["<mask>"])("the <mask> and <s>45</s> or <extra_id_0>")["input_ids"]
    assert [token for token in ids if token in control_tokens(tokenizer).values()] == [tokenizer.mask_token_id, 2]
    assert tokenizer("<s>")["input_ids"] == [1, 2]  # which stays as it was


def other_makers(name):
    if name == "unigram":  # T5's and XLM-RoBERTa's kind, in which control tokens are the likeliest pieces
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -5.0) for c in "▁</s>padb2")]
        backend = Tokenizer(models.Unigram(pieces, unk_id=2))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ), "</s>"
    if name == "bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", "a", "b"]
        return BertTokenizer(vocab={word: place for place, word in enumerate(words)}), "[SEP]"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: place for place, token in enumerate([*alphabet, "<|endoftext|>"])}
    return GPT2Tokenizer(vocab=vocab, merges=[]), "<|endoftext|>"


@pytest.mark.parametrize("name", ["unigram", "bert", "gpt2"])
def test_tokenizers_of_other_makers_read_texts_as_text_in_training_and_once_they_are_saved(name, tmp_path):
    tokenizer, token = other_makers(name)
    number = tokenizer.convert_tokens_to_ids(token)
    text = f"a {token} b"
    assert number in tokenizer(text, add_special_tokens=False)["input_ids"]
    assert number not in encode_text(tokenizer, text, add_special_tokens=False)["input_ids"]
    read_prompts_as_text(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    ids = again(text, add_special_tokens=False)["input_ids"]
    assert number not in ids
    assert ids == encode_text(tokenizer, text, add_special_tokens=False)["input_ids"]


def test_answers_are_shown_without_control_tokens():
    tokenizer = train_tokenizer(TEXTS, "byte_bpe", 300)
    assert text_of(tokenizer, [1, *tokenizer("<s>a")["input_ids"], 0, 0]) == "<s>a"
    assert text_of(tokenizer, [0, 2]) == ""


def test_words_make_a_running_text_with_spaces_where_their_script_has_them():
    assert join_words(["New", "York", "hat"]) == ("New York hat", [0, 4, 9])
    assert join_words(["東京", "都", "に", "IBM", "がある", "。"]) == ("東京都に IBM がある。", [0, 2, 3, 5, 9, 12])
    assert join_words(["서울", "은"]) == ("서울 은", [0, 3])
    assert join_words(["", "a", "", "b"]) == ("a b", [0, 0, 1, 2])
    assert join_words([]) == ("", [])

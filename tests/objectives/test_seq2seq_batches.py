import pytest
import torch
from datasets import Dataset
from transformers import MarianConfig, T5Config, T5ForConditionalGeneration

from hf_genai import GenaiRNNConfig
from hf_genai.data import train_tokenizer
from hf_genai.objectives.seq2seq import Seq2SeqCollator, check_vocabulary, tokenize_pairs

EXAMPLES = [
    {"input_ids": [5, 6, 2], "labels": [7, 2], "length": 5},
    {"input_ids": [8, 2], "labels": [9, 10, 2], "length": 5},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["abcdefgh"], "char", 12)  # a is 4, h is 11


@pytest.fixture(scope="module")
def model():
    config = T5Config(
        vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, eos_token_id=2, decoder_start_token_id=1
    )
    return T5ForConditionalGeneration(config)


def test_a_batch_is_the_one_in_the_docstring(tokenizer, model):
    batch = Seq2SeqCollator(tokenizer, model)(EXAMPLES)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[5, 6, 2], [8, 2, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[7, 2, -100], [9, 10, 2]],
        "decoder_input_ids": [[1, 7, 2], [1, 9, 10]],
    }
    assert torch.isfinite(model(**batch).loss)
    assert EXAMPLES[0] == {"input_ids": [5, 6, 2], "labels": [7, 2], "length": 5}


def test_without_a_model_the_labels_are_left_to_its_forward(tokenizer):
    assert set(Seq2SeqCollator(tokenizer)(EXAMPLES)) == {"input_ids", "attention_mask", "labels"}


def test_lengths_are_rounded_up_with_padding_that_is_masked_and_ignored(tokenizer):
    batch = Seq2SeqCollator(tokenizer, pad_to_multiple_of=4)(EXAMPLES)
    assert batch["input_ids"].tolist() == [[5, 6, 2, 0], [8, 2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[7, 2, -100, -100], [9, 10, 2, -100]]


def test_an_empty_batch_is_refused(tokenizer):
    with pytest.raises(ValueError, match="examples must hold at least one example"):
        Seq2SeqCollator(tokenizer)([])


def test_pairs_become_ids_that_end_in_the_end_token(tokenizer):
    dataset = Dataset.from_dict({"source": ["ab", "c"], "target": ["d", "efg"]})
    tokenized, report = tokenize_pairs(dataset, tokenizer)
    assert tokenized.to_dict() == {
        "input_ids": [[4, 5, 2], [6, 2]],
        "labels": [[7, 2], [8, 9, 10, 2]],
        "length": [5, 6],
    }
    assert (report.num_pairs, report.truncated_sources, report.truncated_targets) == (2, 0, 0)
    assert report.max_source_length == 512  # the tokenizer's own


def test_cut_texts_keep_their_end_token_and_are_counted(tokenizer, tmp_path):
    dataset = Dataset.from_dict({"source": ["abcd", "abc", "a"], "target": ["abc", "abcdef", "abcde"]})
    dataset.save_to_disk(tmp_path)
    dataset = Dataset.load_from_disk(tmp_path)  # only a dataset with a file has a cache
    for _ in range(2):  # a cached result would forget to count
        tokenized, report = tokenize_pairs(dataset, tokenizer, max_source_length=4, max_target_length=3)
        assert tokenized["input_ids"][:] == [[4, 5, 6, 2], [4, 5, 6, 2], [4, 2]]
        assert tokenized["labels"][:] == [[4, 5, 2]] * 3
        assert str(report) == "3 pairs: 1 sources cut at 4 ids, 3 targets at 3"


def test_source_and_target_can_have_vocabularies_of_their_own(tokenizer):
    other = train_tokenizer(["hgfedcba"], "char", 12, model_max_length=3)
    other.add_tokens(["zz"])
    dataset = Dataset.from_dict({"source": ["zz"], "target": ["azzb"]})
    tokenized, report = tokenize_pairs(dataset, tokenizer, other)
    assert tokenized[0] == {"input_ids": [3, 3, 2], "labels": [4, 12, 2], "length": 6}
    assert report.truncated_targets == 1


def test_targets_are_encoded_as_targets(tokenizer, monkeypatch):
    """Tokenizers of some models, such as Marian, hold two vocabularies and switch between them."""
    switched = []
    monkeypatch.setattr(tokenizer, "_switch_to_target_mode", lambda: switched.append(True), raising=False)
    tokenize_pairs(Dataset.from_dict({"source": ["a"], "target": ["b"]}), tokenizer)
    assert switched


def test_wrong_tables_and_limits_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"lacks the columns \['target'\]; columns found: \['source'\]"):
        tokenize_pairs(Dataset.from_dict({"source": ["a"]}), tokenizer)
    dataset = Dataset.from_dict({"source": ["a"], "target": ["b"]})
    with pytest.raises(ValueError, match="max_target_length must be at least 2 .* not 1"):
        tokenize_pairs(dataset, tokenizer, max_target_length=1)


def test_a_vocabulary_smaller_than_the_ids_is_refused(tokenizer, model):
    check_vocabulary(tokenizer, model.config)
    with pytest.raises(ValueError, match="ids up to 11, so vocab_size must be at least 12, not 11"):
        check_vocabulary(tokenizer, T5Config(vocab_size=11, eos_token_id=2))
    larger = train_tokenizer(["abcdefghij"], "char", 20)
    with pytest.raises(ValueError, match="tokenizer has ids up to 13, so vocab_size must be at least 14, not 12"):
        check_vocabulary(larger, model.config)
    with pytest.raises(ValueError, match="target_tokenizer has ids up to 13, so vocab_size must be"):
        check_vocabulary(tokenizer, model.config, larger)
    two = {"vocab_size": 14, "source_vocab_size": 12, "share_encoder_decoder_embeddings": False}
    check_vocabulary(tokenizer, GenaiRNNConfig(**two), larger)
    with pytest.raises(
        ValueError, match="tokenizer has ids up to 13, so source_vocab_size must be at least 14, not 12"
    ):
        check_vocabulary(larger, GenaiRNNConfig(**two), larger)
    with pytest.raises(ValueError, match="target_tokenizer has ids up to 13, so decoder_vocab_size must be"):
        check_vocabulary(
            tokenizer, MarianConfig(vocab_size=14, decoder_vocab_size=12, eos_token_id=2, pad_token_id=0), larger
        )
    with pytest.raises(ValueError, match="eos_token_id 2 but the model's config has 1"):
        check_vocabulary(tokenizer, T5Config(vocab_size=12, eos_token_id=1))

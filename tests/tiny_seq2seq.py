"""Tiny random encoder-decoders and tokenizers for tests: made in memory, in milliseconds."""

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_genai import GenaiRNNConfig, GenaiRNNForConditionalGeneration

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
TEXTS = [
    "the red house is very old",
    "don't open the doors, it costs 3.14 euros!",
    "la maison rouge n'est pas très vieille",
    "日本語の文章です。中文也行",
    "البيت الأحمر قديم جدا",
    "הבית האדום ישן מאוד",
]


def make_tokenizer(kind: str = "byte_bpe", texts: list[str] = TEXTS, vocab_size: int = 380, **kwargs):
    """A fast tokenizer with <pad>=0, <s>=1, </s>=2, <unk>=3 whose texts end in </s>."""
    if kind == "byte_bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab_size, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False)
    elif kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    special = dict(zip(["pad_token", "bos_token", "eos_token", "unk_token"], SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **kwargs)


def make_model(family: str = "bart", vocab_size: int = 380, seed: int = 0, **config) -> PreTrainedModel:
    """A random model in evaluation mode; weights are large, so that attention and outputs are far from uniform."""
    torch.manual_seed(seed)
    ids = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": None,
    }
    if family == "rnn":
        sizes = {"embedding_size": 16, "hidden_size": 16}
        config.pop("attn_implementation", None)
        model = GenaiRNNForConditionalGeneration(GenaiRNNConfig(vocab_size=vocab_size, **sizes, **{**ids, **config}))
    elif family == "t5":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        model = T5ForConditionalGeneration(T5Config(vocab_size=vocab_size, **sizes, **{**ids, **config}))
    else:
        sizes = {"d_model": 16, "max_position_embeddings": 64}
        for side in ("encoder", "decoder"):
            sizes |= {f"{side}_layers": 2, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 32}
        config_class, model_class = {
            "bart": (BartConfig, BartForConditionalGeneration),
            "marian": (MarianConfig, MarianMTModel),
        }[family]
        ids["forced_eos_token_id"] = None  # Bart would end every text at its longest
        model = model_class(config_class(vocab_size=vocab_size, **sizes, **{**ids, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
    return model.eval()

"""Recurrent peers at given sizes: JoeyNMT, OpenNMT-py, and the loop of the classic PyTorch tutorial."""

import logging
import sys
import types
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD, BOS, EOS, UNK = 0, 1, 2, 3


def make_batch(batch_size: int, vocab_size: int, shortest: int = 22, longest: int = 30) -> dict[str, Tensor]:
    """Return random ids of similar lengths: src (B, S), longest first because JoeyNMT wants it, and trg (B, 1 + T)."""
    generator = torch.Generator().manual_seed(1)

    def make_ids(lengths: Tensor) -> Tensor:
        ids = torch.randint(4, vocab_size, (batch_size, int(lengths.max())), generator=generator)
        position = torch.arange(ids.shape[1])
        ids[position == lengths[:, None] - 1] = EOS
        ids[position >= lengths[:, None]] = PAD
        return ids

    lengths = torch.randint(shortest, longest + 1, (2, batch_size), generator=generator)
    lengths[:, 0] = longest
    source_length = lengths[0].sort(descending=True).values
    target = make_ids(lengths[1])
    return {
        "src": make_ids(source_length),
        "src_length": source_length,
        "trg": torch.cat([torch.full((batch_size, 1), BOS), target], 1),
    }


def joeynmt_model(hidden_size: int, vocab_size: int):
    """Return JoeyNMT's recurrent model: bidirectional GRU encoder, additive attention, input feeding."""
    logging.disable(logging.WARNING)
    from joeynmt.model import build_model
    from joeynmt.vocabulary import Vocabulary

    special = SimpleNamespace(
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        sep_token=None,
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        unk_id=UNK,
        lang_tags=[],
    )
    Vocabulary.add_tokens = _add_tokens  # JoeyNMT's own searches a list for each token: minutes at 8,000
    vocabulary = Vocabulary([], special)
    vocabulary._itos = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(4, vocab_size))]
    vocabulary._stoi = {token: i for i, token in enumerate(vocabulary._itos)}
    shared = {
        "type": "recurrent",
        "rnn_type": "gru",
        "hidden_size": hidden_size,
        "dropout": 0.0,
        "num_layers": 1,
        "embeddings": {"embedding_dim": hidden_size, "dropout": 0.0},
    }
    decoder = {"input_feeding": True, "attention": "bahdanau", "init_hidden": "bridge", "hidden_dropout": 0.0}
    config = {
        "initializer": "xavier_uniform",
        "encoder": {**shared, "bidirectional": True},
        "decoder": {**shared, **decoder},
    }
    model = build_model(config, vocabulary, vocabulary)
    model.loss_function = ("crossentropy", 0.0)
    return model.train()


def _add_tokens(self, tokens):
    for token in ["<pad>", "<s>", "</s>", "<unk>"]:
        if token not in self._stoi:
            self._stoi[token] = len(self._itos)
            self._itos.append(token)


def joeynmt_batch(data: dict[str, Tensor], with_target: bool = True):
    """Return a batch of `make_batch` as JoeyNMT's own; without a target, for its search."""
    from joeynmt.batch import Batch

    return Batch(
        src=data["src"],
        src_length=data["src_length"],
        src_prompt_mask=None,
        trg=data["trg"] if with_target else None,
        trg_prompt_mask=None,
        indices=torch.arange(len(data["src"])),
        device=torch.device("cpu"),
        pad_index=PAD,
        eos_index=EOS,
        is_train=with_target,
    )


def joeynmt_loss(model, joey_batch) -> Tensor:
    """Return the loss per token like JoeyNMT's trainer, without its count of correct tokens."""
    out, *_ = model._encode_decode(**vars(joey_batch))
    log_probs = F.log_softmax(out, dim=-1)
    return model.loss_function(log_probs, **vars(joey_batch)) / joey_batch.ntokens


# nn.GRU's name of a parameter -> its name in layers of linear maps. TODO: goes once the encoder's layers are nn.GRU
GRU_PARAMETERS = {
    "weight_ih_l0": "input_proj.weight",
    "weight_hh_l0": "hidden_proj.weight",
    "bias_ih_l0": "input_proj.bias",
    "bias_hh_l0": "hidden_proj.bias",
}


def joeynmt_names(ours: nn.Module) -> list[tuple[str, str, slice]]:
    """Return (hf_genai's parameter, JoeyNMT's parameter, JoeyNMT's columns) for each pair of equal weights."""
    parameters = dict(ours.named_parameters())
    everything, front, back = slice(None), slice(None, -1), slice(-1, None)  # -1: the hidden size, see `columns`
    pairs = []
    for direction, theirs in (("left_to_right", ""), ("right_to_left", "_reverse")):
        for parameter, linear in GRU_PARAMETERS.items():
            name = f"model.encoder.layers.0.{direction}.rnn.{parameter}"
            if name not in parameters:
                name = f"model.encoder.layers.0.{direction}.{linear}"
            pairs.append((name, f"encoder.rnn.{parameter}{theirs}", everything))
    layer = "model.decoder.layers.0."
    attention = f"{layer}attention."
    return [
        *pairs,
        ("model.encoder.embed_tokens.weight", "src_embed.lut.weight", everything),
        ("model.decoder.embed_tokens.weight", "trg_embed.lut.weight", everything),
        ("model.decoder.bridge.weight", "decoder.bridge_layer.weight", everything),
        ("model.decoder.bridge.bias", "decoder.bridge_layer.bias", everything),
        (f"{layer}input_proj.weight", "decoder.rnn.weight_ih_l0", front),
        (f"{layer}feed_proj.weight", "decoder.rnn.weight_ih_l0", back),
        (f"{layer}input_proj.bias", "decoder.rnn.bias_ih_l0", everything),
        (f"{layer}hidden_proj.weight", "decoder.rnn.weight_hh_l0", everything),
        (f"{layer}hidden_proj.bias", "decoder.rnn.bias_hh_l0", everything),
        (f"{attention}key_proj.weight", "decoder.attention.key_layer.weight", everything),
        (f"{attention}query_proj.weight", "decoder.attention.query_layer.weight", everything),
        (f"{attention}score_function.energy.weight", "decoder.attention.energy_layer.weight", everything),
        (f"{attention}state_proj.weight", "decoder.att_vector_layer.weight", front),
        (f"{attention}context_proj.weight", "decoder.att_vector_layer.weight", back),
        (f"{attention}context_proj.bias", "decoder.att_vector_layer.bias", everything),
        ("lm_head.weight", "decoder.output_layer.weight", everything),
    ]


def columns(tensor: Tensor, part: slice, hidden_size: int) -> Tensor:
    """Return the part of JoeyNMT's weight that is a weight of its own here: up to or from column `hidden_size`."""
    if part == slice(None):
        return tensor
    return tensor[:, :hidden_size] if part.start is None else tensor[:, hidden_size:]


def copy_joeynmt_weights(ours: nn.Module, theirs: nn.Module, hidden_size: int) -> None:
    """Give our model JoeyNMT's weights."""
    our_parameters, their_parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in our_parameters.items():
            if name.endswith("key_proj.bias"):
                parameter.zero_()  # JoeyNMT's keys have no bias, and the softmax cancels it
        for name, peer, part in joeynmt_names(ours):
            our_parameters[name].copy_(columns(their_parameters[peer], part, hidden_size))


def replace_unused_imports() -> None:
    """Put empty modules where OpenNMT-py imports packages for transforms that no benchmark uses."""
    sys.modules.setdefault("spacy", types.ModuleType("spacy"))
    sys.modules["spacy"].Language = object
    for name in ("ctranslate2", "fasttext"):
        sys.modules.setdefault(name, types.ModuleType(name))


class OpenNMT(nn.Module):
    """OpenNMT-py's GRU: encoder with both directions in `hidden_size`, general attention after the decoder, fed back
    as an input of the next step or not."""

    def __init__(self, hidden_size: int, vocab_size: int, fed: bool):
        super().__init__()
        logging.disable(logging.WARNING)
        replace_unused_imports()
        from onmt.decoders.decoder import InputFeedRNNDecoder, StdRNNDecoder
        from onmt.encoders.rnn_encoder import RNNEncoder
        from onmt.modules import Embeddings

        def embeddings():
            return Embeddings(word_vec_size=hidden_size, word_vocab_size=vocab_size, word_padding_idx=PAD)

        self.encoder = RNNEncoder("GRU", True, 1, hidden_size, 0.0, embeddings())
        decoder = InputFeedRNNDecoder if fed else StdRNNDecoder
        self.decoder = decoder("GRU", True, 1, hidden_size, attn_type="general", embeddings=embeddings())
        self.generator = nn.Linear(hidden_size, vocab_size)

    def forward(self, data: dict[str, Tensor]) -> Tensor:
        source, target = data["src"].unsqueeze(2), data["trg"]
        memory, final, lengths = self.encoder(source, data["src_length"])
        self.decoder.init_state(source, memory, final)
        hidden, _ = self.decoder(target[:, :-1].unsqueeze(2), memory, src_len=lengths)
        logits = self.generator(hidden.flatten(0, 1))
        return F.cross_entropy(logits, target[:, 1:].flatten(), ignore_index=PAD)


class TutorialLoop(nn.Module):
    """The translator of tutorials: additive attention, input feeding, one step at a time, projecting keys at each."""

    def __init__(self, hidden_size: int, vocab_size: int):
        super().__init__()
        self.source_embedding = nn.Embedding(vocab_size, hidden_size, PAD)
        self.target_embedding = nn.Embedding(vocab_size, hidden_size, PAD)
        self.encoder = nn.GRU(hidden_size, hidden_size, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * hidden_size, hidden_size)
        self.decoder = nn.GRU(2 * hidden_size, hidden_size, batch_first=True)
        self.key = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.energy = nn.Linear(hidden_size, 1, bias=False)
        self.readout = nn.Linear(3 * hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, vocab_size, bias=False)

    def forward(self, data: dict[str, Tensor]) -> Tensor:
        source, target = data["src"], data["trg"]
        packed = nn.utils.rnn.pack_padded_sequence(self.source_embedding(source), data["src_length"], batch_first=True)
        memory, final = self.encoder(packed)
        memory, _ = nn.utils.rnn.pad_packed_sequence(memory, batch_first=True)
        hidden = torch.tanh(self.bridge(torch.cat([final[0], final[1]], 1))).unsqueeze(0)
        feed, logits = torch.zeros_like(hidden[0]), []
        for t in range(target.shape[1] - 1):
            embedded = self.target_embedding(target[:, t : t + 1])
            _, hidden = self.decoder(torch.cat([embedded, feed.unsqueeze(1)], 2), hidden)
            scores = self.energy(torch.tanh(self.key(memory) + self.query(hidden[0]).unsqueeze(1))).squeeze(2)
            weights = scores.masked_fill(source == PAD, float("-inf")).softmax(1)
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            feed = torch.tanh(self.readout(torch.cat([hidden[0], context], 1)))
            logits.append(self.output(feed))
        logits = torch.stack(logits, 1)
        return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD)

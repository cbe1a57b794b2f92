"""Every registered model class with tiny configurations, and batches for it: the cases of the common battery."""

from dataclasses import dataclass

import tiny_rnn
import tiny_transformer as tiny
import torch
from torch import nn

from hf_genai.registry import FAMILIES, load

RNN, BERT, GPT, T5 = "genai_rnn", "genai_bert", "genai_gpt", "genai_t5"
SIZES = {RNN: tiny_rnn.SIZES, BERT: tiny.SIZES, GPT: tiny.SIZES, T5: tiny.SIZES}
DROPOUT = {RNN: "dropout", BERT: "hidden_dropout_prob", GPT: "hidden_dropout_prob", T5: "hidden_dropout_prob"}
# family -> Auto class -> what the model makes of what: of a source and a target ("seq2seq"), or of one text a vector
# or a guess for each token ("encoder", "decoder", "masked", "causal", "token", "span") or one for all ("sequence",
# "choice", "relation"), or both ("pretraining")
KINDS = {
    RNN: {"AutoModel": "seq2seq", "AutoModelForSeq2SeqLM": "seq2seq", "AutoModelForCausalLM": "causal"},
    BERT: {
        **{"AutoModel": "encoder", "AutoModelForMaskedLM": "masked", "AutoModelForCausalLM": "causal"},
        **{"AutoModelForPreTraining": "pretraining", "AutoModelForNextSentencePrediction": "relation"},
        **{"AutoModelForMultipleChoice": "choice"},
    },
    GPT: {"AutoModel": "decoder", "AutoModelForCausalLM": "causal"},
    T5: {"AutoModel": "seq2seq", "AutoModelForTextEncoding": "encoder", "AutoModelForSeq2SeqLM": "seq2seq"},
}
CLASSIFIERS = {
    "AutoModelForSequenceClassification": "sequence",
    "AutoModelForTokenClassification": "token",
    "AutoModelForQuestionAnswering": "span",
}
# every variant goes through the model that the family is for; the other heads take one or two
ALL_VARIANTS = {
    **{(RNN, "AutoModelForSeq2SeqLM"): tiny_rnn.ENCODER_DECODERS, (BERT, "AutoModelForMaskedLM"): tiny.BERTS},
    **{(GPT, "AutoModelForCausalLM"): tiny.GPTS, (T5, "AutoModelForSeq2SeqLM"): tiny.T5S},
}
OF_OTHER_HEADS = {
    (RNN, "AutoModel"): dict(list(tiny_rnn.ENCODER_DECODERS.items())[1:4]),
    (RNN, None): tiny_rnn.STACKS,
    (BERT, "AutoModel"): {name: tiny.BERTS[name] for name in ("modern", "roberta, no token types")},
    (BERT, "AutoModelForCausalLM"): {
        name: {**tiny.BERTS[name], "is_decoder": True} for name in ("modern", "roberta, no token types")
    },
    (BERT, None): {"classic": tiny.BERTS["classic"]},
    (GPT, "AutoModel"): {"dot, relative, untied": tiny.GPTS["dot, relative, untied"]},
    (GPT, None): {"modern": tiny.GPTS["modern"]},
    (T5, "AutoModel"): {"learned, untied, of two depths": tiny.T5S["learned, untied, of two depths"]},
    (T5, None): {"classic": tiny.T5S["classic"]},
}
BATCH, SOURCE, TARGET, LABELS, CHOICES = 3, 6, 5, 4, 2
LABEL_NAMES = ("labels", "start_positions")


@dataclass
class Case:
    """One model class with one tiny configuration."""

    family: str
    auto_class: str
    name: str
    variant: dict

    @property
    def kind(self) -> str:
        return (KINDS[self.family] | CLASSIFIERS)[self.auto_class]

    @property
    def has_head(self) -> bool:
        return self.kind not in ("encoder", "decoder") and self.auto_class != "AutoModel"

    @property
    def generates(self) -> bool:
        return self.has_head and self.kind in ("seq2seq", "causal")

    @property
    def has_cache(self) -> bool:
        return self.kind in ("seq2seq", "causal", "decoder")

    @property
    def per_token(self) -> bool:
        return self.kind not in ("sequence", "choice", "relation")

    @property
    def runs_decoder(self) -> bool:
        """Whether a source goes through an encoder, and something else or itself through a decoder."""
        return self.kind == "seq2seq" or (self.family == T5 and self.kind in ("sequence", "span"))

    @property
    def packs(self) -> bool:
        """Whether one row may hold several texts."""
        return self.family != RNN and self.per_token and not self.runs_decoder

    def config(self, **more):
        if (dropout := more.pop("dropout", None)) is not None:
            more[DROPOUT[self.family]] = dropout
        config_class = load(self.family, FAMILIES[self.family][1])
        return config_class(**{**SIZES[self.family], "num_labels": LABELS, **self.variant, **more})

    def model(self, seed: int = 0, **more) -> nn.Module:
        """Freshly initialised, in evaluation mode."""
        torch.manual_seed(seed)
        return load(self.family, self.name)(self.config(**more)).eval()

    def loud_model(self, std: float = 0.7, **more) -> nn.Module:
        return tiny_rnn.loud(self.model(**more), std)

    def batch(
        self, source_side: str | None = None, target_side: str | None = None, labels: bool = False, **more
    ) -> dict:
        """Sentences of different lengths; padded on a side or, with None, all of them whole."""
        config = self.config(**more)
        shortest = {"shortest": SOURCE} if source_side is None else {}
        vocabulary = config.vocab_size
        if self.family == RNN and self.kind != "causal":
            vocabulary = config.source_vocab_size or vocabulary
        ids, mask = tiny_rnn.ragged(BATCH, SOURCE, vocabulary, source_side or "right", **shortest)
        if self.family == T5 and self.kind == "sequence":  # the end of a text is what it is classified from
            last = (torch.arange(SOURCE) * mask).argmax(1)
            ids[torch.arange(BATCH), last] = config.eos_token_id
        if self.kind == "choice":
            other = torch.where(mask.bool(), (ids * 5) % (vocabulary - 3) + 3, ids)
            ids, mask = torch.stack([ids, other], 1), torch.stack([mask, mask], 1)  # (B, C, S)
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.kind == "seq2seq":
            shortest = {"shortest": TARGET} if target_side is None else {}
            side = target_side or "right"
            target, target_mask = tiny_rnn.ragged(BATCH, TARGET, config.vocab_size, side, seed=1, **shortest)
            batch |= {"decoder_input_ids": target, "decoder_attention_mask": target_mask}
        if not (labels and self.has_head):
            return batch
        generator = torch.Generator().manual_seed(2)
        if self.kind in ("sequence", "choice", "relation"):
            count = LABELS if self.kind == "sequence" else CHOICES
            batch["labels"] = torch.randint(count, (BATCH,), generator=generator)
        elif self.kind == "token":
            classes = torch.randint(LABELS, (BATCH, SOURCE), generator=generator)
            batch["labels"] = classes.masked_fill(mask == 0, -100)
        elif self.kind == "span":
            first = mask.argmax(1)
            batch |= {"start_positions": first, "end_positions": first + 1}
        elif self.kind in ("causal", "masked", "pretraining"):
            batch["labels"] = ids.masked_fill(mask == 0, -100)
            if self.kind == "pretraining":
                batch["next_sentence_label"] = torch.randint(2, (BATCH,), generator=generator)
        else:
            batch["labels"] = batch.pop("decoder_input_ids").masked_fill(target_mask == 0, -100)
            del batch["decoder_attention_mask"]
        return batch

    def loss(self, model: nn.Module, batch: dict) -> torch.Tensor:
        """The model's own loss or, of a model without a head, the squared distance to something fixed."""
        outputs = model(**batch)
        if any(name in batch for name in LABEL_NAMES):
            return outputs.loss
        losses = [
            (made.float() - torch.linspace(-1, 1, made.numel()).view_as(made)).square().mean()
            for made in (outputs[0], outputs.get("pooler_output"))
            if made is not None
        ]
        return sum(losses)


def cases() -> list[Case]:
    found = []
    for family in FAMILIES:
        for auto_class, name in load(family, FAMILIES[family][1]).auto_classes.items():
            some = OF_OTHER_HEADS.get((family, auto_class)) or OF_OTHER_HEADS[family, None]
            variants = ALL_VARIANTS.get((family, auto_class)) or some
            found += [
                (f"{name}-{label}", Case(family, auto_class, name, variant)) for label, variant in variants.items()
            ]
    return found

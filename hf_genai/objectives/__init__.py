"""What a batch is, for each way of training: a file and a collator each."""

from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Objective:
    """What a recipe needs to know of an objective. Names, so that the table loads neither torch nor transformers."""

    collator: str  # class, "module:name"
    auto_class: str  # of transformers
    metrics: tuple[str, ...]  # the first one chooses the best checkpoint

    def load_collator(self) -> type:
        module, name = self.collator.split(":")
        return getattr(import_module(module), name)


OBJECTIVES = {
    "seq2seq": Objective(
        collator="hf_genai.objectives.seq2seq:Seq2SeqCollator",
        auto_class="AutoModelForSeq2SeqLM",
        metrics=("bleu", "chrf", "exact_match"),
    ),
}

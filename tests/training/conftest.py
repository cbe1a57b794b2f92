import pytest
import torch
from datasets import Dataset

from hf_genai import GenaiRNNConfig, GenaiRNNForConditionalGeneration
from hf_genai.objectives.seq2seq import Seq2SeqCollator
from hf_genai.training.arguments import RecipeTrainingArguments
from hf_genai.training.trainer import GenaiSeq2SeqTrainer


@pytest.fixture
def tiny_trainer():
    """A trainer of a model with a few hundred weights on eight random pairs."""
    from tiny_seq2seq import make_tokenizer

    def make(folder, model=None, callbacks=(), **options):
        torch.manual_seed(0)
        model = model or GenaiRNNForConditionalGeneration(GenaiRNNConfig(vocab_size=16, hidden_size=8, dropout=0.1))
        rows = torch.randint(4, 16, (8, 2, 5)).tolist()
        rows = [{"input_ids": source, "labels": target, "length": 10} for source, target in rows]
        options = {"per_device_train_batch_size": 4, **options}
        arguments = RecipeTrainingArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True, **options)
        return GenaiSeq2SeqTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:4]),
            data_collator=Seq2SeqCollator(make_tokenizer("char"), model=model),
            callbacks=list(callbacks),
        )

    return make

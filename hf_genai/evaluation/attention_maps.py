"""What the decoder looked at: one map (target words x source words) per generated sequence.

`attention_maps` reads the output of any `generate()` (greedy, sampling, beam, several sequences per source) or of a
teacher-forced forward pass. Shapes: B sources, N returned sequences, T target tokens, S source tokens, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .words import word_groups

logger = logging.get_logger(__name__)

MISSING = (
    "the output holds no cross_attentions: ask for output_attentions=True (in generate() return_dict_in_generate=True "
    'too), and load the model with attn_implementation="eager", since sdpa and flash attention return no weights; '
    "a model without attention has no maps"
)


@dataclass(frozen=True)
class AttentionMap:
    """Attention weights between the words of one source and one target.

    Args:
        source_tokens: S labels of the columns.
        target_tokens: T labels of the rows.
        weights: (T, S), 0-1; each row sums to 1, except a row whose whole weight lay on trimmed tokens: that one is 0.
        trimmed: (T,) share of each row's weight, 0-1, that lay on trimmed source tokens (`</s>` as a rule) before the
            rest was scaled up to 1. Near 1 means that the row shows next to nothing of what the decoder looked at.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    weights: np.ndarray
    trimmed: np.ndarray

    def __post_init__(self):
        expected = (len(self.target_tokens), len(self.source_tokens))
        if self.weights.shape != expected:
            raise ValueError(f"weights must be (target tokens, source tokens) {expected}, got {self.weights.shape}")


def attention_maps(
    output: Any,
    input_ids: Tensor,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    words: bool = True,
    skip_special_tokens: bool = True,
) -> list[AttentionMap]:
    """Return one map per returned sequence (generate) or per row (forward pass), in order.

    Row i shows the weights with which target token i was chosen; tokens of a decoder prompt after its first count too.

    Args:
        output: of `generate(..., return_dict_in_generate=True, output_attentions=True)`, or of a forward pass with
            output_attentions=True.
        input_ids: (B, S) sources as the model got them.
        target_tokenizer: source_tokenizer if None.
        attention_mask: (B, S), 1 keep, 0 pad; if None, everything but source_tokenizer's pad token.
        labels: (B, T) token ids that the rows of a forward pass predict, -100 ignored; only for a forward pass.
        layers, heads: which to average, negative numbers count from the end; None averages all.
        words: join sub-words to words: columns are summed, rows averaged.
        skip_special_tokens: drop the rows and columns of special tokens (unknown words stay) and scale each row up
            to a sum of 1. Padding is dropped in any case.

    Raises:
        ValueError: if there are no attentions, shapes do not fit, or a layer or head does not exist.
    """
    target_tokenizer = target_tokenizer or source_tokenizer
    if attention_mask is None:
        pad = source_tokenizer.pad_token_id
        attention_mask = torch.ones_like(input_ids) if pad is None else (input_ids != pad).long()
    if getattr(output, "sequences", None) is not None:
        if labels is not None:
            raise ValueError("labels are for a forward pass; the output of generate() has its own sequences")
        targets = _trimmed_sequences(output, target_tokenizer)
        rows = generated_attention(output, layers, heads)
    else:
        if labels is None:
            raise ValueError("labels are needed with the output of a forward pass: the ids that its rows predict")
        targets = [row.tolist() for row in labels]
        rows = list(_average(_checked(output.cross_attentions), layers, heads))
    if len(rows) % len(input_ids):
        raise ValueError(f"{len(rows)} sequences cannot come from {len(input_ids)} sources (input_ids)")
    per_source = len(rows) // len(input_ids)

    maps = []
    for index, (weights, target) in enumerate(zip(rows, targets, strict=True)):
        source = input_ids[index // per_source].tolist()
        if weights.shape[-1] != len(source):
            raise ValueError(f"weights cover {weights.shape[-1]} source tokens, input_ids has {len(source)}")
        keep_source = _kept(source, source_tokenizer, skip_special_tokens)
        keep_source &= attention_mask[index // per_source].bool().cpu().numpy()
        keep_target = _kept(target, target_tokenizer, skip_special_tokens)
        weights = weights[: len(target)].double().cpu().numpy()[keep_target]  # (kept T, S)
        maps.append(
            _build(
                weights,
                [token for token, keep in zip(source, keep_source, strict=True) if keep],
                [token for token, keep in zip(target, keep_target, strict=True) if keep],
                keep_source,
                (source_tokenizer, target_tokenizer),
                words,
            )
        )
    return maps


def generated_attention(
    output: Any, layers: int | Sequence[int] | None = None, heads: int | Sequence[int] | None = None
) -> list[Tensor]:
    """Return (T, S) weights per returned sequence of `generate()`; row i led to token i + 1 of the sequence.

    A beam's weights lie in another row of the batch at every step: `beam_indices` names the row that each returned
    sequence was in when its token was chosen, with -1 after its end. Sequences keep their row in greedy search and
    sampling.

    Assisted decoding (also prompt lookup) in transformers 5.23 keeps the prompt's rows in place of those of the tokens
    that the first guess got right. That is noticed here, with a warning; a forward pass gives the true weights.
    """
    steps = output.cross_attentions
    if not steps:
        raise ValueError(MISSING)
    _warn_of_repeated_rows(steps)
    num_sequences, length = output.sequences.shape
    prompt = length - len(steps)
    beam_indices = getattr(output, "beam_indices", None)
    if beam_indices is not None:
        prompt = length - beam_indices.shape[1]
    rows = []  # per step (N, 1 or prompt length, S)
    for step, layer_weights in enumerate(steps[: length - prompt]):
        weights = _average(_checked(layer_weights), layers, heads)  # (rows, queries, S)
        # the first step reads the whole prompt; without a cache, later steps read it again
        weights = weights[:, -prompt:] if step == 0 else weights[:, -1:]
        if beam_indices is not None:
            beam = beam_indices[:, step].to(weights.device).long()
            weights = weights[beam.clamp(min=0)] * (beam >= 0)[:, None, None]  # nothing after a sequence's end
        if len(weights) != num_sequences:
            raise ValueError(f"{num_sequences} sequences, but attention weights for {len(weights)}")
        rows.append(weights)
    return list(torch.cat(rows, dim=1))


def _warn_of_repeated_rows(steps: Any) -> None:
    first, second = (_checked(step) for step in (steps[0], steps[min(1, len(steps) - 1)]))
    repeated = all(torch.equal(a[:, :, 0], b[:, :, -1]) for a, b in zip(first, second, strict=True))
    if len(steps) > 1 and len(first[0]) == 1 and first[0].shape[-1] > 1 and repeated:
        logger.warning(
            "The first two decoding steps hold the same attention weights, as after assisted decoding, which records "
            "wrong ones: call attention_maps on a forward pass over the generated ids instead (labels=...)."
        )


def _checked(layer_weights: Any) -> tuple[Tensor, ...]:
    if not layer_weights or any(weights is None for weights in layer_weights):
        raise ValueError(MISSING)
    return layer_weights


def _average(layer_weights: tuple[Tensor, ...], layers: Any, heads: Any) -> Tensor:
    """(rows, queries, S): mean over the chosen layers and heads of L times (rows, H, queries, S)."""
    weights = torch.stack([layer_weights[index] for index in _chosen(layers, len(layer_weights), "layers")])
    return weights[:, :, _chosen(heads, weights.shape[2], "heads")].float().mean(dim=(0, 2))


def _chosen(wanted: int | Sequence[int] | None, count: int, name: str) -> list[int]:
    if wanted is None:
        return list(range(count))
    indices = [wanted] if isinstance(wanted, int) else list(wanted)
    if not indices or any(not -count <= index < count for index in indices):
        raise ValueError(f"{name} must be numbers from {-count} to {count - 1}, got {wanted}")
    return indices


def _trimmed_sequences(output: Any, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids without the decoder's start token and without what follows the first end token."""
    beam_indices = getattr(output, "beam_indices", None)
    prompt = output.sequences.shape[1] - (
        len(output.cross_attentions or ()) if beam_indices is None else beam_indices.shape[1]
    )
    targets = []
    for index, sequence in enumerate(output.sequences.tolist()):
        end = len(sequence)
        if beam_indices is not None:
            end = prompt + int((beam_indices[index] >= 0).sum())
        elif tokenizer.eos_token_id in sequence[prompt:]:
            end = prompt + sequence[prompt:].index(tokenizer.eos_token_id) + 1
        targets.append(sequence[1:end])
    return targets


def _kept(ids: list[int], tokenizer: PreTrainedTokenizerBase, skip_special_tokens: bool) -> np.ndarray:
    dropped = {-100, tokenizer.pad_token_id}
    if skip_special_tokens:
        dropped |= set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return np.array([token not in dropped for token in ids], dtype=bool)


def _build(
    weights: np.ndarray,
    source: list[int],
    target: list[int],
    keep_source: np.ndarray,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    words: bool,
) -> AttentionMap:
    source_tokens, source_starts = word_groups(source, tokenizers[0], join=words)
    target_tokens, target_starts = word_groups(target, tokenizers[1], join=words)
    total = weights.sum(axis=1)  # 1, or 0 for a model without attention to anything
    weights = weights[:, keep_source]
    if source_starts:
        weights = np.add.reduceat(weights, source_starts, axis=1)
    if target_starts:
        counts = np.diff([*target_starts, len(target)])
        weights = np.add.reduceat(weights, target_starts, axis=0) / counts[:, None]
        total = np.add.reduceat(total, target_starts) / counts
    kept = weights.sum(axis=1)
    shown = kept > 1e-6  # below, scaling up would show rounding errors
    weights = np.where(shown[:, None], weights / np.where(shown, kept, 1.0)[:, None], 0.0)
    return AttentionMap(source_tokens, target_tokens, weights, np.clip(total - kept, 0.0, 1.0))

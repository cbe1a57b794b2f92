"""Where a token stands: sinusoidal, rotary and relative positions. (Learned ones are an embedding table.)

Shapes: B batch, T query and S key length, D hidden size, H heads, E head size.
"""

import math

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from .transformer_kernels import turn


def positions_from_mask(mask: Tensor, length: int) -> Tensor:
    """Return each token's place among the real tokens of its row (B, length), from 0 on.

    Padding behind a text counts on, as in transformers: a span head (question answering) reads it, too.

    Args:
        mask: (B, past + length), 1 for a real token and 0 for padding, on any side.
    """
    count = (mask != 0).long().cumsum(1)
    behind = (count == count[:, -1:]) & (mask == 0)
    return ((count - 1).clamp(min=0) + behind.long().cumsum(1))[:, -length:]


def sinusoidal_positions(position_ids: Tensor, size: int) -> Tensor:
    """Return a vector for each position, its first half sines and its second half cosines: (..., size), float32.

    Reference: Vaswani et al. (2017), arXiv:1706.03762, section 3.5; the halves lie side by side and not interleaved,
    which is the same up to the order of the dimensions.
    """
    scale = -2 * math.log(10_000) / size
    frequencies = torch.exp(torch.arange(size // 2, device=position_ids.device) * scale)
    angles = position_ids.unsqueeze(-1) * frequencies  # (..., size / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class RotaryEmbedding(nn.Module):
    """The angles by which queries and keys are turned, so that their product depends on their distance.

    Reference: Su et al. (2021), arXiv:2104.09864, equation 34; the pairs are (i, i + E / 2), as in Llama.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        compute = {"default": self.compute_default_rope_parameters, **ROPE_INIT_FUNCTIONS}
        if self.rope_type not in compute:
            known = ", ".join(compute)
            raise ValueError(f"rope_parameters['rope_type'] must be one of {known}, not {self.rope_type!r}")
        frequencies, self.attention_scaling = compute[self.rope_type](config)
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        # under these names transformers fills them again where a model is loaded
        self.inv_freq = nn.Buffer(frequencies, persistent=False)
        self.original_inv_freq = nn.Buffer(frequencies.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config, *args, **kwargs) -> tuple[Tensor, float]:
        """Return radians per token (E / 2,), and a factor on cosines and sines."""
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.float)
        return 1.0 / config.rope_parameters["rope_theta"] ** (steps / config.head_dim), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, hidden_states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (B, T, E) in the dtype of hidden_states."""
        angles = position_ids[..., None].float() * self.inv_freq.to(device=hidden_states.device, dtype=torch.float)
        angles = torch.cat((angles, angles), dim=-1)  # (B, T, E)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn vectors (B, H, T, E) by angles whose cosines and sines are (B, T, E); all may lack T."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (B, 1, T, E)
    if (turned := turn(vectors, cos, sin)) is not None:
        return turned
    first, second = vectors.chunk(2, dim=-1)
    return vectors * cos + torch.cat((-second, first), dim=-1) * sin


class RelativePositionBias(nn.Embedding):
    """A learned number for each head and distance, added to the scores.

    Short distances have a bucket each, longer ones share buckets that grow with the logarithm.

    Reference: Raffel et al. (2020), arXiv:1910.10683, section 2.1.
    """

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int, causal: bool):
        super().__init__(num_buckets, num_heads)
        self.max_distance = max_distance
        self.causal = causal

    def buckets(self, distance: Tensor) -> Tensor:
        """Return the bucket of each distance (key position minus query position).

        A causal stack looks back only, so all buckets are for that; else half of them are for looking ahead.
        """
        count, ahead = self.num_embeddings, 0
        if self.causal:
            distance = -distance.clamp(max=0)
        else:
            count //= 2
            ahead = (distance > 0) * count
            distance = distance.abs()
        exact = count // 2
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (far * (count - exact)).long()).clamp(max=count - 1)
        return ahead + torch.where(distance < exact, distance, far)

    def forward(self, query_length: int, key_length: int, offset: int | Tensor = 0) -> Tensor:
        """Return the bias (1, H, T, S) for T queries that start at position `offset` of S keys."""
        device = self.weight.device
        query = torch.arange(query_length, device=device)[:, None] + offset
        key = torch.arange(key_length, device=device)[None, :]
        return super().forward(self.buckets(key - query)).permute(2, 0, 1).unsqueeze(0)

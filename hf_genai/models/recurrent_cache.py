"""What a recurrent decoder carries from step to step, as a layer of transformers' own cache system."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, CacheLayerMixin


class RecurrentStateLayer(CacheLayerMixin):
    """The state of one recurrent layer or, on the cross-attention side, what was projected once from the source.

    Defining the class registers it: `DynamicCache(config=config)` makes one for each "genai_recurrent" in
    `config.layer_types`, and `generate()` wraps two such caches in an `EncoderDecoderCache`.
    """

    _layer_type = "genai_recurrent"
    is_compileable, is_croppable, supports_early_init, is_sliding = False, True, False, False

    def __init__(self, **kwargs):
        super().__init__()
        self.state: Tensor | None = None  # (B, N, D) after the last token
        self.trail: list[Tensor | None] = []  # the states before and after each token of the last update, for crop
        self.memory: tuple[Tensor, ...] = ()  # each (B, S, ...), made from the source
        self.memory_mask: Tensor | None = None  # bool (B, S)
        self.source: Tensor | None = None  # (B,), equal numbers where the memory is equal
        self.length = 0
        self.record_past = False

    def lazy_initialization(self, *args, **kwargs) -> None:
        self.is_initialized = True

    def activate_past_recording(self) -> None:
        """Keep the states of each update, so that `crop` can take its tokens back (assisted decoding does)."""
        self.record_past = True

    def update(self, states: Tensor, *args, **kwargs) -> tuple[Tensor, None]:
        """Append tokens.

        Args:
            states: (B, T, N, D), the state after each of T new tokens: N parts of size D.
        """
        if self.record_past:
            self.trail = (self.trail or [self.state]) + list(states.unbind(1))
        self.state, self.length, self.is_initialized = states[:, -1], self.length + states.shape[1], True
        self.device = states.device
        return self.state, None

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens; `tokens_to_remove` is zero or negative, as in transformers.

        Raises:
            ValueError: for a positive number.
            RuntimeError: if the states of those tokens were not recorded.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove must be zero or negative, not {tokens_to_remove}")
        removed = -tokens_to_remove
        if removed >= max(len(self.trail), 1):
            raise RuntimeError(
                f"cannot take back {removed} tokens: only {max(len(self.trail) - 1, 0)} are recorded;"
                " activate_past_recording() comes before the tokens that crop removes"
            )
        if removed:
            self.state, self.length = self.trail[-1 - removed], self.length - removed
        self.trail = []

    def remember(self, mask: Tensor, *memory: Tensor) -> None:
        """Keep what was made from the source, each (B, S, ...), and its mask (B, S), for all steps to come."""
        same = (mask[1:] == mask[:-1]).all(1)
        for part in memory:
            same = same & (part[1:] == part[:-1]).flatten(1).all(1)
        self.memory, self.memory_mask, self.is_initialized = memory, mask, True
        self.device = mask.device
        self.source = torch.cat([same.new_zeros(1, dtype=torch.long), (~same).cumsum(0)])

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        self.state = None if self.state is None else change(self.state)
        self.trail = [None if state is None else change(state) for state in self.trail]
        self.memory = tuple(change(part) for part in self.memory)
        self.memory_mask = None if self.memory_mask is None else change(self.memory_mask)
        self.source = None if self.source is None else change(self.source)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        if self.source is not None:
            # Beams move among copies of one sentence: while they do, moving the memory would copy it onto itself.
            beam_idx = beam_idx.to(self.source.device)
            if torch.equal(self.source[beam_idx], self.source):
                return
        self._each(lambda part: part.index_select(0, beam_idx.to(part.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda part: part.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each(lambda part: part[indices])

    def offload(self) -> None:
        self._each(lambda part: part.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        if self.is_initialized:
            self._each(lambda part: part.to(self.device, non_blocking=True))

    def reset(self) -> None:
        self.state, self.trail, self.memory, self.memory_mask, self.source = None, [], (), None, None
        self.length, self.is_initialized = 0, False

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0


STATIC_LAYER_TYPE_MAPPING[RecurrentStateLayer._layer_type] = RecurrentStateLayer

"""What every Transformer of this library can choose, and the checks that go with it; the families set the defaults."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .fields import (
    check_after,
    check_before,
    check_whole,
    deviation_field,
    eps_field,
    layers_field,
    positive_int_field,
    probability_field,
)


def parallel_plan(stack: str = "", attentions: Sequence[str] = ("self_attn",)) -> dict[str, str]:
    """Return how tensor parallelism divides layers: what a sub-layer begins with by columns, what ends it by rows.

    A table of relative positions is whole in each process, which reads it for its own heads.
    """
    projections = [f"{attention}.{which}_proj" for attention in attentions for which in "qkvo"]
    projections += [f"mlp.{which}_proj" for which in ("gate", "up", "down")]
    ends = ("o_proj", "down_proj")
    plan = {f"{stack}layers.*.{name}": "rowwise" if name.endswith(ends) else "colwise" for name in projections}
    return {f"{stack}relative_bias": "replicated_with_grad_allreduce", **plan}


def initial_std(hidden_size: int, kept_up_to: int = 512) -> float:
    """Return the usual 0.02; beyond a size less, since the scores of a vocabulary spread with the square root of it.

    Scores that spread by s raise the loss of a new model by about s^2 / 2 nats over that of guessing.
    """
    return 0.02 * min(1.0, math.sqrt(kept_up_to / max(hidden_size, 1)))


@strict
class GenaiTransformerConfig(PreTrainedConfig):
    """Sizes and choices of a stack of Transformer layers.

    The defaults are a modern layout: rotary positions, RMSNorm before each sub-layer, gated feed-forward, no biases,
    two query heads to a key/value head. Each family's `classic()` gives its paper's.

    Args:
        vocab_size: Number of token ids.
        hidden_size: Size of a token's vector between layers.
        num_hidden_layers: Layers of the stack.
        num_attention_heads: Query heads of each attention.
        num_key_value_heads: Key and value heads, each shared by a group of query heads (Ainslie et al. 2023,
            arXiv:2305.13245). None: half as many as query heads, where these are even, else as many.
        head_dim: Size of a head. None: `hidden_size / num_attention_heads`.
        intermediate_size: Inner size of the feed-forward layer. None: 4 `hidden_size`; of a gated one, which has three
            matrices, 8/3 of it, rounded up to a multiple of 64.
        hidden_act: Activation of the feed-forward layer.
        gated_mlp: Multiply the activation by a second projection (Shazeer 2020, arXiv:2002.05202).
        attention_type: Score function: "scaled_dot" (Vaswani et al. 2017), "dot" (without the division, as in T5), or
            "additive" (Bahdanau et al. 2015), which no fused kernel knows: it runs with `attn_implementation="eager"`.
        position_embedding_type: "rotary" (Su et al. 2021, arXiv:2104.09864), "learned" (a vector each, up to
            `max_position_embeddings`), "sinusoidal" (Vaswani et al. 2017, section 3.5; token vectors are then scaled
            by the square root of `hidden_size`, section 3.4) or "relative_bias" (Raffel et al. 2020, section 2.1).
        max_position_embeddings: Longest text with learned positions; a hint for tokenizers and caches with others.
        rope_parameters: Rotary frequencies as in transformers: {"rope_type": "default", "rope_theta": 10000.0} and
            what the type needs.
        relative_attention_num_buckets: Distances that "relative_bias" tells apart.
        relative_attention_max_distance: From this distance on it tells none apart.
        norm_type: "rms_norm" (Zhang and Sennrich 2019, arXiv:1910.07467) or "layer_norm" (Ba et al. 2016).
        norm_position: "pre": each sub-layer reads normalised vectors, and the stack ends with a norm. "post": the sum
            of a sub-layer's input and output is normalised (Vaswani et al. 2017).
        layer_norm_eps: Added to the variance.
        attention_bias: Whether the attention's projections have biases.
        mlp_bias: Whether the feed-forward layer's have.
        hidden_dropout_prob: Dropout of embeddings and of each sub-layer's output, 0 to 1.
        attention_probs_dropout_prob: Dropout of attention weights, 0 to 1. On a CPU it turns the fused kernel off.
        activation_dropout_prob: Dropout inside the feed-forward layer, 0 to 1.
        classifier_dropout: Dropout before a classification head. None: `hidden_dropout_prob`.
        initializer_range: Standard deviation of the weights at the start. None: 0.02, and beyond a `hidden_size` of
            512 less, by the square root of it, so that a new model's loss stays that of guessing. Projections that end
            a sub-layer of a pre-norm stack start smaller, by the square root of the number of sub-layers (Radford et
            al. 2019).
        tie_word_embeddings: Score the vocabulary with the embedding table.
    """

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]
    auto_classes: ClassVar[dict[str, str]] = {}
    _auto_class: ClassVar[str | None] = "AutoConfig"

    vocab_size: int = positive_int_field(default=8192)
    hidden_size: int = positive_int_field(default=256)
    num_hidden_layers: int = layers_field(default=4)
    num_attention_heads: int = positive_int_field(default=4)
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    hidden_act: Literal["relu", "gelu", "gelu_pytorch_tanh", "silu"] = "silu"
    gated_mlp: bool = True
    attention_type: Literal["scaled_dot", "dot", "additive"] = "scaled_dot"
    position_embedding_type: Literal["rotary", "learned", "sinusoidal", "relative_bias"] = "rotary"
    max_position_embeddings: int = positive_int_field(default=1024)
    rope_parameters: dict | None = None
    relative_attention_num_buckets: int = positive_int_field(default=32)
    relative_attention_max_distance: int = positive_int_field(default=128)
    norm_type: Literal["rms_norm", "layer_norm"] = "rms_norm"
    norm_position: Literal["pre", "post"] = "pre"
    layer_norm_eps: float | int = eps_field(default=1e-6)
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_dropout_prob: float | int = probability_field(default=0.0)
    attention_probs_dropout_prob: float | int = probability_field(default=0.0)
    activation_dropout_prob: float | int = probability_field(default=0.0)
    classifier_dropout: float | int | None = None
    initializer_range: float | int | None = deviation_field(default=None)
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs: Any):
        check_before(self, kwargs)
        if self.num_key_value_heads is None:
            even = self.num_attention_heads % 2 == 0
            self.num_key_value_heads = self.num_attention_heads // 2 if even else self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.intermediate_size is None:
            gated = -(-8 * self.hidden_size // (3 * 64)) * 64
            self.intermediate_size = gated if self.gated_mlp else 4 * self.hidden_size
        if self.initializer_range is None:
            self.initializer_range = initial_std(self.hidden_size)
        super().__post_init__(**kwargs)
        if plan := getattr(type(self), "base_model_tp_plan", None):
            self.base_model_tp_plan = self.within_layout(plan)

    def within_layout(self, plan: dict[str, str]) -> dict[str, str]:
        """Return what of a plan this layout has."""
        relative = self.position_embedding_type == "relative_bias"
        absent = (*(() if self.gated_mlp else ("gate_proj",)), *(() if relative else ("relative_bias",)))
        return {name: style for name, style in plan.items() if not name.endswith(absent)}

    @property
    def head_dropout_prob(self) -> float:
        """Dropout before a classification head."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    def validate_rope(self):
        """Refuse rotary frequencies that are none, where they are used."""
        if self.position_embedding_type != "rotary":
            return
        try:
            super().validate_rope()
        except KeyError as error:
            raise ValueError(error.args[0]) from error
        for name, value in self.rope_parameters.items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"rope_parameters[{name!r}] must be finite, not {number}")
        theta = self.rope_parameters["rope_theta"]
        if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 0 < theta <= 1e18:
            raise ValueError(f"rope_parameters['rope_theta'] must be a positive number up to 1e18, not {theta!r:.60}")

    def validate_architecture(self):
        """Refuse sizes that do not fit each other."""
        if (
            self.hidden_size % self.num_attention_heads
            and self.head_dim == self.hidden_size // self.num_attention_heads
        ):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads"
                f" ({self.num_attention_heads}), unless head_dim is given"
            )
        for name in ("num_key_value_heads", "head_dim", "intermediate_size"):
            check_whole(getattr(self, name), name=name)
        check_after(
            self,
            ("vocab_size", "hidden_size"),
            ("num_hidden_layers", "hidden_size", "intermediate_size"),
            ("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim"),
            ("relative_attention_num_buckets", "num_attention_heads"),
            *([("max_position_embeddings", "hidden_size")] if self.position_embedding_type == "learned" else []),
        )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads"
                f" ({self.num_key_value_heads})"
            )
        if self.position_embedding_type == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"rotary positions turn pairs of numbers, so head_dim ({self.head_dim}; without one hidden_size"
                f" {self.hidden_size} / num_attention_heads {self.num_attention_heads}) must be even"
            )
        if self.position_embedding_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(
                f"sinusoidal positions are pairs of a sine and a cosine, so hidden_size ({self.hidden_size}) must be"
                " even"
            )
        if self.classifier_dropout is not None and not 0 <= self.classifier_dropout <= 1:
            raise ValueError(f"classifier_dropout must be between 0 and 1, not {self.classifier_dropout}")
        if self.relative_attention_num_buckets < 4:
            raise ValueError(
                "relative_attention_num_buckets must be at least 4 (half of the distances are told apart one by one,"
                f" in each direction), not {self.relative_attention_num_buckets}"
            )

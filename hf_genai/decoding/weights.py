"""A model's weights packed for decoding: as they are, in bfloat16, or in int8."""

import functools
import warnings
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..models.packed_linear import PLAIN, PackedLinear, packing_works
from ..models.private_names import version_of
from ..models.token_step import Pack, Rows, StepLayers
from ..private_names import vnni_supported, weight_int8pack_mm

# Weights beyond which a row is better quantised, too
LARGEST_MIXED = 2**20


class BFloat16Linear(PackedLinear):
    """A linear map of float32 rows whose product is taken in bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str | None = None):
        super().__init__(weight.bfloat16(), None if bias is None else bias.bfloat16(), activation)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.bfloat16()).float()


class Int8Linear:
    """A linear map of float32 rows whose product is taken in 8-bit integers.

    Each output's weights have a scale of their own, found once. The rows share a scale and a zero point, found anew in
    each call, so a row's result depends a little on the others. A single row stays in bfloat16 where torch can
    multiply that by 8-bit weights: finding its scale would take longer than the product.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str | None = None):
        weight = weight.detach()
        # (M,), rounded to what both products can take
        scales = (weight.abs().amax(1).clamp(min=1e-12) / 127).bfloat16().float()
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # torch wants to give up its quantised tensors; their products are the fastest it has for few rows
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.product = torch.ops.quantized.linear_dynamic.default
        self.packed = torch.ops.quantized.linear_prepack(quantised, None if bias is None else bias.detach())
        self.activation = activation
        self.bias = None if bias is None else bias.detach()
        self.weight, self.scales = quantised.int_repr(), scales.bfloat16()
        # the products of a wide head take longer than scaling the row
        self.mixed = weight.numel() < LARGEST_MIXED and mixed_product_works()
        # without the instruction for them, sums of full 8-bit products overflow
        self.reduce_range = not vnni_supported()

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, M)."""
        if self.mixed and len(x) == 1:
            x = weight_int8pack_mm(x.bfloat16(), self.weight, self.scales).float()
            x = x if self.bias is None else x.add_(self.bias)
        else:
            x = self.product(x.contiguous(), self.packed, self.reduce_range)
        return x if self.activation is None else PLAIN[self.activation](x)


@functools.cache
def mixed_product_works() -> bool:
    """Whether torch's private product of bfloat16 rows and 8-bit weights exists here, and is right."""
    x, weight = torch.linspace(-1, 1, 64).view(1, 64).bfloat16(), (torch.arange(64 * 32) % 200 - 100).view(32, 64)
    scales = torch.full((32,), 0.5).bfloat16()
    try:
        found = weight_int8pack_mm(x, weight.to(torch.int8), scales)
    except (AttributeError, RuntimeError, TypeError):
        return False
    wanted = x.float() @ weight.t().float() * 0.5
    return torch.allclose(found.float(), wanted, rtol=2e-2, atol=0.5)


PACKERS: dict[str, Pack] = {"float32": PackedLinear, "bfloat16": BFloat16Linear, "int8": Int8Linear}


def packer(dtype: str) -> Pack:
    """Return what packs weights in a dtype.

    Raises:
        ValueError: if the dtype is none of float32, bfloat16 and int8, or this machine cannot compute in it.
    """
    if dtype not in PACKERS:
        raise ValueError(f"dtype must be one of {', '.join(PACKERS)}, not {dtype!r}")
    if dtype == "bfloat16" and not packing_works(torch.bfloat16):
        raise ValueError(
            "dtype='bfloat16' needs a CPU with bfloat16 products in oneDNN; this one has none: use float32"
        )
    if dtype == "int8":
        engine = torch.backends.quantized.engine
        if engine not in ("x86", "fbgemm", "onednn") or not hasattr(torch, "quantize_per_channel"):
            raise ValueError(
                "dtype='int8' needs a torch with quantize_per_channel, and its quantized engine 'x86', 'fbgemm' or"
                f" 'onednn', not torch {torch.__version__} with {engine!r}: use float32"
            )
    return PACKERS[dtype]


@dataclass
class PackedWeights:
    """The layers and the head of a model, packed; `fingerprint` tells whether they are still the model's."""

    layers: StepLayers
    head: Rows
    fingerprint: tuple


_packed: WeakKeyDictionary[nn.Module, dict[str, PackedWeights]] = WeakKeyDictionary()


def fingerprint(parameters: list[nn.Parameter]) -> tuple:
    """Return where each parameter is, how often it was changed, and its sum, which also changes made through `.data`
    change."""
    return tuple((p.data_ptr(), version_of(p), str(p.detach().sum().item())) for p in parameters)


def packed_weights(model: nn.Module, layers: nn.ModuleList, head: nn.Linear, config, dtype: str) -> PackedWeights:
    """Return a model's weights in a dtype, packed now or by an earlier call if they have not changed since."""
    pack = packer(dtype)
    found = fingerprint([*layers.parameters(), *head.parameters()])
    kept = _packed.setdefault(model, {})
    if dtype not in kept or kept[dtype].fingerprint != found:
        kept[dtype] = PackedWeights(StepLayers(layers, config, pack), pack(head.weight, head.bias, None), found)
    return kept[dtype]

"""Linear maps laid out for a few rows: what decoding multiplies by, over and over, with the same weights.

With a few rows a product takes about as long as reading its matrix, so the layout decides: narrow panels for numpy's
OpenBLAS, which multiplies small matrices as they lie; oneDNN's own blocks for several rows (torch's entry to them is
private: it is used only where it exists and has once given the right product); the transposed matrix for one row that
becomes wider. Each layout is a copy of the weight, made when first needed.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .matmul import numpy_is_faster, numpy_product
from .private_names import linear_pointwise, onednn_takes_bfloat16, reorder_weight

# activation -> what oneDNN calls it, and its variant
FUSED = {"relu": ("relu", ""), "gelu": ("gelu", "none"), "gelu_pytorch_tanh": ("gelu", "tanh"), "silu": ("swish", "")}
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}
# oneDNN chooses its blocks for a number of rows: (up to so many rows, those for)
TYPICAL_ROWS = ((16, 8), (2**62, 32))
# With fewer weights than this, the way to oneDNN takes longer than its product saves.
SMALLEST_PACKED = 2**16
# Outputs in a panel; weights from which panels pay for one row and for several; outputs below which too much of the
# last panel may be empty; and the multiplications up to which OpenBLAS takes a panel as it lies (beyond, it first
# rearranges it, as for large products).
PANEL, SMALLEST_IN_PANELS, FEWEST_OUTPUTS, LARGEST_WITH_PANEL = 64, (2**18, 2**15), 256, 10**6

# From this many rows on, tanh-GELU takes so long by itself that the product into which oneDNN draws it is the better.
FEWEST_FUSED = 16


@functools.cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed product exists here for a dtype, with each activation, and is right."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        if dtype == torch.bfloat16 and not onednn_takes_bfloat16():
            return False
        x = torch.linspace(-1, 1, 96).view(4, 24).to(dtype)
        weight = torch.linspace(-2, 1, 24 * 64).view(64, 24).to(dtype)
        packed = reorder_weight(weight, 32)
        for name, (kind, variant) in FUSED.items():
            found = linear_pointwise()(x, packed, None, kind, [], variant)
            wanted = PLAIN[name](F.linear(x.float(), weight.float()))
            tolerance = 1e-5 if dtype == torch.float32 else 2e-2
            if not torch.allclose(found.float(), wanted, rtol=tolerance, atol=tolerance):
                return False
        return True
    except (AttributeError, RuntimeError, TypeError):
        return False


@functools.cache
def _panels_are_faster() -> bool:
    # OpenBLAS has its kernels for small matrices with AVX-512 only
    return numpy_is_faster() and torch.backends.cpu.get_cpu_capability() == "AVX512"


class PackedLinear:
    """activation(x @ weight.T + bias) for few rows x, outside autograd.

    Args:
        weight: (M, K), float32 or bfloat16, on the CPU. It must not change while this is in use.
        bias: (M,) or None.
        activation: a key of `FUSED`, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str | None = None):
        self.weight, self.bias, self.activation = weight.detach(), None if bias is None else bias.detach(), activation
        self.widens = weight.shape[0] >= weight.shape[1]
        self.transposed: Tensor | None = None  # (K, M)
        self.packed: Tensor | None = None  # opaque
        self.packed_for = 0  # rows
        self.panels: np.ndarray | None = None  # (M / PANEL, K, PANEL), the last one filled up with zeros
        self.fused = ("none", "") if activation is None else FUSED[activation]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) -> (N, M)."""
        if self.suits_panels(x):
            return self.product_by_panels(x)
        one_row = len(x) == 1 and x.dtype == torch.float32
        small = self.weight.numel() < SMALLEST_PACKED and x.dtype == torch.float32
        if not one_row and not small and torch.backends.mkldnn.enabled and packing_works(x.dtype):
            rows = next(typical for most, typical in TYPICAL_ROWS if len(x) <= most)
            if self.packed is None or self.packed_for != rows:
                self.packed = reorder_weight(self.weight.contiguous(), rows)
                self.packed_for = rows
            kind, variant = self.fused
            product = linear_pointwise()
            return product(x.contiguous(), self.packed, self.bias, kind, [], variant)
        if one_row and self.widens:
            if self.transposed is None:
                self.transposed = self.weight.t().contiguous()
            x = torch.mm(x, self.transposed) if self.bias is None else torch.addmm(self.bias, x, self.transposed)
        else:
            x = F.linear(x, self.weight, self.bias)
        return x if self.activation is None else PLAIN[self.activation](x)

    def suits_panels(self, x: Tensor) -> bool:
        rows, (outputs, inputs) = x.shape[0], self.weight.shape
        smallest = SMALLEST_IN_PANELS[0] if rows == 1 else SMALLEST_IN_PANELS[1]
        if x.dtype != torch.float32 or outputs * inputs < smallest or outputs < FEWEST_OUTPUTS:
            return False
        if self.activation == "gelu_pytorch_tanh" and rows >= FEWEST_FUSED:
            return False
        fits = max(rows, 2) * inputs * PANEL <= LARGEST_WITH_PANEL
        return fits and torch.get_num_threads() == 1 and _panels_are_faster()

    def make_panels(self) -> np.ndarray:
        (outputs, inputs), filled = self.weight.shape, len(self.weight) // PANEL
        panels = self.weight.new_empty(-(-outputs // PANEL), inputs, PANEL)
        whole, rest = self.weight[: filled * PANEL], self.weight[filled * PANEL :]
        panels[:filled] = whole.reshape(filled, PANEL, inputs).transpose(1, 2)
        if len(rest):
            panels[filled, :, : len(rest)], panels[filled, :, len(rest) :] = rest.t(), 0
        return panels.numpy()

    def product_by_panels(self, x: Tensor) -> Tensor:
        if self.panels is None:
            self.panels = self.make_panels()
        x, given = x.detach(), x.shape[0]
        # a product of one row is a sum of rows to OpenBLAS, and takes longer than that of two
        rows = torch.cat((x, x)) if given == 1 else x
        product = np.empty((rows.shape[0], len(self.panels), PANEL), np.float32)
        numpy_product(rows.numpy(), self.panels, product.swapaxes(0, 1))
        side_by_side = product.reshape(len(product), len(self.panels) * PANEL)
        found = torch.from_numpy(side_by_side[:given, : len(self.weight)]).contiguous()
        if self.bias is not None:
            found.add_(self.bias)
        return found if self.activation is None else PLAIN[self.activation](found)

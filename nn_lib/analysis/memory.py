"""The memory account of the lecture's 50-layer network: 26 M weights, 16 M activations, 168 MB.

It is for one image, forward, in float32, without gradients or the optimizer's state.
"""

import dataclasses

import jax
import jax.numpy as jnp

from nn_lib.analysis.summary import summarize
from nn_lib.models import ResNet50

CLAIMED = (26_000_000, 16_000_000)


@dataclasses.dataclass(frozen=True)
class Account:
    """Numbers of ResNet-50 on one 224x224 image.

    Attributes:
      weights: all parameters.
      products: outputs of convolutions and of the dense layer.
      kept: outputs of convolutions, and the sums at the ends of the residual blocks.
      all_outputs: `kept`, and the outputs of norms and rectifiers (one for every norm but the
        last of a block and of a shortcut, and one for every sum).
    """

    weights: int
    products: int
    kept: int
    all_outputs: int

    @property
    def bytes(self) -> int:
        return 4 * (self.weights + self.kept)


def account(*, stride_in_3x3: bool = False) -> Account:
    """Of the paper's network (v1), or of v1.5."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    summary = summarize(ResNet50(stride_in_3x3=stride_in_3x3), image)
    sums = [
        _size(shape)
        for path, shape in summary.outputs.items()
        if path.rpartition("/")[2].startswith("block")
    ]
    convolutions = sum(row.activations for row in summary.rows if row.kind == "Conv")
    norms = [row for row in summary.rows if row.kind == "BatchNorm"]
    inner = [row for row in norms if row.path.rpartition("/")[2] in ("norm1", "norm2")]
    kept = convolutions + sum(sums)
    more = sum(_size(row.shape) for row in [*norms, *inner]) + sum(sums)
    return Account(summary.parameters, summary.activations, kept, kept + more)


def as_text() -> str:
    """What the lecture says beside what the two forms of the network have."""
    weights, activations = CLAIMED
    lines = [
        f"{'':<22}{'weights':>12}{'activations':>14}{'bytes':>15}",
        f"{'the lecture':<22}{weights:>12,}{activations:>14,}{4 * sum(CLAIMED):>15,}",
    ]
    for name, own in (("ResNet-50", account()), ("v1.5", account(stride_in_3x3=True))):
        lines.append(f"{name:<22}{own.weights:>12,}{own.kept:>14,}{own.bytes:>15,}")
    lines.append("activations: outputs of convolutions and sums of residual blocks, one image")
    return "\n".join(lines)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size

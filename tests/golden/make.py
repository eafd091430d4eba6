"""Regenerates `torch.npz`, what torch computes for fixed inputs, so that parity needs no torch.

python -m tests.golden.make     (with the `torch` extra installed)
"""

import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "torch.npz"


def filler(shape, start, scale=0.5):
    """`scale * sin(start + k)`, row-major: inputs and weights that need no file."""
    return scale * np.sin(start + np.arange(np.prod(shape))).reshape(shape)


def recurrent_weights(gates: int):
    """`weight_ih`, `weight_hh`, `bias_ih`, `bias_hh` in torch's layout, 3 inputs, 4 units."""
    shapes = [(gates * 4, 3), (gates * 4, 4), (gates * 4,), (gates * 4,)]
    return [filler(shape, 10 * index) for index, shape in enumerate(shapes)]


INPUTS = filler((2, 5, 3), 100, 1.0)
IMAGES = filler((2, 9, 8, 4), 200, 1.0)
KERNEL = filler((3, 3, 2, 6), 300)


def recurrent(torch) -> dict[str, np.ndarray]:
    """Outputs of the three recurrent layers."""
    outputs = {}
    for name, gates in (("RNN", 1), ("LSTM", 4), ("GRU", 3)):
        layer = getattr(torch.nn, name)(3, 4, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            for parameter, value in zip(layer.parameters(), recurrent_weights(gates)):
                parameter.copy_(torch.tensor(value))
            outputs[name] = layer(torch.tensor(INPUTS))[0].numpy()
    return outputs


def convolution(torch) -> dict[str, np.ndarray]:
    """A grouped, strided, padded convolution, channels last."""
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
    kernel = torch.tensor(KERNEL.transpose(3, 2, 0, 1))
    out = torch.nn.functional.conv2d(images, kernel, stride=2, padding=1, groups=2)
    return {"conv2d": out.numpy().transpose(0, 2, 3, 1)}


def optimizers(torch) -> dict[str, np.ndarray]:
    """Where fifty steps with given gradients lead."""
    made = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.03),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.03),
    }
    ends = {}
    for name, make in made.items():
        point = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
        optimizer = make([point])
        for step in range(50):
            point.grad = torch.tensor(filler((6,), 7 * step))
            optimizer.step()
        ends[name] = point.detach().numpy()
    return ends


CONVNETS = ("resnet18", "googlenet", "vgg11_bn", "alexnet")
PICTURES = filler((2, 64, 64, 3), 400, 1.0)


def weights_for(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A state dict that depends on nothing but its names and shapes."""
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            weights[name] = 1 + 0.3 * np.tanh(noise)
        else:
            fan_in = np.prod(shape[1:]) if len(shape) > 1 else 200
            weights[name] = noise * (2 / fan_in) ** 0.5
    return weights


def convnets(torch) -> dict[str, np.ndarray]:
    """Ten logits of torchvision's networks."""
    from experiments.benchmarks import torch_networks

    images = torch.tensor(PICTURES.transpose(0, 3, 1, 2))
    outputs = {}
    for name in CONVNETS:
        auxiliary = {"auxiliary": False} if name == "googlenet" else {}
        network = torch_networks.build(name, classes=10, **auxiliary).double().eval()
        state = network.state_dict()
        weights = weights_for({key: tuple(value.shape) for key, value in state.items()})
        network.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
        with torch.no_grad():
            outputs[name] = network(images).numpy()
    return outputs


def compute(torch) -> dict[str, np.ndarray]:
    return {**recurrent(torch), **convolution(torch), **optimizers(torch), **convnets(torch)}


if __name__ == "__main__":
    import torch

    np.savez(FILE, **compute(torch))
    print(f"wrote {FILE}")

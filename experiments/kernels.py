"""Draws the classic 3x3 kernels at work on a photograph, beside the photograph.

python -m experiments.kernels --workdir=runs/kernels [--image=picture.png]
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command_line
from nn_lib.checks import UserError
from nn_lib.layers.kernels import KERNELS, filter_images

WORKDIR = flags.DEFINE_string("workdir", "", "Where the picture goes.")
IMAGE = flags.DEFINE_string("image", "", "A picture; none: one that scikit-learn carries.")


def main() -> None:
    pixels = grey(IMAGE.value)
    folder = command_line.output_folder(WORKDIR.value, "kernels.png")
    images = jnp.asarray(pixels, jnp.float32)[None, :, :, None]
    filtered = {name: filter_images(images, kernel)[0, ..., 0] for name, kernel in KERNELS.items()}
    for name, result in filtered.items():
        print(f"{name:<12} sums to {KERNELS[name].sum():5.2f}; pixels from ", end="")
        print(f"{float(result.min()):7.1f} to {float(result.max()):6.1f}")
    draw(folder / "kernels.png", pixels, filtered)
    print(f"written  {folder}/kernels.png")


def grey(path: str) -> np.ndarray:
    """The picture as brightness, `[H, W]` from 0 to 255."""
    from PIL import Image

    if not path:
        from sklearn.datasets import load_sample_image

        return np.asarray(Image.fromarray(load_sample_image("china.jpg")).convert("L"))
    try:
        return np.asarray(Image.open(path).convert("L"))
    except OSError as error:
        raise UserError(f"--image={path!r} cannot be read as a picture: {error}") from error


def draw(file: Path, pixels: np.ndarray, filtered: dict) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    for axis, (name, picture) in zip(axes, {"photograph": pixels, **filtered}.items()):
        signed = name.startswith(("sobel", "laplacian"))
        low, high = (-255, 255) if signed else (0, 255)
        axis.imshow(picture, cmap="gray", vmin=low, vmax=high)
        axis.set(title=name, xticks=[], yticks=[])
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    command_line.run(main, required=("workdir",))

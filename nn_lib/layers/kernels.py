"""Classic 3x3 image kernels, as arrays, and the filter that applies one to images.

True convolution and cross-correlation differ by a rotation of the kernel; those of a symmetric one
are equal, and Sobel's only change their sign.
"""

import jax
import jax.numpy as jnp
import numpy as np

from nn_lib.layers.conv import convolve

IDENTITY = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float64)
SHIFT = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]], np.float64)
"""By one pixel: true convolution moves the picture left, cross-correlation right."""
BLUR = np.ones((3, 3)) / 9
SHARPEN = 2 * IDENTITY - BLUR
"""The picture and what the blur takes from it, `2 I - blur`; its sum is 1."""
SOBEL = np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]], np.float64)
"""The derivative down the picture; its transpose is the one to the right."""
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float64)

KERNELS = {
    "identity": IDENTITY,
    "shift": SHIFT,
    "blur": BLUR,
    "sharpen": SHARPEN,
    "sobel": SOBEL,
    "sobel_right": SOBEL.T.copy(),
    "laplacian": LAPLACIAN,
}


def filter_images(images: jax.Array, kernel, *, flip: bool = True) -> jax.Array:
    """`kernel [K, K]` over every channel of `[B, H, W, C]` by itself, zero padded to the same size.

    True convolution unless `flip=False`.
    """
    channels = images.shape[-1]
    stacked = jnp.tile(jnp.asarray(kernel, images.dtype)[..., None, None], (1, 1, 1, channels))
    return convolve(images, stacked, padding="SAME_SYMMETRIC", groups=channels, flip=flip)

"""The shallow pipeline: orientation histograms, k-means codes, a linear classifier.

What image classification was before the features were learnt: every step is designed or fitted
apart from the next, by scikit-learn.
"""

import dataclasses

import numpy as np

from nn_lib.checks import UserError


@dataclasses.dataclass
class ShallowClassifier:
    """Local gradient histograms -> codes -> counts of codes -> logistic regression.

    Attributes:
      patch: side of the square patches that are described, in pixels.
      stride: between patches.
      cells: of a patch along each side, each with its own histogram.
      orientations: bins of a histogram over 360 degrees.
      codes: number of k-means centres.
      regions: the image is cut into regions x regions, each with its own counts; 1 keeps no
        position at all, a bag of items.
      seed: of k-means and of the patches that it sees.

    Dalal & Triggs 2005 (histograms), Csurka et al. 2004 (bags of codes), Lazebnik et al. 2006
    (regions).
    """

    patch: int = 4
    stride: int = 1
    cells: int = 2
    orientations: int = 8
    codes: int = 100
    regions: int = 2
    seed: int = 0

    def fit(self, images: np.ndarray, labels: np.ndarray) -> "ShallowClassifier":
        """Learns codes and classifier from `images [N, H, W]` and `labels int[N]`."""
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rng = np.random.default_rng(self.seed)
        some = images[rng.permutation(len(images))[:2000]]
        patches = self.describe(some).reshape(-1, self.cells**2 * self.orientations)
        patches = patches[rng.permutation(len(patches))[:50_000]]
        if self.codes > len(patches):
            raise UserError(
                f"ShallowClassifier expects at most as many codes as patches, got {self.codes} and "
                f"{len(patches)}; use fewer codes or a smaller patch"
            )
        self._means = MiniBatchKMeans(
            self.codes, random_state=self.seed, n_init=3, batch_size=4096
        ).fit(patches)
        self._classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1))
        self._classifier.fit(self.encode(images), labels)
        return self

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Class indices `int[N]`."""
        return self._classifier.predict(self.encode(images))

    def describe(self, images: np.ndarray) -> np.ndarray:
        """`[N, rows, columns, cells^2 orientations]`, a unit vector per patch, 0 where flat."""
        votes = orientation_votes(images.astype(np.float32), self.orientations)
        side = self.patch // self.cells
        cells = _window_sums(votes, side)
        places = [
            cells[:, i * side :, j * side :] for i in range(self.cells) for j in range(self.cells)
        ]
        rows = images.shape[1] - self.patch + 1
        columns = images.shape[2] - self.patch + 1
        found = np.concatenate([place[:, :rows, :columns] for place in places], axis=-1)
        found = found[:, :: self.stride, :: self.stride]
        norms = np.linalg.norm(found, axis=-1, keepdims=True)
        return found / np.maximum(norms, 1e-3)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """`[N, regions^2 codes]`, how often each code occurs in each region."""
        return np.concatenate(
            [self._encode(images[start : start + 500]) for start in range(0, len(images), 500)]
        )

    def _encode(self, images: np.ndarray) -> np.ndarray:
        found = self.describe(images)
        codes = self._means.predict(found.reshape(-1, found.shape[-1])).reshape(found.shape[:3])
        counts = np.zeros((len(images), self.regions, self.regions, self.codes), np.float32)
        rows = np.arange(codes.shape[1]) * self.regions // codes.shape[1]
        columns = np.arange(codes.shape[2]) * self.regions // codes.shape[2]
        where = np.arange(len(images))[:, None, None], rows[:, None], columns[None], codes
        np.add.at(counts, where, 1)
        return np.sqrt(counts.reshape(len(images), -1))


def orientation_votes(images: np.ndarray, orientations: int) -> np.ndarray:
    """`[N, H, W] -> [N, H, W, orientations]`: the gradient's length, shared by the nearest bins.

    Differences are central inside and one-sided at the border; bin b is centred on the angle
    `2 pi b / orientations`.
    """
    down, right = np.gradient(images, axis=(1, 2))
    length = np.hypot(down, right)
    position = np.arctan2(down, right) / (2 * np.pi) * orientations
    low = np.floor(position)
    share = position - low
    votes = np.zeros((*images.shape, orientations), np.float32)
    for offset, weight in ((0, 1 - share), (1, share)):
        bins = (low.astype(int) + offset) % orientations
        np.put_along_axis(
            votes,
            bins[..., None],
            np.take_along_axis(votes, bins[..., None], -1) + (weight * length)[..., None],
            -1,
        )
    return votes


def _window_sums(values: np.ndarray, side: int) -> np.ndarray:
    """Sums over every `side` x `side` window, `[N, H, W, C] -> [N, H-side+1, W-side+1, C]`."""
    windows = np.lib.stride_tricks.sliding_window_view(values, (side, side), axis=(1, 2))
    return windows.sum(axis=(-2, -1))

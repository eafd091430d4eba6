"""Four host devices, a data folder of the test session, and how parity with torch is required."""

import os
from unittest.mock import MagicMock

from tests.processes import QUICK_COMPILATION

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        QUICK_COMPILATION,
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest
from absl import flags
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache

from nn_lib.layers import fast_paths
from nn_lib.train.sharding import MeshConfig

# The same examples in every run; `pytest --hypothesis-profile=default` looks for new ones.
settings.register_profile("reproducible", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("reproducible")

# An experiment that names no mesh takes one of the four devices here, not all of them.
MeshConfig.__init__.__defaults__ = (1, 1, 1)

flags.FLAGS.mark_as_parsed()  # Grain asks absl's flags outside app.run
jax.config.update("jax_compilation_cache_dir", os.path.abspath(".cache/jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the time here


def F(shape, start, scale=1.0):
    """The filler of the worked examples: row-major, the k-th entry is scale * sin(start + k)."""
    return scale * np.sin(start + np.arange(np.prod(shape))).reshape(shape)


def swapped(array):
    """Channels last to channels first."""
    return np.moveaxis(np.asarray(array), -1, 1)


def cache_programs():
    """Undoes what a mesh of several devices may have turned off."""
    if not jax.config.values["jax_enable_compilation_cache"]:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


@pytest.fixture(autouse=True, scope="module")
def cached_programs():
    """As each file of tests ends: those of its meshes compile without a cache, all others with."""
    yield
    cache_programs()


@pytest.fixture(autouse=True, scope="session")
def data_folder(tmp_path_factory):
    """Embedded data sets are built once a test session, into a folder that its workers share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tfds"
    folder.mkdir(exist_ok=True)
    before = os.environ.get("TFDS_DATA_DIR")
    os.environ["TFDS_DATA_DIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["TFDS_DATA_DIR"]
    else:
        os.environ["TFDS_DATA_DIR"] = before


@pytest.fixture(scope="session")
def generated_images(tmp_path_factory):
    """A folder with the TFDS data set `generated_images`, prepared."""
    from tests.generated_images import GeneratedImages

    folder = tmp_path_factory.mktemp("pictures")
    for name in ("small", "varying"):
        builder = GeneratedImages(data_dir=folder, config=name, file_format="array_record")
        builder.download_and_prepare()
    return str(folder)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder with an `imagenette` of whole pictures and an `imagenet2012` with four broken."""
    from tests.image_sets import BROKEN
    from tests.imagenet_layout import prepare

    folder = tmp_path_factory.mktemp("photographs")
    prepare("imagenette", folder)
    return prepare("imagenet2012", folder, broken=BROKEN)


@pytest.fixture(scope="module")
def undrawn():
    """Drawing is much of a small run: its pictures are empty files."""

    def no_figure(panels, size=0):
        return MagicMock(), [MagicMock() for _ in range(panels)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nn_lib.train.pictures._figure", no_figure)
        patch.setattr("nn_lib.train.pictures._save", lambda _, file: file.touch() or file)
        yield


@pytest.fixture
def x64():
    """Float64 inside the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=[True, False], ids=["fast_paths", "xlas_operators"])
def both_paths(request):
    """With what is quicker on a CPU, and without."""
    with fast_paths(request.param):
        yield


@pytest.fixture(scope="session")
def torch():
    """The live torch; on CI its absence is a failure, elsewhere the golden files stand in."""
    try:
        import torch
    except ImportError:
        if os.environ.get("NN_LIB_REQUIRE_TORCH"):
            pytest.fail("torch is required here: pip install -e '.[torch]'")
        pytest.skip("torch is not installed; golden outputs check the same functions")
    return torch

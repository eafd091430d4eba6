"""What the benchmarks compare with is the same network, and their medians are medians."""

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import compare, flax_networks
from experiments.benchmarks.convnets import operations
from nn_lib.interop import torchvision_model
from nn_lib.models import ResNet18, ResNet50


@pytest.mark.parametrize(
    ("stock", "ours", "size"),
    [
        (flax_networks.ResNet((3, 4, 6, 3), True), ResNet50(), 224),
        (flax_networks.ResNet((2, 2, 2, 2), False, True), ResNet18(small_images=True), 32),
        (flax_networks.GoogLeNet(), torchvision_model("googlenet", auxiliary=True), 224),
    ],
)
def test_stock_networks_have_our_parameters_and_statistics(stock, ours, size):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)

    def sizes(model):
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), images)
        return {
            name: sorted(leaf.size for leaf in jax.tree.leaves(tree))
            for name, tree in variables.items()
        }

    assert sizes(stock) == sizes(ours)


def test_a_step_is_counted_by_the_papers_multiply_adds():
    macs = 4_089_184_256
    assert operations("resnet50", 1) == {False: 2 * macs, True: 6 * macs}


def test_sides_take_turns_and_the_median_is_taken():
    calls = []
    sides = {name: lambda train, name=name: calls.append((name, train)) for name in "ab"}
    found = compare.alternate(sides, True, rounds=3)
    assert set(found) == {"a", "b"} and all(seconds > 0 for seconds in found.values())
    assert {train for _, train in calls} == {True}
    names = "".join(name for name, _ in calls)
    assert names.count("ab") == names.count("ba") + 1 == 4  # two warm-ups, three rounds


def test_tables_are_written_as_they_are(tmp_path):
    compare.write(tmp_path / "new" / "table.csv", [{"name": "a", "x_s": 0.5}])
    assert (tmp_path / "new" / "table.csv").read_text() == "name,x_s\na,0.5\n"

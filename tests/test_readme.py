"""What the README shows is true."""

import re

import jax
import pytest

from tests.processes import ROOT

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_its_snippets_run_and_train(snippet):
    names = {}
    exec(snippet, names)
    loss, trained = names["loss"], names["variables"]
    untrained = names["model"].init(jax.random.key(1), names["x"])
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), untrained, trained)
    assert all(jax.tree.leaves(changed))
    assert loss(trained) < 0.2 * loss(untrained)


def test_every_file_that_it_names_exists():
    for name in re.findall(r"`((?:nn_lib|tests|configs|experiments)/[\w/]+\.py)`", README):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"--config=(configs/\w+\.py)", README):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"\]\((docs/[\w/]+\.md)\)", README):
        assert (ROOT / name).is_file(), name


def test_its_tour_is_ten_lines():
    tour = README.split("## One batch from source to checkpoint")[1].split("##")[0]
    assert re.findall(r"^(\d+)\. ", tour, re.MULTILINE) == [str(n) for n in range(1, 11)]

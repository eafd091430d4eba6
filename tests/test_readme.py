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
    before = names["layer"].init(jax.random.key(0), names["inputs"])
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, names["variables"])
    assert all(jax.tree.leaves(changed))


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

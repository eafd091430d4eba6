"""Parameters named by pattern: `Conv_0`, `*.bias`, `layers_?.cell`, as in file names.

A parameter's path is its names joined by dots, `Conv_0.kernel`. A pattern means the parameters
whose path it matches, or that lie below a module whose path it matches; `*` crosses dots.
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax

from nn_lib.checks import UserError


def path_of(keys) -> str:
    """'Conv_0.kernel' for the key path of a leaf."""
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def matches(path: str, pattern: str) -> bool:
    """Whether `pattern` names the parameter at `path`, or a module that holds it."""
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}.*")


def mask(tree: Any, patterns: Sequence[str]) -> Any:
    """The tree with True where a pattern matches and False elsewhere."""

    def matched(keys, _):
        return any(matches(path_of(keys), pattern) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(matched, tree)


def check_patterns(field: str, patterns: Sequence[str], params: Any) -> None:
    """Raises UserError for a pattern that matches no parameter, with the paths there are."""
    paths = [path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        if not any(matches(path, pattern) for path in paths):
            raise UserError(
                f"{field}: {pattern!r} matches no parameter; there are {', '.join(paths)}"
            )

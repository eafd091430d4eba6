"""What every layer of the code base says when it is handed something wrong."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the caller, told in one line: who, what was expected, what came, the likely fix.

    The command-line mains print it without a traceback and exit with status 2.
    """


def first_line(error: BaseException, length: int = 200) -> str:
    """Of what an exception says, cut to the length; its type where it says nothing.

    >>> first_line(OSError('no such file\\nand more'), length=7)
    'no such'
    """
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:length]


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest choices, or all of them where none is near.

    >>> nearest('learing_rate', ['learning_rate', 'momentum'])
    'did you mean learning_rate?'
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if len(choices) <= 20:
        return f"there are {', '.join(choices)}"
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.0)
    return f"nearest: {', '.join(near)}"


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Raises UserError with the nearest names unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise UserError(f"{what} {value!r} is unknown; {nearest(value, choices)}")


def check_rank(who: str, array, expected: str) -> None:
    """Raises UserError unless `array` has the rank of the shape spelt out in `expected`.

    `expected` names the axes, as in '[B, T, F]'; the error repeats it.
    """
    rank = expected.count(",") + 1
    if array.ndim != rank:
        came = f"[{', '.join(map(str, array.shape))}]"
        raise UserError(f"{who} expects inputs {expected}, got {came}; is an axis missing?")

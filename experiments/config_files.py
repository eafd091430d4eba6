"""Config files of the command line: FILE.py:variant, and the overrides `--config.field=value`."""

import dataclasses
import functools
import re
import runpy
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from nn_lib.checks import UserError, check_choice, nearest
from nn_lib.train import Experiment

DTYPES = ("bfloat16", "float16", "float32", "float64")


def define_config():
    """The flag `--config=FILE.py[:variant]` with its overrides `--config.field=value`."""
    config_flags.register_flag_parser_for_type(Any, _DtypeParser())  # type: ignore[type-var]
    return config_flags.DEFINE_config_file("config", None, "The experiment: FILE.py[:variant].")


class _DtypeParser(flags.ArgumentParser):
    """Of fields annotated Any, which are dtypes: `--config.model.dtype=bfloat16`."""

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        check_choice("dtype", argument, ("None", *DTYPES))
        return None if argument == "None" else getattr(jnp, argument)


def config_location() -> str:
    """The value of `--config`, FILE.py:variant."""
    flag: Any = flags.FLAGS["config"]
    return flag.config_filename


def check_config(argv: list[str]) -> None:
    """Says what is wrong with --config and its overrides before they become tracebacks."""
    config = None
    for index, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        path = re.fullmatch(r"--?(?:no)?config((?:\.[\w\[\]]+)+)", name)
        if name in ("--config", "-config"):
            value = value if "=" in argument else [*argv, ""][index + 1]
            if not value:
                raise UserError("--config is empty; for example --config=configs/mnist1d.py:cnn")
            config = load_config(value)
        elif path and config is None:
            raise UserError("--config=FILE comes before its overrides --config.field=value")
        elif path:
            _check_field(config, path.group(1)[1:].split("."))


def load_config(location: str):
    """The config as its file makes it, without overrides."""
    path, _, argument = location.partition(":")
    if not Path(path).is_file():
        there = ", ".join(sorted(str(file) for file in Path("configs").glob("[!_]*.py")))
        raise UserError(f"--config: no file {path!r}; there are {there or 'none'}")
    try:
        get_config = runpy.run_path(path)["get_config"]
        config = get_config(argument) if ":" in location else get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--config: {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, Experiment):
        raise UserError(f"--config: get_config of {path} returns no nn_lib.train.Experiment")
    return config


def _check_field(holder, path: list[str]) -> None:
    for depth, part in enumerate(path):
        known = field_names(holder)
        if part not in known:
            where = ".".join(["config", *path[:depth]])
            if not known:
                raise UserError(f"--{where}.{part}: {where} is {holder!r}, which has no fields")
            raise UserError(f"--{where} has no field {part!r}; {nearest(part, known)}")
        holder = getattr(holder, part)


def field_value(config, field: str):
    """What the field `optimizer.learning_rate`, say, of a config holds.

    Raises:
      UserError: there is no such field, with the nearest names.
    """
    _check_field(config, field.split("."))
    return functools.reduce(getattr, field.split("."), config)


def overrides(argv: list[str]) -> list[str]:
    """The arguments `--config.field=value` of a command line, to be given to another."""
    found = []
    for argument, following in zip(argv, [*argv[1:], ""]):
        if re.match(r"--?(no)?config\.", argument):
            found.append(argument)
            if "=" not in argument and not following.startswith("-"):
                found.append(following)
    return found


def field_names(holder) -> list[str]:
    """The fields of a dataclass or module that an override may name, without Flax's own two."""
    if not dataclasses.is_dataclass(holder):
        return []
    own = {field.name for field in dataclasses.fields(holder)}
    return sorted(own - {"parent", "name"} if isinstance(holder, nn.Module) else own)

"""TFDS without TensorFlow: find a data set, build an embedded one, name its splits."""

import contextlib
import errno
import os
from pathlib import Path

import filelock
import numpy as np
import tensorflow_datasets as tfds

from nn_lib.checks import UserError, first_line, nearest
from nn_lib.data import builders
from nn_lib.data.tables import Table


def find(name: str, data_dir: str | None):
    """The TFDS builder of a prepared data set; embedded ones are prepared first.

    Raises:
      UserError: an unknown name, or a data set that is neither embedded nor prepared.
    """
    directory = os.path.expanduser(
        data_dir or os.environ.get("TFDS_DATA_DIR") or str(tfds.core.constants.DATA_DIR)
    )
    base = name.split("/")[0].split(":")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known and not os.path.isdir(os.path.join(directory, base)):
        near = nearest(base, known)
        raise UserError(f"data.name {name!r} is no data set that TFDS or nn_lib knows; {near}")
    if base in builders.EMBEDDED:
        _check_writable(directory, base)
    config = name.partition("/")[2].partition(":")[0]
    configs = _configs(base) if base in known else {}
    if config and configs and config not in configs:
        raise UserError(f"data set {base!r} has no config {config!r}; {nearest(config, configs)}")
    builder = _open(name, directory)
    if base in builders.EMBEDDED:
        if _is_prepared(builder):
            return builder
        _build(builder, directory, base)
        return _open(name, directory)  # what another process built shows only anew
    if not _is_prepared(builder):
        raise UserError(
            f"data set {name!r} is not prepared in {directory!r}. Name its folder by "
            "--config.data.data_dir=, or prepare it once, with a network and TensorFlow at hand: "
            f"tfds build {name} --file_format=array_record --data_dir={directory}"
        )
    stored = builder.info.file_format
    if stored is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"data set {name!r} in {directory!r} is stored as {stored.value}, which only "
            "TensorFlow reads; convert it: tfds convert_format --out_file_format=array_record "
            f"--dataset_dir={builder.data_dir}"
        )
    return builder


def _configs(base: str) -> dict:
    """The configs of a data set; none where its module needs packages that are not installed."""
    try:
        return tfds.builder_cls(base).builder_configs
    except (ImportError, OSError):
        return {}


def _open(name: str, directory: str):
    try:
        return tfds.builder(name, data_dir=directory, file_format="array_record")
    except (ImportError, OSError) as error:
        raise UserError(
            f"data set {name!r} is not prepared in {directory!r}, and its TFDS module cannot be "
            f"loaded ({error}); prepare it on a machine with TensorFlow: tfds build {name} "
            "--file_format=array_record"
        ) from error
    except (ValueError, TypeError, AssertionError) as error:
        detail = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise UserError(f"data.name {name!r} cannot be opened: {detail[:200]}") from error


def kind(builder, named: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]]:
    """What the features hold, and their keys.

    'examples' (input, label): numeric inputs; labels are classes, one or a sequence of them, or
    numbers of one shape, targets of a regression or 0 and 1 per label. 'classes', 'tags', 'pairs'
    (text, target): the kinds of a `Table`. 'text' (text,): plain texts.

    Args:
      named: the keys to read, where the set does not say which.
    """
    features = builder.info.features
    keys = named or builder.info.supervised_keys
    for key in named:
        if key not in features:
            raise UserError(
                f"data.features: {builder.info.full_name!r} has no {key!r}, only "
                f"{', '.join(features)}"
            )
    if keys:
        key, label = keys[0], keys[1]
        numeric = isinstance(key, str) and np.dtype(features[key].np_dtype).kind in "uif"
        if numeric and isinstance(label, str) and _is_target(features[label]):
            return "examples", (key, label)
    if keys and all(isinstance(key, str) for key in keys[:2]) and _is_text(features[keys[0]]):
        target = features[keys[1]]
        if _is_text(target):
            return "pairs", tuple(keys[:2])
        if classes(target) is not None:
            return ("tags" if isinstance(target, tfds.features.Sequence) else "classes"), keys[:2]
    texts = [key for key, value in features.items() if isinstance(value, tfds.features.Text)]
    if len(texts) == 1 and len(features) == 1:
        return "text", (texts[0],)
    raise UserError(
        f"data set {builder.info.full_name!r} has features {', '.join(features)}; nn_lib reads "
        "sets of numeric inputs with class labels or numeric targets, of texts with classes, tags "
        "or other texts, and plain texts; --config.data.features=\"('text', 'label')\" names two"
    )


def classes(feature) -> tfds.features.ClassLabel | None:
    """The classes that a feature takes one of, or a sequence of; None for numbers."""
    inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
    return inner if isinstance(inner, tfds.features.ClassLabel) else None


def _is_text(feature) -> bool:
    """A text, or one that is cut into tokens already."""
    inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
    return isinstance(inner, tfds.features.Text)


def _is_target(feature) -> bool:
    """Class labels, or a number or an array of them; no image, no text."""
    return (
        (classes(feature) is not None or isinstance(feature, tfds.features.Tensor))
        and np.dtype(feature.np_dtype).kind in "uifb"
        and None not in feature.shape
    )


def split_expressions(builder, train, validation, test) -> dict[str, str]:
    """Split name -> TFDS expression; the data set's own splits where none is configured.

    Without a validation split the last tenth of training is held out for it.
    """
    own = set(builder.info.splits)
    if train is None:
        if "train" not in own:
            raise UserError(
                f"data set {builder.info.full_name!r} has no split 'train' but "
                f"{', '.join(sorted(own))}; name one by --config.data.train_split="
            )
        for name, expression in (("validation", validation), ("test", test)):
            if expression and expression.startswith("train"):
                raise UserError(
                    f"data.{name}_split {expression!r} is a part of the training data; name "
                    "data.train_split too, so that the two do not overlap"
                )
        held_out = validation is None and "validation" not in own
        train = "train[:90%]" if held_out else "train"
        if held_out:
            validation = "train[90%:]"
    if validation is None:
        validation = "validation" if "validation" in own else ""
    if test is None:
        test = "test" if "test" in own else ""
    expressions = {"train": train, "validation": validation, "test": test}
    expressions = {split: text for split, text in expressions.items() if text}
    for split, expression in expressions.items():
        with _split_errors(builder, split, expression):
            if not builder.info.splits[expression].num_examples:
                raise ValueError("it holds no examples")
    return expressions


def read_text(builder, expression: str, keys) -> str:
    """All texts of a split, one newline between them."""
    texts = [example[keys[0]] for example in _examples(builder, expression)]
    return "\n".join(text.decode("utf-8") if isinstance(text, bytes) else text for text in texts)


def read_table(builder, expression: str, kind: str, keys) -> Table:
    """A split of texts with classes, tags or other texts."""
    label = builder.info.features[keys[1]]
    named = classes(label)
    names = tuple(named.names) if named is not None else None
    table = Table(kind, class_names=names)
    for number, example in enumerate(_examples(builder, expression)):
        text, target = (_decoded(example[key]) for key in keys)
        if names and np.min(target, initial=0) < 0:
            raise UserError(
                f"example {number} of {builder.info.full_name} {expression} has no label; name "
                "another data.train_split"
            )
        if kind == "classes" and names:
            target = names[int(target)]
        elif kind == "tags" and names:
            target = tuple(names[int(tag)] for tag in target)
        table.add(text, target, f"example {number} of {builder.info.full_name} {expression}")
    return table


def _examples(builder, expression: str) -> list[dict]:
    try:
        source = builder.as_data_source(split=expression)
        return source.__getitems__(range(len(source)))
    except Exception as error:  # a damaged file has many ways to say so
        raise UserError(
            f"data set {builder.info.full_name!r}: {expression} cannot be read: "
            f"{first_line(error)}; check the files in {str(builder.data_dir)!r}"
        ) from error


def _decoded(value):
    """Bytes as strings, sequences as tuples."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, list | np.ndarray) and np.ndim(value):
        return tuple(_decoded(part) for part in value)
    return value


@contextlib.contextmanager
def _split_errors(builder, split: str, expression: str):
    try:
        yield
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"data.{split}_split {expression!r} is no split of {builder.info.full_name!r}; it has "
            f"{', '.join(builder.info.splits)}, and parts such as 'train[:90%]' that are not empty"
        ) from error


def _is_prepared(builder) -> bool:
    return (Path(builder.data_dir) / "dataset_info.json").exists()


def _check_writable(directory: str, base: str) -> None:
    """A clear error before TFDS touches a folder that cannot take an embedded data set."""
    place = Path(directory)
    if (place / base).is_dir():
        return
    with _write_errors(directory, base):
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")


def _build(builder, directory: str, base: str) -> None:
    """Prepares an embedded data set; of several processes one builds and the others wait."""
    lock = filelock.FileLock(os.path.join(directory, f".{base}.lock"))
    with _write_errors(directory, base), lock:
        if not _is_prepared(builder):
            with _quiet():
                builder.download_and_prepare()


@contextlib.contextmanager
def _write_errors(directory: str, base: str):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the data set {base!r} to {directory!r}: {error.strerror or error}; name "
            "another folder by TFDS_DATA_DIR or --config.data.data_dir="
        ) from error


@contextlib.contextmanager
def _quiet():
    """TFDS's bars and banner for a second's work would bury the run's own lines."""
    tfds.disable_progress_bar()
    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            yield
    finally:
        tfds.enable_progress_bar()

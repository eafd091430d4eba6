"""Checkpoints: the only file that knows Orbax.

A checkpoint holds the leaves of the training state by their paths, and a JSON note with a checksum
of every leaf, the resolved config, the vocabulary and the best step so far. Damage that the file
format does not notice shows in the checksums.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from nn_lib.checks import UserError
from nn_lib.train import processes
from nn_lib.train.checksums import checksums
from nn_lib.train.workdir import SameFolder, SaveFailed

log = logging.getLogger("nn_lib")


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of a work directory.

    Attributes:
      folder: where they lie, one folder a step.
      keep: how many of the latest stay.
      best_step: a step that stays however old it is.
      read_only: nothing is written or cleaned up, so that a running process is not disturbed.
    """

    folder: Path
    keep: int = 2
    best_step: int | None = None
    read_only: bool = False

    def __post_init__(self):
        self.folder = Path(self.folder).absolute()
        self._step: int | None = None  # the last that was begun to be saved
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                cleanup_tmp_directories=not self.read_only,
                enable_async_checkpointing=not self.read_only,
                read_only=self.read_only,
            ),
            item_names=("state", "note"),
        )
        self._place = None if self.read_only else SameFolder(self.folder)

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Orbax asks which checkpoints stay: the latest and the best."""
        latest = {checkpoint.step for checkpoint in checkpoints[-self.keep :]}
        return [c.step in latest or c.step == self.best_step for c in checkpoints]

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, note: dict[str, Any]) -> None:
        """Starts to save; the files are written while training goes on.

        Raises:
          SaveFailed: the save before, or this one, could not be written; what was is intact.
        """
        with self._saving(self._step):
            self._manager.wait_until_finished()
        if step in self.steps():
            return
        self._step = step
        leaves = leaves_by_path(state)
        note = {**note, "checksums": checksums(leaves)}
        note["note_checksum"] = _json_checksum(note)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), note=ocp.args.JsonSave(note)
        )
        with self._saving(step):
            if not self._manager.save(step, args=items):
                raise RuntimeError("it was refused")

    def restore(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """The state (in the structure, shapes and dtypes of `target`) and the note of a step.

        Raises:
          Damaged: the files are incomplete or do not hold what was saved.
          UserError: the checkpoint is intact, but of another kind of state.
        """
        wanted = leaves_by_path(target)
        saved = self.note(step)["checksums"]
        if saved.keys() != wanted.keys():
            differing = sorted(saved.keys() ^ wanted.keys())
            raise UserError(
                f"checkpoint {step} in {str(self.folder)!r} was saved by other code: it differs in "
                f"{', '.join(differing[:4])}; use the code that trained it, or a new --workdir"
            )
        leaves, note = self.read(step, jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted))
        return jax.tree.unflatten(
            jax.tree.structure(target), [leaves[path] for path in wanted]
        ), note

    def read(
        self, step: int, abstract: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The verified leaves of a step by their paths, and the note.

        Args:
          abstract: what leaves to expect, and where; None takes what was saved, as it was saved, or
            onto one device where there are not as many as there were.

        Raises:
          Damaged: the files are incomplete or do not hold what was saved.
        """
        one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        try:
            items = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract, fallback_sharding=one_device),
                    note=ocp.args.JsonRestore(),
                ),
            )
            leaves, note = items["state"], _verified(items["note"])
            problem = None
        except Damaged as damage:
            problem = damage
        except Exception as error:  # Orbax raises bare Exceptions for damaged files
            problem = Damaged(f"cannot be read ({_first_line(error)})")
            problem.__cause__ = error
        _agree(problem)
        found = checksums(leaves)
        wrong = [path for path, value in found.items() if note["checksums"].get(path) != value]
        if wrong:
            raise Damaged(f"does not match its checksums at {', '.join(wrong[:3])}")
        return leaves, note

    def restore_latest(self, target: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest intact (step, state, note); None where there are no checkpoints.

        A damaged checkpoint is reported and the one before it is tried; once one is intact, the
        damaged ones are moved to `damaged_checkpoints`, since their steps will be saved again.

        Raises:
          UserError: there are checkpoints, but none is intact, or they hold another kind of state.
            Nothing was moved.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                state, note = self.restore(step, target)
            except Damaged as damage:
                log.warning("checkpoint %d %s; falling back to the one before it", step, damage)
                damaged.append(step)
                continue
            for bad in damaged:
                self._set_aside(bad)
            return step, state, note
        if damaged:
            steps = ", ".join(map(str, reversed(damaged)))
            raise UserError(
                f"none of the checkpoints in {str(self.folder)!r} is intact (steps {steps}); "
                "remove the work directory to start over"
            )
        return None

    def note(self, step: int) -> dict[str, Any]:
        """The verified note of a step, without its state; raises Damaged."""
        try:
            items = self._manager.restore(
                step, args=ocp.args.Composite(note=ocp.args.JsonRestore())
            )
            note, problem = _verified(items["note"]), None
        except Damaged as damage:
            problem = damage
        except Exception as error:  # Orbax raises bare Exceptions for damaged files
            problem = Damaged(f"has a note that cannot be read ({_first_line(error)})")
            problem.__cause__ = error
        _agree(problem)
        return note

    def check(self) -> None:
        """Raises SaveFailed if a save in the background has failed, or its folder has vanished.

        It waits for nothing.
        """
        with self._saving(self._step):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when everything is on disk; raises SaveFailed."""
        with self._saving(self._step):
            self._manager.wait_until_finished()

    def close(self) -> None:
        try:
            self._manager.close()
        except Exception as error:  # of a save that has failed, and has been reported
            log.debug("while closing: %s", error)
        if self._place is not None:
            self._place.close()

    def _check_place(self) -> None:
        if self._place is not None:
            self._place.check()

    @contextlib.contextmanager
    def _saving(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # of the step whose results were to be saved
            raise
        except Exception as error:  # Orbax raises what its threads, tensorstore or the system do
            self._check_place()
            intact = [f.name for f in self.folder.glob("*") if f.name.isdecimal()]
            last = f"that of step {max(intact, key=int)} is intact" if intact else "there is none"
            raise SaveFailed(
                f"cannot save the checkpoint of step {step} in {str(self.folder)!r}: "
                f"{_reason(error)}; {last}, and the same command continues from the last"
            ) from error
        self._check_place()  # Orbax would make it anew

    def _set_aside(self, step: int) -> None:
        if processes.first():
            aside = self.folder.parent / "damaged_checkpoints"
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (self.folder / str(step)).rename(aside / str(step))
        processes.on_every(True)  # the others wait for it
        self._manager.reload()


class Damaged(Exception):
    """A checkpoint whose files are incomplete or hold something else than was saved."""


def _agree(problem: Damaged | None) -> None:
    """Raises Damaged where any process, each of which reads its own parts, met a problem."""
    if not processes.on_every(problem is None):
        raise problem or Damaged("cannot be read by another process")


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves by dotted path, so that the files do not depend on Optax's or Flax's classes."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in pairs}


def _verified(note: dict[str, Any]) -> dict[str, Any]:
    if note.pop("note_checksum", None) != _json_checksum(note):
        raise Damaged("has a note that does not match its checksum")
    return note


def _json_checksum(note: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(note, sort_keys=True).encode())


def _reason(error: Exception) -> str:
    """What the operating system said, where that can be found in what was made of it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = [os.strerror(n) for n in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)]
    known += [os.strerror(n) for n in (errno.ENOENT, errno.EACCES, errno.EIO, errno.ESTALE)]
    said = str(error).replace("NOT_FOUND", os.strerror(errno.ENOENT))  # as tensorstore says it
    return next((text for text in known if text in said), _first_line(error))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:120]

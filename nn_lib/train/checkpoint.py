"""Checkpoints: the only file that knows Orbax.

A checkpoint holds the leaves of the training state by their paths, and a JSON note with a checksum
of every leaf, the resolved config, the vocabulary and the best step so far. Damage that the file
format does not notice shows in the checksums.
"""

import contextlib
import dataclasses
import logging
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from nn_lib.checks import UserError, first_line
from nn_lib.train import processes
from nn_lib.train.checksums import checksums, json_checksum, leaves_by_path
from nn_lib.train.files import SameFolder, SaveFailed
from nn_lib.train.messages import reason

log = logging.getLogger("nn_lib")

AFTER_AN_ERROR = 10  # seconds for a save under way to end, where a process may have been lost
BETWEEN_LOOKS = 0.02  # seconds


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
        self._error: BaseException | None = None  # of the save in the background
        self._caller = threading.get_ident()
        self._barrier = ocp.multihost.get_barrier_sync_fn()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                cleanup_tmp_directories=not self.read_only,
                enable_async_checkpointing=not self.read_only,
                async_options=ocp.AsyncOptions(barrier_sync_fn=self._meet),
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

        Of a step that is saved already the note is replaced, since its state is the same.

        Raises:
          SaveFailed: the save before, or this one, could not be written; what was is intact.
        """
        self.wait()
        self._step = step
        if processes.as_on_first(step in self.steps()):
            self._replace_note(step, note)
            return
        leaves = leaves_by_path(state)
        note = _signed({**note, "checksums": checksums(leaves)})
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
          abstract: what leaves to expect, and where; None takes what was saved, onto one device.

        Raises:
          Damaged: the files are incomplete or do not hold what was saved.
        """
        note = self.note(step)
        handler: Any = ocp.StandardCheckpointHandler()
        args: Any = ocp.args.StandardRestore(abstract)
        if abstract is None:  # the note names the leaves; files that say more are not needed
            one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            onto = dict.fromkeys(note["checksums"], ocp.ArrayRestoreArgs(sharding=one_device))
            handler = ocp.PyTreeCheckpointHandler()
            args = ocp.args.PyTreeRestore(dict.fromkeys(onto, 0), restore_args=onto)
        with _agreed("cannot be read"):  # not by the manager, which meets the others in between
            folder = self._manager.directory / str(step) / "state"
            leaves = handler.restore(folder, args=args)
        found, saved = checksums(leaves), note["checksums"]
        wrong = sorted(path for path in {*found, *saved} if found.get(path) != saved.get(path))
        if wrong:
            raise Damaged(f"does not match its checksums at {', '.join(wrong[:3])}")
        return leaves, note

    def restore_latest(self, target: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest intact (step, state, note); None where there are no checkpoints.

        A damaged checkpoint is reported and the one before it is tried; once one is intact, the
        damaged ones are moved to `damaged_checkpoints`, since their steps will be saved again.

        Raises:
          UserError: there are checkpoints, but none is intact, or they hold another kind of state;
            nothing was moved. Or a damaged one cannot be moved.
        """
        damaged: list[int] = []
        for step in reversed(processes.all_as_on_first(self.steps())):
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
        with _agreed("has a note that cannot be read"):
            folder = self._manager.directory / str(step) / "note"
            note = _verified(dict(ocp.JsonCheckpointHandler().restore(folder)))
        return note

    def _replace_note(self, step: int, note: dict[str, Any]) -> None:
        """The old note or the new one is there, whenever the process is killed."""
        note = _signed({**note, "checksums": self.note(step)["checksums"]})
        with self._saving(step):
            if processes.first():
                suffix = ".orbax-checkpoint-tmp"  # Orbax removes it where a killed run has left it
                with tempfile.TemporaryDirectory(suffix, f"{step}-", self.folder) as name:
                    new = self._manager.directory / Path(name).name
                    ocp.JsonCheckpointHandler().save(new, args=ocp.args.JsonSave(note))
                    for file in Path(new).iterdir():
                        file.replace(self.folder / str(step) / "note" / file.name)
            processes.on_every(True)  # the others wait for it

    def check(self) -> None:
        """Raises SaveFailed if a save in the background has failed, or its folder has vanished.

        It waits for nothing. Of several processes one that has `failed` does not raise: all are to
        stop after the same step, and to call `save` or `wait`.
        """
        try:
            self._check_place()
        except SaveFailed as failure:
            self._error = failure
        if self._error and jax.process_count() == 1:
            with self._saving(self._step):
                raise self._error

    @property
    def failed(self) -> bool:
        """Whether this process knows that its save has failed, or its folder has vanished."""
        return self._error is not None

    def wait(self) -> None:
        """Returns when everything is on disk; to be called by every process after the same step.

        Raises:
          SaveFailed: on every process, where it failed on one.
        """
        with self._saving(self._step):
            while processes.on_every(not self.failed):
                if processes.on_every(not self._under_way()):
                    break
                time.sleep(BETWEEN_LOOKS)
            else:
                raise self._error or RuntimeError("another process could not write its part")
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Ends; a save that nobody waited for, since a process may be lost, is soon given up."""
        given_up = time.monotonic() + AFTER_AN_ERROR
        while self._under_way() and not self.failed and time.monotonic() < given_up:
            time.sleep(BETWEEN_LOOKS)
        if self._under_way():
            return
        try:
            self._manager.close()
        except Exception as error:  # of a save that has failed, and has been reported
            log.debug("while closing: %s", error)
        if self._place is not None:
            self._place.close()

    def _check_place(self) -> None:
        if self._place is not None:
            self._place.check()

    def _under_way(self) -> bool:
        """Whether a save waits for another process; one process alone has nobody to wait for."""
        return jax.process_count() > 1 and self._manager.is_saving_in_progress()

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Where the threads in which Orbax saves wait for those of the other processes.

        After a failure Orbax comes here too, while it cleans up, for minutes to no purpose: the
        others wait elsewhere, for what has failed here.
        """
        if threading.get_ident() != self._caller and (error := sys.exception()):
            self._error = error
            raise error
        self._barrier(key=key, timeout_ms=timeout_ms)

    @contextlib.contextmanager
    def _saving(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # of the step whose results were to be saved
            raise
        except Exception as error:  # Orbax raises what its threads, tensorstore or the system do
            self._error = error
            self._check_place()
            intact = [f.name for f in self.folder.glob("*") if f.name.isdecimal()]
            last = f"that of step {max(intact, key=int)} is intact" if intact else "there is none"
            raise SaveFailed(
                f"cannot save the checkpoint of step {step} in {str(self.folder)!r}: "
                f"{reason(error)}; {last}, and the same command continues from the last"
            ) from error
        self._check_place()  # Orbax would make it anew

    def _set_aside(self, step: int) -> None:
        processes.on_first(lambda: self._move_aside(step))  # the others wait for it
        self._manager.reload()

    def _move_aside(self, step: int) -> None:
        aside = self.folder.parent / "damaged_checkpoints"
        try:
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (self.folder / str(step)).rename(aside / str(step))
        except OSError as error:
            raise UserError(
                f"cannot move the damaged checkpoint {step} to {str(aside)!r}: "
                f"{error.strerror or error}; move it by hand"
            ) from error


class Damaged(Exception):
    """A checkpoint whose files are incomplete or hold something else than was saved."""


@contextlib.contextmanager
def _agreed(otherwise: str) -> Iterator[None]:
    """Raises Damaged where any process, each of which reads its own parts, met a problem."""
    problem = None
    try:
        yield
    except Damaged as damage:
        problem = damage
    except Exception as error:  # Orbax raises bare Exceptions for damaged files
        problem = Damaged(f"{otherwise} ({first_line(error)})")
        problem.__cause__ = error
    if not processes.on_every(problem is None):
        raise problem or Damaged("cannot be read by another process")


def _signed(note: dict[str, Any]) -> dict[str, Any]:
    return {**note, "note_checksum": json_checksum(note)}


def _verified(note: dict[str, Any]) -> dict[str, Any]:
    if note.pop("note_checksum", None) != json_checksum(note):
        raise Damaged("has a note that does not match its checksum")
    return note

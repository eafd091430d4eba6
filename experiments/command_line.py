"""What the mains share: flags whose mistakes are one line and exit status 2, quiet logs."""

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from absl import app, flags

from experiments import peers
from experiments.allocator import cpu_only, keep_freed_memory
from experiments.config_files import check_config
from nn_lib.checks import UserError, nearest
from nn_lib.train.files import SaveFailed
from nn_lib.train.interrupt import Interrupted
from nn_lib.train.training_log import Diverged

USER_MISTAKE = 2
NOT_SAVED = os.EX_IOERR  # 74

COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/nn_lib/jax"),
    "Folder for compiled programs, so that a second start is quick; '' compiles anew every time.",
)

KEEP_FREED_MEMORY = flags.DEFINE_bool(
    "keep_freed_memory",
    True,
    "On CPU: the C library keeps freed memory (glibc), so that steps do not wait for fresh pages.",
)

END_WITH_PARENT = flags.DEFINE_bool(
    "end_with_parent",
    False,
    "Stop, as by SIGTERM, when standard input ends: how a sweep's trials end with it.",
)

DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of a mistake as well.")


def run(
    main: Callable[[], None],
    required: tuple[str, ...],
    join: Callable[[], None] | None = None,
) -> None:
    """Parses the flags and calls `main`; mistakes of the user end the process in one line.

    Exit status: 2 after a user's mistake, 1 when training diverged, 74 when something could not be
    saved, 75 when another process of the run has ended, 128 + signal when stopped.

    Args:
      join: makes this one of several processes, before `main`; one that fails then ends at once,
        without waiting for the others as JAX would.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; flags begin with --")
        _quiet_logs()
        _use_compilation_cache()
        if KEEP_FREED_MEMORY.value and cpu_only(jax.config.values["jax_platforms"]):
            keep_freed_memory()
        if END_WITH_PARENT.value:
            threading.Thread(target=_terminate_at_end_of_input, daemon=True).start()
        try:
            if join is not None:
                join()
            with _told_of_lost_peers():
                main()
        except UserError as mistake:
            if DEBUG.value:
                traceback.print_exc()
            _fail(str(mistake))
        except Diverged as divergence:
            sys.exit(f"{program()}: {divergence}")
        except SaveFailed as failure:
            sys.unraisablehook = lambda _: None  # what Orbax leaves behind speaks up at the end
            _fail(str(failure), NOT_SAVED)
        except Interrupted as stop:
            print(f"{program()}: {stop}; the same command continues", file=sys.stderr)
            sys.exit(128 + stop.signal)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:  # the reader of our output, head for example, has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)

    try:
        app.run(guarded, flags_parser=lambda argv: _parse(argv, required))
    except BaseException as end:
        if join is not None and jax.distributed.is_initialized():
            _leave_the_others(end)
        raise


@contextlib.contextmanager
def _told_of_lost_peers() -> Iterator[None]:
    """Ends in one line what can only fail since another process has ended, whose line says why."""
    try:
        yield
    except Exception as error:
        if not (jax.distributed.is_initialized() and peers.gone(error)):
            raise
        if DEBUG.value:
            traceback.print_exc()
        _fail(peers.LINE, peers.STATUS)


def program() -> str:
    """The main's name, as in `experiments.train`."""
    return f"experiments.{Path(sys.argv[0]).stem}"


def _parse(argv: list[str], required: tuple[str, ...]) -> list[str]:
    try:
        check_config(argv)
        rest = flags.FLAGS(argv)
    except UserError as mistake:
        _fail(str(mistake))
    except TypeError as error:  # a field whose type no flag can hold, such as a function
        _fail(f"a field of --config cannot be set from the command line ({error}); edit the config")
    except flags.UnrecognizedFlagError as error:
        _fail(f"unknown flag --{error.flagname}; {nearest(error.flagname, flags.FLAGS)}")
    except flags.Error as error:
        _fail(str(error).partition("Currently supported")[0])
    for name in required:
        if not flags.FLAGS[name].value:
            example = "configs/mnist1d.py:cnn" if name == "config" else "runs/first"
            _fail(f"--{name} is missing; for example --{name}={example}")
    return rest


def output_folder(path: str, marker: str) -> Path:
    """The folder, made where there is none, for pictures and numbers of a main.

    Raises:
      UserError: it cannot be written, or holds files of something else: not empty, no `marker`.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
        if others and marker not in others:
            raise UserError(f"--workdir={path} holds other files and no {marker}; choose another")
        (folder / marker).touch()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--workdir={path} cannot be written: {reason}; choose another") from error
    return folder


def quoted(argument: str) -> str:
    """As it is to be typed in a shell."""
    return shlex.quote(argument)


def _quiet_logs() -> None:
    """Errors only from the libraries, since Orbax has 45 lines a save; ours as plain lines."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)  # SaveFailed
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    others = sys.unraisablehook

    def hook(ignored) -> None:
        if "Event loop is closed" not in str(ignored.exc_value):  # a save that failed: SaveFailed
            others(ignored)

    sys.unraisablehook = hook
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # "generated new fontManager"
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax's tasks on damaged files
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger("nn_lib")
    logger.addHandler(handler)
    logger.propagate = False
    logging.getLogger("jax").setLevel(logging.ERROR)


def _use_compilation_cache() -> None:
    if COMPILATION_CACHE.value:
        folder = Path(COMPILATION_CACHE.value).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _terminate_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _leave_the_others(end: BaseException) -> None:
    """Ends this process of several after a failure, where the others might never come to an end."""
    code = end.code if isinstance(end, SystemExit) else 1
    if code in (None, 0, 128 + signal.SIGTERM, 128 + signal.SIGINT):
        return  # as all the others
    if isinstance(code, str):
        print(code, file=sys.stderr)
    elif not isinstance(end, SystemExit):
        traceback.print_exception(end)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(1)  # JAX aborts the others, even those that end by themselves, when this is gone
    os._exit(code if isinstance(code, int) else 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fail(message: str, status: int = USER_MISTAKE) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"{program()}: {_one_line(message)}", file=sys.stderr)
    sys.exit(status)

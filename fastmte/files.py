"""Files that are either whole or not there, and folders of one writer."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fastmte.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: runs are not kept apart
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears under ``path`` only when the block ends without an error.

    The bytes go to a temporary file in the same folder, are synced, and take the
    name in one step, so that a crash leaves the old file or the new one. Of a link,
    the file it points to is replaced; a device or a pipe is written to as it is.

    Args:
        path: the file to write; errors name it as it is given.
        mode: ``"w"`` (UTF-8 text, newlines as written) or ``"wb"``.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    real = Path(os.path.realpath(path))
    temporary = str(real.with_name(f".{real.name}.{os.getpid()}.tmp"))
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, mode, **text) as file:  # type: ignore[call-overload]
                yield file
            return
        with open(temporary, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, real)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
            is_missing = isinstance(error, FileNotFoundError)
            hint = " (make the folder first)" if is_missing else ""
            raise OSError(error.errno, f"{error.strerror}{hint}", str(path)) from error
        raise


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Give a folder to fill that takes the name ``folder`` when the block ends without an error.

    Its parents are made; it must not be there itself.

    Raises:
        OSError: the folder cannot be written; names ``folder``.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    try:
        yield temporary
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_object(path: str | Path, format: str, remedy: str = "") -> dict[str, Any]:
    """Return the JSON object in a file, which names its own format.

    Args:
        path: the file.
        format: what it must have under ``"format"``.
        remedy: what to do about a file that is not so, for the error.

    Raises:
        InputError: it holds no JSON object, or one of another format.
        OSError: the file cannot be read.
    """
    remedy = remedy and f"; {remedy}"
    try:
        value = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}){remedy}") from error
    if not isinstance(value, dict) or value.get("format") != format:
        raise InputError(f"{path}: not of the format {format!r}{remedy}")
    return value


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, as long as the block, or this process, lives.

    Raises:
        InputError: another one is at work in it.
        OSError: the folder cannot be written.
    """
    with open(folder / LOCK, "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{folder}: another fastmte is writing here; wait for it, or use another folder"
                ) from None
        yield

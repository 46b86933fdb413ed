"""Files that are there as a whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to instead, which then takes the place of `path`; after an error nothing is changed.

    The file is readable for all, as far as the umask of the process lets it. Its ending is that of `path`. What is
    raised where it cannot be written names `path`, and never the draft, of which nobody knows.
    """
    draft = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield draft
        os.replace(draft, path)
    except OSError as error:
        # A write that fails, as on a full disk, names no file at all.
        if error.errno is None or (error.filename is not None and str(error.filename) != str(draft)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Finds out, before the work for it is done, that a file cannot be written; changes nothing.

    Raises OSError that names `path`.
    """
    if path.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    is_new = not os.path.lexists(path)
    with path.open("a"):
        pass
    if is_new:
        path.unlink()

"""The command line: `midigen train corpora/bach --out runs/wide`, and the other commands.

In: words. Out: one call of a command in `commands`, and an exit code: 0, 2 for a mistake of the user's (one
line on standard error, no traceback), 3 for what passes, 130 after Ctrl-C, SIGTERM or SIGHUP. Nothing fails
because nobody reads what is said.
"""

import errno
import os
import sys
from collections.abc import Sequence

from midigen_jax import errors
from midigen_jax.arguments import parse
from midigen_jax.commands import COMMANDS, GROUPS
from midigen_jax.errors import DiskError, InputError
from midigen_jax.streams import outlive_readers, silence_orbax
from midigen_jax.train.stop import ends_at_once

# What the machine denies: no fault of the program, and nothing that a traceback would explain.
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the arguments are those of the process unless `words` are given."""
    outlive_readers()
    silence_orbax()
    try:
        code = _told(sys.argv[1:] if words is None else words)
    except Exception:  # a fault of ours, whose traceback comes next
        _part(errors.FAULT)
        raise
    if code == errors.INTERRUPTED and words is None:
        if "midigen_jax.music.sandbox" in sys.modules:
            from midigen_jax.music import sandbox

            sandbox.close()
        # Not in order: Python would take away what a compiler that goes on in its thread stands on.
        sys.stdout.flush()
        os._exit(code)
    return code


def _told(words: Sequence[str]) -> int:
    """Run a command; what ends it, and is no fault of ours, is told in a line."""
    try:
        with ends_at_once():
            return parse(COMMANDS, GROUPS, words)() or 0
    except InputError as error:
        return _end(errors.AGAIN if isinstance(error, DiskError) else errors.MISTAKE, str(error))
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        return _end(errors.MISTAKE, f"{error.filename or 'writing'}: {error.strerror}")
    except RuntimeError as error:
        if not errors.is_out_of_memory(error):
            raise
        return _end(errors.MISTAKE, errors.OUT_OF_MEMORY)
    except KeyboardInterrupt:
        return _end(errors.INTERRUPTED, errors.INTERRUPTION)


def _end(code: int, line: str) -> int:
    """Say why a command ends; its exit code."""
    print(f"midigen: {line}", file=sys.stderr)
    _part(code)
    return code


def _part(code: int) -> None:
    """Where a command is one of several processes, leave the others."""
    if "midigen_jax.train.distributed" in sys.modules:
        from midigen_jax.train.distributed import part

        part(code)


if __name__ == "__main__":
    sys.exit(main())

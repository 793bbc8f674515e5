"""From what a command raises to one line for a person, and the exit status of the process."""

import errno
import sys
import traceback
from collections.abc import Callable

from osed_jax import cluster
from osed_jax.errors import UserError

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name another place or allow it"),
}


def exit_status_of(command: Callable[[], None]) -> int:
    """Calls a command: 0 where it ends well, 2 with one line where a person can mend it, else 1."""
    try:
        command()
        return cluster.leave(0)
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error}; {_ADVICE.get(error.errno or 0, 'mend that')}, then start again"
    except KeyboardInterrupt:
        message = "interrupted; the same command goes on from what is saved"
    except Exception as error:
        lost = cluster.lost(error)
        if lost is None:
            traceback.print_exc()
            return cluster.leave(1)
        message = lost
    print(f"error: {message}", file=sys.stderr)
    return cluster.leave(2)

"""Several processes, on one machine or many, that do one job, with JAX's distributed runtime.

Every process runs the same program on its part of every batch. Only the first process prints and
writes summaries; all of them write checkpoints. A process that did not join a job counts as the
first of one.

If one process ends, the others wait in a collective operation, which never returns on some
platforms, or JAX's heartbeat aborts them after 100 s with a stack trace. So a thread in each
process listens on the connection that `meeting` opened. If another process is gone, the thread
ends its own process with one line.
"""

import contextlib
import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from osed_jax import __version__
from osed_jax.errors import UserError
from osed_jax.runtime import joining
from osed_jax.runtime.signals import end

JOIN_TIMEOUT = 45  # seconds; the default of --join_timeout
# Seconds between two heartbeats, and until a silent process counts as gone.
_BEAT, _SILENCE = 2.0, 30.0
_LEFT = "left"

_share = (0, 1)
_others: dict[
    int, joining.Connection
] = {}  # in process 0: all others; in any other process: process 0
_listening: list[threading.Thread] = []
_ending = threading.Lock()  # held by the thread that reports how this process ends


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    about: Mapping[str, Any],
    timeout: float,
) -> None:
    """Joins the job. Call it before anything that uses a device.

    Args:
      coordinator_address: HOST:PORT of the first process. Give all three, or None for all three:
        then JAX takes them from the environment (SLURM, Open MPI, a TPU pod, an indexed job of
        Kubernetes; see jax.distributed.initialize).
      num_processes: number of processes of the job.
      process_id: number of this process, counted from 0.
      about: what must be the same in all processes, besides their versions: name -> plain value.
      timeout: seconds within which all processes must join.

    Raises:
      UserError: if the three are incomplete or out of range, the environment does not name them,
        the others do not join in time, or `about` differs in one of them.
    """
    given = (coordinator_address, num_processes, process_id)
    if given == (None, None, None):
        given = _from_environment(timeout)
    versions = {"osed_jax": __version__, **{name: version(name) for name in ("jax", "jaxlib")}}
    me = joining.Member(*_checked(*given), {**versions, **about})
    global _share
    _share = (me.process_id, me.num_processes)
    if me.process_id == 0:
        _others.update(joining.receive(me, timeout))
        address = me.address
    else:
        _others[0] = joining.visit(me, timeout)
        address = joining.relay(me.address)
    _watch()
    import jax

    try:
        jax.distributed.initialize(address, me.num_processes, me.process_id)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"JAX cannot join the processes: {_line(error)}") from error


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return _share[0] == 0


def wait_for_all(moment: str) -> None:
    """Returns when every process has called this with the same name of the moment."""
    if _share[1] > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(moment)


@contextlib.contextmanager
def first_goes_first(moment: str) -> Iterator[None]:
    """The first process runs the block, then the others, which find what it has written."""
    if not is_first():
        wait_for_all(moment)
    yield
    if is_first():
        wait_for_all(moment)


def check_same(what: str, identity: str) -> None:
    """Raises UserError in all processes if `identity` is not the same in all of them."""
    if _share[1] == 1:
        return
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    digest = np.frombuffer(hashlib.sha256(identity.encode()).digest(), np.uint8)
    digests = process_allgather(digest)
    differing = [str(i) for i in range(_share[1]) if (digests[i] != digests[0]).any()]
    if differing:
        raise UserError(
            f"process {', '.join(differing)} of {_share[1]} has other {what} than process 0; "
            "all processes must read the same files"
        )


def take_over(patience: float = 0.0) -> None:
    """From here on this process reports its own end, and no longer the end of another one.

    Args:
      patience: seconds to wait first, since an error here may be the result of another process's
        end. If another one has ended, this does not return.
    """
    if _others:
        time.sleep(patience)
        _ending.acquire()


def leave(status: int) -> int:
    """Tells the others that this process ends with `status`, and returns `status`.

    Without an error it waits until the others end, too; with an error it returns at once.
    """
    if not _others:
        return status
    if status:
        how = "was stopped by a signal" if status > 128 else "ended with an error"
        _tell(f"process {_share[0]} {how}")
        end(status)
    if not is_first():
        _tell(_LEFT)
    for thread in _listening:
        thread.join()  # returns when the other process has left
    if is_first():
        _tell(_LEFT)
    import jax

    with contextlib.suppress(Exception):  # its work is done
        jax.distributed.shutdown()
    return status


def _from_environment(timeout: float) -> tuple[Any, Any, Any]:
    """Address, number of processes and own number as JAX finds them; None for what it misses."""
    from jax._src.clusters import ClusterEnv  # JAX has no public function for it before joining

    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, None, None, int(timeout)
        )
    except Exception as error:
        raise UserError(
            f"--distributed: the environment does not say how to join ({_line(error)}); give "
            "--coordinator_address, --num_processes and --process_id"
        ) from error
    return found[:3]


def _checked(address: Any, count: Any, index: Any) -> tuple[str, int, int]:
    """The three values; raises UserError if they are incomplete or out of range."""
    if (address, count, index) == (None,) * 3:
        raise UserError(
            "--distributed: the environment names no other process (SLURM, Open MPI, a TPU "
            "pod or Kubernetes would); give --coordinator_address, --num_processes and "
            "--process_id"
        )
    if None in (address, count, index):
        raise UserError(
            "--coordinator_address, --num_processes and --process_id must be given together; "
            "give all three, or only --distributed to take them from the environment"
        )
    if not 0 <= index < count:
        raise UserError(
            f"--process_id={index} of --num_processes={count}; it must be from 0 to "
            f"{count - 1}, and different in every process"
        )
    joining.split(address)
    return address, count, index


def _watch() -> None:
    """Starts this process's heartbeat, and listens to those of the others."""
    for other, connection in _others.items():
        _listening.append(threading.Thread(target=_listen, args=(other, connection), daemon=True))
    for thread in [*_listening, threading.Thread(target=_beat, name="pulse", daemon=True)]:
        thread.start()


def _beat() -> None:
    while True:
        _tell("")
        time.sleep(_BEAT)


def _listen(other: int, connection: joining.Connection) -> None:
    """Returns when the other process has left; ends this process if the other one is gone."""
    try:
        while (said := connection.hear(_SILENCE)) != _LEFT:
            if said:
                _give_up(said)
    except TimeoutError:
        _give_up(f"process {other} is silent for {_SILENCE:.0f} s")
    except OSError:
        _give_up(f"process {other} is gone")


def _give_up(why: str) -> None:
    _ending.acquire()  # for ever, if this process ends by itself
    _tell(why)
    index, count = _share
    print(
        f"error: process {index} of {count} lost the others ({why}); the reason is in the output "
        f"of the process that ended first; start all of them again, also with another number of "
        f"processes: the job continues from its last checkpoint",
        file=sys.stderr,
    )
    end(2)


def _tell(line: str) -> None:
    for connection in _others.values():
        with contextlib.suppress(OSError):  # the listening thread notices that the other is gone
            connection.say(line)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""Several processes, on one machine or many, that do one job, with JAX's distributed runtime.

Every process runs the same program on its part of every batch. Only the first process prints and
writes summaries; all of them write checkpoints. A process that did not join a job counts as the
first of one.

If a process is gone, collective operations fail in the others with an exception (Gloo), or wait
(NCCL) until JAX notices it and aborts them with a C++ stack. Both end here, in `end`.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from osed_jax import __version__
from osed_jax.errors import UserError

JOIN_TIMEOUT = 45  # seconds; the default of --join_timeout
_HEARTBEAT = 30  # seconds without a sign of a process until it counts as gone
_SHUTDOWN = 3600  # seconds that a process waits for the others at its end; the first writes reports

_process_id, _num_processes = 0, 1
_why_aborted = ""


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float,
    settings: Mapping[str, Any],
) -> None:
    """Joins the job. Call it before anything that uses a device.

    If the others do not join in time, JAX aborts the process: the last line then says what to do.

    Args:
      coordinator_address: HOST:PORT of the first process. Give all three, or None for all three:
        then JAX takes them from the environment (SLURM, Open MPI, a TPU pod, an indexed job of
        Kubernetes; see jax.distributed.initialize).
      num_processes: number of processes of the job.
      process_id: number of this process, counted from 0.
      timeout: seconds within which all processes must join.
      settings: what must be the same in all of them, besides their versions: name -> plain value.

    Raises:
      UserError: if the three are incomplete or out of range, the environment does not name them,
        the port is in use, or one has other settings.
    """
    global _process_id, _num_processes, _why_aborted
    _check(coordinator_address, num_processes, process_id)
    import jax

    _why_aborted = (
        f"could not join the other processes within {timeout:.0f} s; start all --num_processes "
        f"within that time, each with another --process_id and all with the same "
        f"--coordinator_address, HOST:PORT of process 0, reachable from all (--join_timeout sets "
        f"the seconds)"
    )
    _end_when_aborted()
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            initialization_timeout=int(timeout),
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
    except Exception as error:  # of sockets, of JAX, or of what reads the environment
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"JAX cannot join the processes ({reason}); give --coordinator_address=HOST:PORT of "
            f"process 0 with a free port, --num_processes and --process_id"
        ) from error
    _process_id, _num_processes = jax.process_index(), jax.process_count()
    _why_aborted = _lost()
    versions = {"osed_jax": __version__, **{name: version(name) for name in ("jax", "jaxlib")}}
    check_same("settings", {**versions, "num_processes": num_processes, **settings})


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return _process_id == 0


def wait_for_all(moment: str) -> None:
    """Returns when every process has called this with the same name of the moment."""
    if _num_processes > 1:
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


def check_same(what: str, facts: Mapping[str, Any]) -> None:
    """Raises UserError in all processes if one has other facts than the first.

    Args:
      what: what the facts are about, in the plural.
      facts: of this process: name -> plain value.
    """
    if _num_processes == 1:
        return
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    longest = int(process_allgather(np.int32(text.size)).max())
    texts = process_allgather(np.pad(text, (0, longest - text.size), constant_values=ord(" ")))
    first, *others = (json.loads(row.tobytes()) for row in texts)
    for process_id, other in enumerate(others, 1):
        names = [n for n in sorted({*first, *other}) if first.get(n) != other.get(n)]
        if names:
            pairs = [f"{n}: {other.get(n)!r} instead of {first.get(n)!r}" for n in names[:3]]
            more = [f"and {len(names) - 3} more"] * (len(names) > 3)
            raise UserError(
                f"process {process_id} of {_num_processes} has other {what} than process 0 "
                f"({'; '.join(pairs + more)}); give all processes the same"
            )


def leave() -> None:
    """Waits until all processes have done their work."""
    if _num_processes > 1:
        import jax

        jax.distributed.shutdown()


def end_if_joined(error: BaseException, message: str, status: int) -> None:
    """Ends a process of a job after an error; returns if the process is alone.

    Args:
      error: the error. If a collective operation has failed, another process has ended.
      message: what to say; "" if the reason stands above.
      status: the exit status.
    """
    if _num_processes > 1:
        sys.stdout.flush()
        if any(library in str(error) for library in ("Gloo", "NCCL")):
            message, status = "", 1
        _end(message or _lost(), status)


def _check(address: str | None, count: int | None, index: int | None) -> None:
    """Raises UserError if the three values are incomplete or out of range."""
    if address is count is index is None:
        return
    if address is None or count is None or index is None:
        raise UserError(
            "--coordinator_address, --num_processes and --process_id must be given together; "
            "give all three, or only --distributed to take them from the environment"
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UserError(
            f"--coordinator_address={address} is not an address; give HOST:PORT of process 0, "
            "with a port from 1 to 65535"
        )
    if not 0 <= index < count:
        raise UserError(
            f"--process_id={index} of --num_processes={count}; it must be from 0 to "
            f"{count - 1}, and different in every process"
        )


def _lost() -> str:
    return (
        f"process {_process_id} of {_num_processes} failed or lost the others; if the reason does "
        f"not stand above, it is in the output of the process that ended first; start all of them "
        f"again, also with another number of processes: the job continues from its last checkpoint"
    )


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _handle_abort(number: int) -> None:
    _end(_why_aborted, 1)


def _end_when_aborted() -> None:
    """Handles SIGABRT in C, since a handler of the module `signal` comes too late."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_handle_abort, ctypes.c_void_p))


def _end(message: str, status: int) -> None:
    """Ends the process; `message` is its last line, whatever threads of JAX would say after it."""
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.write(stderr, f"error: {message}\n".encode())
    if is_first() and _num_processes > 1:
        time.sleep(2)  # JAX aborts the others as soon as this one ends: they say their own first
    os._exit(status)

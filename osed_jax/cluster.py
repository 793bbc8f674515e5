"""Several processes, on one machine or many, that do one job: JAX's own distributed runtime.

Every process runs the same program on its part of every batch. The first one alone speaks and
writes summaries; checkpoints are written by all. A process that never joined a job is the first
of one.

A process that ends leaves the others in a collective, which on some platforms never returns, or to
JAX's heartbeat, which aborts them after 100 s with a stack trace. So each process keeps a pulse in
the runtime's key-value store, and one that misses another's says so and ends.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from osed_jax.errors import UserError

_BEAT, _SILENCE = 2.0, 30.0  # seconds between two beats, and until a silent process counts as gone
_LEFT, _FAILED = "left", "failed"

_share = (0, 1)
_leaving = threading.Event()
# What the runtime's errors say where another process is gone; their types are many.
_OF_LOSS = re.compile("gloo|nccl|unavailable|deadline|coordinat|heartbeat|barrier|peer", re.I)


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the job; comes before anything that touches a device.

    Args:
      coordinator_address: HOST:PORT of the first process; with the other two, or all three None:
        then JAX takes them from the environment (SLURM, Open MPI, a TPU pod, an indexed job of
        Kubernetes; see jax.distributed.initialize).
      num_processes: in the whole job.
      process_id: of this process, counted from 0.

    Raises:
      UserError: where they are incomplete or out of range, the environment says nothing, or the
        others do not come within five minutes.
    """
    given = (coordinator_address, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise UserError(
            "--coordinator_address, --num_processes and --process_id belong together; give all "
            "three, or --distributed alone to take them from the environment"
        )
    import jax

    global _share
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"this process could not join the others ({_line(error)}); check that "
            f"--coordinator_address=HOST:PORT is that of process 0, free there and reachable from "
            f"here, and that --process_id is less than --num_processes and differs everywhere"
        ) from error
    _share = (jax.process_index(), jax.process_count())
    _beat("0")
    threading.Thread(target=_watch, name="pulse", daemon=True).start()


def is_first() -> bool:
    """Whether this is the process that speaks and writes."""
    return _share[0] == 0


def wait_for_all(moment: str) -> None:
    """Returns when every process has come to this moment, named alike in all of them."""
    if _share[1] > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(moment)


@contextlib.contextmanager
def first_goes_first(moment: str) -> Iterator[None]:
    """The first process alone runs the block, then the others: they find what it has written."""
    if not is_first():
        wait_for_all(moment)
    yield
    if is_first():
        wait_for_all(moment)


def lost(error: Exception) -> str | None:
    """What to tell where `error` means that another process is gone; None where it does not."""
    if _share[1] == 1 or not _OF_LOSS.search(str(error)):
        return None
    return _loss(_line(error))


def leave(status: int) -> int:
    """Tells the others how this process ends, with `status`, which it returns.

    Without an error it waits for the others to come to their ends, too; else it ends at once.
    """
    if _share[1] > 1:
        _leaving.set()
        with contextlib.suppress(Exception):  # nobody may be there any more
            _beat(_FAILED if status else _LEFT)
        if status:
            if is_first():
                time.sleep(2 * _BEAT)  # it keeps the store in which the others read this
            _exit(status)
        import jax

        with contextlib.suppress(Exception):  # what it had to do is done
            jax.distributed.shutdown()
    return status


def _watch() -> None:
    """Keeps this process's pulse and watches the others'; ends the process where one is missed."""
    heard: dict[str, tuple[str, float]] = {}
    count = 0
    while not _leaving.wait(_BEAT):
        count += 1
        try:
            _beat(str(count))
            pulses = _store().key_value_dir_get("pulse/")
        except Exception as error:  # process 0, which keeps the store, is gone
            _give_up(_line(error))
            return
        for name, pulse in pulses:
            if pulse != heard.get(name, ("", 0.0))[0]:
                heard[name] = (pulse, time.monotonic())
        for name, (pulse, moment) in heard.items():
            silent = pulse != _LEFT and time.monotonic() - moment > _SILENCE
            if pulse == _FAILED or silent:
                why = (
                    "ended with an error" if pulse == _FAILED else f"is silent for {_SILENCE:.0f} s"
                )
                _give_up(f"process {name.rpartition('/')[2]} {why}")
                return


def _give_up(why: str) -> None:
    if not _leaving.is_set():
        print(f"error: {_loss(why)}", file=sys.stderr)
        _exit(2)


def _loss(why: str) -> str:
    index, count = _share
    return (
        f"process {index} of {count} lost the others ({why}); what ended the first of them is in "
        f"its own output; start all of them again, also another number of them: the job goes on "
        f"from its last checkpoint"
    )


def _exit(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _beat(pulse: str) -> None:
    _store().key_value_set(f"pulse/{_share[0]}", pulse, allow_overwrite=True)


def _store() -> Any:
    from jax._src import distributed  # there is no public way to the runtime's store

    return distributed.global_state.client


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

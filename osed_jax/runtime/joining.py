"""Connects the processes of a job before JAX starts, over TCP with lines of text.

If a process cannot join, or its process 0 is gone, JAX aborts it with SIGABRT and a C++ stack that
Python cannot catch. So the processes meet here first, where every problem is an exception. The
connections stay open: if one closes, the process at its other end has ended. JAX itself is reached
over `relay`.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from osed_jax.errors import UserError

_WAIT, _WELCOME, _REFUSED = "wait", "welcome", "refused: "
_PAUSE = 0.2  # seconds between two attempts to reach process 0
_HELLO_WITHIN = 5.0  # seconds; one that connects and sends nothing is not a process of the job
_LONGEST_LINE = 1 << 16


class Member(NamedTuple):
    """One process of a job.

    Attributes:
      address: HOST:PORT of process 0.
      num_processes: number of processes of the job.
      process_id: number of this process, counted from 0.
      about: what must be the same in all of them: name -> plain value.
    """

    address: str
    num_processes: int
    process_id: int
    about: Mapping[str, Any]


class Connection:
    """Lines of text to and from another process."""

    def __init__(self, connected: socket.socket):
        self._socket = connected
        self._lines = connected.makefile("r", encoding="utf-8", errors="replace")

    def say(self, line: str) -> None:
        """Sends one line; raises OSError if the other process is gone."""
        self._socket.sendall(f"{' '.join(line.split())}\n".encode())

    def hear(self, timeout: float) -> str:
        """The next line; raises TimeoutError after `timeout` s, OSError if the other is gone."""
        self._socket.settimeout(max(timeout, 0.01))
        line = self._lines.readline(_LONGEST_LINE)
        if not line.endswith("\n"):
            raise ConnectionError("the other process hung up")
        return line[:-1]

    def hang_up(self, line: str = "") -> None:
        """Sends a last line and closes the connection."""
        with contextlib.suppress(OSError):
            self.say(line)
        self._lines.close()
        self._socket.close()


def receive(me: Member, timeout: float) -> dict[int, Connection]:
    """Waits in process 0 until all others have joined; returns their connections by process_id.

    Raises:
      UserError: if the port is in use, some do not join within `timeout` seconds, or one of them
        does not belong to this job. Those that have joined get the same message.
    """
    others: dict[int, Connection] = {}
    deadline = time.monotonic() + timeout
    with _listener(me.address) as listener:
        try:
            while len(others) < me.num_processes - 1:
                if time.monotonic() > deadline:
                    raise UserError(_missing(me, others, timeout))
                listener.settimeout(max(deadline - time.monotonic(), 0.01))
                with contextlib.suppress(TimeoutError):
                    _receive_one(me, Connection(listener.accept()[0]), others)
        except UserError as problem:
            for other in others.values():
                other.hang_up(f"{_REFUSED}{problem}")
            raise
    for other in others.values():
        with contextlib.suppress(OSError):  # if it is gone again, reading from it will show that
            other.say(_WELCOME)
    return others


def visit(me: Member, timeout: float) -> Connection:
    """Connects another process with process 0 and waits until all have joined.

    Raises:
      UserError: if process 0 is not reached within `timeout` seconds, or refuses.
    """
    deadline, problem = time.monotonic() + timeout, "no answer"
    while time.monotonic() < deadline:
        try:
            left = deadline - time.monotonic()
            connection = Connection(socket.create_connection(split(me.address), timeout=left))
        except OSError as error:
            problem = error.strerror or str(error)
        else:
            answer = _answer(connection, me, deadline, timeout)
            if answer == _WELCOME:
                return connection
            connection.hang_up()
            if answer.startswith(_REFUSED):
                raise UserError(answer.removeprefix(_REFUSED))
            problem = "something else answers there, or it ended"
        time.sleep(_PAUSE)
    raise UserError(
        f"process {me.process_id} of {me.num_processes} could not join: no process 0 at "
        f"{me.address} within {timeout:.0f} s ({problem}); check that it runs, and that "
        f"--coordinator_address is its HOST:PORT, reachable from this machine (--join_timeout sets "
        f"the seconds)"
    )


def _answer(to: Connection, me: Member, deadline: float, timeout: float) -> str:
    """The last answer of process 0 to this process; "" if there is none.

    After its first answer, process 0 may wait for the other processes up to its own timeout.
    """
    try:
        to.say(json.dumps([me.process_id, me.num_processes, me.about]))
        answer = to.hear(deadline - time.monotonic())
        return to.hear(timeout + _HELLO_WITHIN) if answer == _WAIT else answer
    except OSError:
        return ""


def relay(address: str) -> str:
    """Opens a port of this machine that leads to `address`; returns its HOST:PORT.

    It stays open if `address` closes, so that JAX does not notice that and abort this process.
    """
    near = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(near, address), name="relay", daemon=True).start()
    return f"127.0.0.1:{near.getsockname()[1]}"


def split(address: str) -> tuple[str, int]:
    """HOST and PORT of an address; raises UserError if it is not one."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UserError(
            f"--coordinator_address={address} is not an address; give HOST:PORT of process 0, "
            "with a port from 1 to 65535"
        )
    return host.strip("[]"), int(port)


def _listener(address: str) -> socket.socket:
    """Listens where JAX's coordinator will listen later: by default on all interfaces."""
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    host, port = split(bind) if bind else ("", split(address)[1])
    both = not bind and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise UserError(
            f"process 0 cannot listen at port {port} ({why}); give another port in "
            f"--coordinator_address, the same in all processes"
        ) from error


def _receive_one(me: Member, came: Connection, others: dict[int, Connection]) -> None:
    """Adds a process that connected; raises UserError if it does not belong to this job."""
    try:
        process_id, num_processes, about = json.loads(came.hear(_HELLO_WITHIN))
        process_id, num_processes, about = int(process_id), int(num_processes), dict(about)
    except (OSError, ValueError, TypeError):
        came.hang_up()  # not a process of this program
        return
    if process_id in others or process_id == me.process_id:
        problem = (
            f"two processes have --process_id={process_id}; give each process another one, from 0"
        )
    elif num_processes != me.num_processes:
        problem = (
            f"process {process_id} has --num_processes={num_processes}, process 0 has "
            f"{me.num_processes}; give all processes the same"
        )
    elif differing := _differences(me.about, about):
        problem = (
            f"process {process_id} has other settings than process 0 ({differing}); give all "
            f"processes the same"
        )
    else:
        with contextlib.suppress(OSError):
            came.say(_WAIT)
        others[process_id] = came
        return
    came.hang_up(f"{_REFUSED}{problem}")
    raise UserError(problem)


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    ours = json.loads(json.dumps(ours))  # tuples become lists, as in what the other process sent
    names = [n for n in sorted({*ours, *theirs}) if ours.get(n) != theirs.get(n)]
    told = [f"{n}: {theirs.get(n)!r} instead of {ours.get(n)!r}" for n in names[:3]]
    return "; ".join(told + [f"and {len(names) - 3} more"] * (len(names) > 3))


def _missing(me: Member, others: Mapping[int, Connection], timeout: float) -> str:
    absent = [i for i in range(1, me.num_processes) if i not in others]
    some = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
    return (
        f"{len(absent)} of {me.num_processes} processes did not join process 0 at {me.address} "
        f"within {timeout:.0f} s (--process_id {some}); start them within that time with the same "
        f"--coordinator_address, or give --join_timeout more seconds"
    )


def _serve(near: socket.socket, address: str) -> None:
    while True:
        one, _ = near.accept()
        threading.Thread(target=_connect, args=(one, address), daemon=True).start()


def _connect(near: socket.socket, address: str) -> None:
    """Joins a connection of this machine with a new one to `address`, as soon as it answers."""
    far = None
    while far is None:
        try:
            far = socket.create_connection(split(address))
        except OSError:
            time.sleep(_PAUSE)
    threading.Thread(target=_copy, args=(far, near), daemon=True).start()
    _copy(near, far)
    far.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)

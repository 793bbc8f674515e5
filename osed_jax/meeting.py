"""How the processes of a job find each other before JAX starts: TCP and lines of text.

JAX ends a process that cannot join, or whose process 0 is gone, with SIGABRT and a C++ stack that
Python cannot catch. So the processes meet here first, where every problem is an exception, and the
connections stay: one that ends tells of an end at once. JAX itself is reached over `relay`.
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
_HELLO_WITHIN = 5.0  # seconds; who connects and says nothing is no process of the job
_LONGEST_LINE = 1 << 16


class Member(NamedTuple):
    """One process of a job.

    Attributes:
      address: HOST:PORT of process 0.
      num_processes: in the whole job.
      process_id: of this process, counted from 0.
      about: what must be the same in all of them, name -> value, plain.
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
        """Sends one line; raises OSError where the other is gone."""
        self._socket.sendall(f"{' '.join(line.split())}\n".encode())

    def hear(self, timeout: float) -> str:
        """The next line; raises TimeoutError after so many seconds, OSError where none comes."""
        self._socket.settimeout(max(timeout, 0.01))
        line = self._lines.readline(_LONGEST_LINE)
        if not line.endswith("\n"):
            raise ConnectionError("the other process hung up")
        return line[:-1]

    def hang_up(self, line: str = "") -> None:
        """Ends the connection, with a last line."""
        with contextlib.suppress(OSError):
            self.say(line)
        self._lines.close()
        self._socket.close()


def receive(me: Member, timeout: float) -> dict[int, Connection]:
    """Waits in process 0 until all others have come; returns their connections by process_id.

    Raises:
      UserError: where the port is in use, some do not come within `timeout` seconds, or one of
        them is not of the same job; those that have come are told the same.
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
        with contextlib.suppress(OSError):  # who is gone again is missed when its line is read
            other.say(_WELCOME)
    return others


def visit(me: Member, timeout: float) -> Connection:
    """Reaches process 0 from another one and waits until it has received all.

    Raises:
      UserError: where it is not reached within `timeout` seconds, or refuses.
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
    """What process 0 says to this one in the end; "" where it says nothing.

    Once it has answered at all it may wait for the others as long as it waits for any.
    """
    try:
        to.say(json.dumps([me.process_id, me.num_processes, me.about]))
        answer = to.hear(deadline - time.monotonic())
        return to.hear(timeout + _HELLO_WITHIN) if answer == _WAIT else answer
    except OSError:
        return ""


def relay(address: str) -> str:
    """Opens a port of this machine that leads to `address`; returns its HOST:PORT.

    It stays open where `address` closes: JAX, which would abort this process, notices nothing.
    """
    near = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(near, address), name="relay", daemon=True).start()
    return f"127.0.0.1:{near.getsockname()[1]}"


def split(address: str) -> tuple[str, int]:
    """HOST and PORT; raises UserError where the address is none."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UserError(
            f"--coordinator_address={address} is not an address; give HOST:PORT of process 0, "
            "with a port from 1 to 65535"
        )
    return host.strip("[]"), int(port)


def _listener(address: str) -> socket.socket:
    """Where JAX's coordinator will listen afterwards: on all interfaces unless told otherwise."""
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
    """Adds one that came; raises UserError where it belongs to no job like this."""
    try:
        process_id, num_processes, about = json.loads(came.hear(_HELLO_WITHIN))
        process_id, num_processes, about = int(process_id), int(num_processes), dict(about)
    except (OSError, ValueError, TypeError):
        came.hang_up()  # a stranger
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
    ours = json.loads(json.dumps(ours))  # tuples become lists, as they did on their way here
    names = [n for n in sorted({*ours, *theirs}) if ours.get(n) != theirs.get(n)]
    told = [f"{n}: {theirs.get(n)!r} instead of {ours.get(n)!r}" for n in names[:3]]
    return "; ".join(told + [f"and {len(names) - 3} more"] * (len(names) > 3))


def _missing(me: Member, others: Mapping[int, Connection], timeout: float) -> str:
    absent = [i for i in range(1, me.num_processes) if i not in others]
    some = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
    return (
        f"{len(absent)} of {me.num_processes} processes did not come to process 0 at {me.address} "
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

"""How processes meet before JAX starts: here threads of one process, over real connections."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from osed_jax.errors import UserError
from osed_jax.runtime.joining import Member, receive, relay, visit

ABOUT = {"version": "1", "seed": 3, "rates": (0.1, 0.2)}


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def meet(*members, timeout=60.0):
    """What each of the members gets, or the message of its error."""

    def come(member):
        try:
            return (receive if member.process_id == 0 else visit)(member, timeout)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(come, members))


def test_all_get_a_line_to_the_first_and_strangers_are_passed_over():
    address = free_address()
    members = [Member(address, 3, i, ABOUT) for i in range(3)]

    def disturb():
        for sent in (b"GET / HTTP/1.1\r\n", b'["x", null, []]\n', b"[1]\n", b""):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    with socket.create_connection(("127.0.0.1", int(address.split(":")[1]))) as it:
                        it.sendall(sent)
                    break

    stranger = threading.Thread(target=disturb)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(receive, members[0], 60.0)
        stranger.start(), stranger.join()
        others = [pool.submit(visit, member, 60.0) for member in members[:0:-1]]
        lines, (second, third) = first.result(), [o.result() for o in others]
    assert sorted(lines) == [1, 2]
    third.say("from 1")
    second.say("from 2")
    assert [lines[i].hear(60.0) for i in (1, 2)] == ["from 1", "from 2"]
    lines[1].say("two\nlines")
    assert third.hear(60.0) == "two lines"
    with pytest.raises(TimeoutError):
        second.hear(0.01)
    lines[2].hang_up("last")
    for connection in (second, third, lines[1]):
        connection.hang_up()


def test_a_partner_that_is_missing_and_who_came_say_the_same():
    address = free_address()
    found = meet(*(Member(address, 4, i, ABOUT) for i in (0, 2)), timeout=2.0)
    assert found[0] == found[1]
    assert "2 of 4 processes did not join" in found[0] and "(--process_id 1, 3)" in found[0]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ((2, 1, {**ABOUT, "seed": 4}), "(seed: 4 instead of 3)"),
        ((2, 1, {"seed": 3}), "(rates: None instead of [0.1, 0.2]; version: None instead of '1')"),
        ((3, 1, ABOUT), "process 1 has --num_processes=3, process 0 has 2"),
    ],
)
def test_one_of_another_job_is_refused_with_what_differs(other, said):
    address = free_address()
    found = meet(Member(address, 2, 0, ABOUT), Member(address, *other))
    assert found[0] == found[1] and said in found[0]


def test_two_with_one_number_are_refused():
    address = free_address()
    found = meet(*(Member(address, 3, i, ABOUT) for i in (0, 1, 1)))
    assert len(set(found)) == 1 and "two processes have --process_id=1" in found[0]


def test_a_port_in_use_and_a_coordinator_that_is_none():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = meet(Member(address, 2, 0, ABOUT), Member(address, 2, 1, ABOUT), timeout=0.5)
    assert (
        found[0].endswith(
            "(Address already in use); give another port in --coordinator_address"
            ", the same in all processes"
        )
        and "cannot listen" in found[0]
    )
    assert "something else answers there" in found[1]
    (found,) = meet(Member(address, 2, 1, ABOUT), timeout=0.5)
    assert f"no process 0 at {address} within 0 s (Connection refused)" in found
    (found,) = meet(Member("no.such.host.invalid:9", 2, 1, ABOUT), timeout=0.5)
    assert "could not join: no process 0 at no.such.host.invalid:9" in found


@pytest.mark.parametrize("address", ["here", "here:", ":80", "here:0", "here:65536", "here:x"])
def test_addresses_that_are_none(address):
    with pytest.raises(UserError, match="give HOST:PORT of process 0"):
        visit(Member(address, 2, 1, ABOUT), 1.0)


def test_a_relay_passes_bytes_on_and_stays_open_when_the_far_end_closes():
    far = socket.socket()
    far.bind(("127.0.0.1", 0))  # not listening yet: the relay waits for it
    near = socket.create_connection(
        ("127.0.0.1", int(relay(f"127.0.0.1:{far.getsockname()[1]}").split(":")[1]))
    )
    near.sendall(b"question")
    far.listen()
    end, _ = far.accept()
    assert end.recv(100) == b"question"
    end.sendall(b"answer")
    assert near.recv(100) == b"answer"
    end.close()
    far.close()
    near.settimeout(0.2)
    with pytest.raises(TimeoutError):
        near.recv(1)
    near.close()

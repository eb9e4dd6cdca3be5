"""Processes meet, whatever else speaks at the port."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cubic_cli.cli import terminal
from cubic_cli.cluster.rendezvous import meet
from cubic_cli.errors import PeerError

WITHIN = 20  # seconds for what takes milliseconds: a hang, and no slow machine, is longer


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Meeting:
    """Processes that meet, each in a thread of its own; `ended` has what each raised, or None."""

    def __init__(self, processes, seconds):
        self.port, self.processes, self.seconds = free_port(), processes, seconds
        self.ended, self._threads = {}, []

    def start(self, process):
        def come():
            try:
                meet(f"127.0.0.1:{self.port}", self.processes, process, self.seconds)
                self.ended[process] = None
            except BaseException as error:
                self.ended[process] = error

        self._threads.append(threading.Thread(target=come, daemon=True))
        self._threads[-1].start()
        return self

    def wait(self):
        for thread in self._threads:
            thread.join(WITHIN)
            assert not thread.is_alive()
        return self.ended

    def stranger(self):
        """Connect as soon as process 0 listens."""
        deadline = time.monotonic() + WITHIN
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.01)


@contextlib.contextmanager
def answering(answer):
    """A program that is no `cubic` at a port; calls `answer(peer)` for each that comes, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    threading.Thread(target=speak, args=(peer,), daemon=True).start()

        def speak(peer):
            with contextlib.suppress(OSError), peer:
                answer(peer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


GREETINGS = {
    "nested": b"[" * 4096 + b"\n",
    "nested objects": b'{"process":' * 5000 + b"\n",
    "infinite": b'{"process": Infinity, "processes": 3}\n',
    "huge": b'{"process": 1e999, "processes": 3}\n',
    "a boolean": b'{"process": true, "processes": 3}\n',
    "a text": b'{"process": "1", "processes": 3}\n',
    "a fraction": b'{"process": 1.0, "processes": 3}\n',
    "no number": b'{"process": null, "processes": 3}\n',
    "no such process": b'{"process": -1, "processes": 3}\n',
    "a list": b'["a"]\n',
    "a word": b"GET / HTTP/1.1\r\n\r\n",
    "not UTF-8": b"\xff\xfe\x00\n",
    "many digits": b'{"process": ' + b"9" * 5000 + b', "processes": 3}\n',
    "endless": b"A" * 200_000,
    "nothing": b"",
}


def test_nobody_listens_any_more_when_all_have_been_told():
    """JAX comes to the same port then: what connected to the meeting instead would wait for an answer in vain."""
    for _ in range(30):
        meeting = Meeting(2, WITHIN).start(0)
        with meeting.stranger() as process, process.makefile() as lines:
            process.sendall(b'{"process": 1, "processes": 2}\n')
            assert json.loads(lines.readline()) == {"missing": []}
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", meeting.port), timeout=WITHIN).close()
        assert meeting.wait() == {0: None}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_a_stranger_does_not_end_a_meeting(greeting):
    meeting = Meeting(3, WITHIN).start(0)
    with meeting.stranger() as silent, meeting.stranger() as stranger:
        with contextlib.suppress(OSError):
            stranger.sendall(greeting)
        assert meeting.start(1).start(2).wait() == {0: None, 1: None, 2: None}
        assert silent.fileno() > 0


def test_one_process_waits_for_none():
    assert Meeting(1, 3600).start(0).wait() == {0: None}


def test_hundreds_who_say_nothing_do_not_end_a_meeting():
    meeting = Meeting(2, WITHIN).start(0)
    with contextlib.ExitStack() as crowd:
        for _ in range(300):
            with contextlib.suppress(OSError):  # as many as this process may have open
                crowd.enter_context(meeting.stranger())
            if meeting.ended:
                break
        # Only what process 0 keeps open counts: the crowd goes away as it is pushed out, and the process comes.
        assert meeting.start(1).wait() == {0: None, 1: None}


def test_strangers_do_not_hold_a_process_past_its_deadline():
    meeting = Meeting(2, 1).start(0)
    ended = threading.Event()

    def chatter():
        while not ended.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", meeting.port), 1) as peer:
                peer.sendall(b"A" * 2000)

    crowd = [threading.Thread(target=chatter, daemon=True) for _ in range(4)]
    for thread in crowd:
        thread.start()
    error = meeting.wait()[0]
    ended.set()
    assert "process 1 did not come within 1 s" in str(error)


def again_and_again(words):
    def answer(peer):
        while True:
            peer.sendall(words)
            time.sleep(0.0004)

    return answer


ANSWERS = {
    "endless line": again_and_again(b"A" * 2000),
    "endless lines": again_and_again(b"A\n" * 1000),
    "closes": lambda peer: peer.recv(100),
    "silent": lambda peer: time.sleep(WITHIN),
    "nested": lambda peer: peer.sendall(b"[" * 5000 + b"\n"),
    "null": lambda peer: peer.sendall(b'{"missing": null}\n'),
    "zero": lambda peer: peer.sendall(b'{"missing": 0}\n'),
    "false": lambda peer: peer.sendall(b'{"missing": false}\n'),
    "texts": lambda peer: peer.sendall(b'{"missing": ["a"]}\n'),
    "a text": lambda peer: peer.sendall(b'{"missing": "x"}\n'),
    "booleans": lambda peer: peer.sendall(b'{"missing": [true]}\n'),
    "process 0": lambda peer: peer.sendall(b'{"missing": [0]}\n'),
    "an error of numbers": lambda peer: peer.sendall(b'{"error": 5}\n'),
}


@pytest.fixture(scope="module")
def errors():
    """What comes of each answer: tried side by side, for each takes its time."""

    def error(answer):
        with answering(answer) as address, pytest.raises(PeerError) as caught:
            meet(address, 2, 1, 1, patience=0.3)
        return str(caught.value)

    with ThreadPoolExecutor(len(ANSWERS)) as threads:
        return dict(zip(ANSWERS, threads.map(error, ANSWERS.values()), strict=True))


@pytest.mark.parametrize("answer", ANSWERS)
def test_another_program_at_the_address_is_no_process(errors, answer):
    assert "is another program at this address?" in errors[answer]


def test_the_words_of_others_steer_no_terminal(capsys):
    words = json.dumps({"error": "\x1b]0;PWN\x07 \u202egnp.exe \x9b31m"}).encode() + b"\n"
    with answering(lambda peer: peer.sendall(words)) as address, pytest.raises(PeerError) as caught:
        meet(address, 2, 1, WITHIN)
    terminal.fail(str(caught.value), 1)
    assert capsys.readouterr().err == "error: \\x1b]0;PWN\\x07 \\u202egnp.exe \\x9b31m\n"


def test_a_process_that_is_pushed_out_comes_again():
    calls = []

    def answer(peer):
        calls.append(peer.recv(100))
        if len(calls) == 3:
            peer.sendall(b'{"missing": []}\n')

    with answering(answer) as address:
        meet(address, 2, 1, WITHIN)
    assert len(calls) == 3


def test_the_missing_are_named_to_all():
    meeting = Meeting(5, 1)
    for process in (0, 1, 3):
        meeting.start(process)
    assert {process: str(error)[:41] for process, error in meeting.wait().items()} == dict.fromkeys(
        (0, 1, 3), "processes 2, 4 did not come within 1 s; s"
    )


@pytest.mark.parametrize(
    ("greeting", "refusal"),
    [
        ({"process": 1, "processes": 4}, "it has NUM_PROCESSES=3, this one 4: give all the same"),
        ({"process": 2, "processes": 3}, "another process has PROCESS_ID=2: give each its own"),
        ({"process": 0, "processes": 3}, "another process has PROCESS_ID=0: give each its own"),
    ],
    ids=["another number of processes", "twice", "zero"],
)
def test_who_cannot_take_part_is_told_why(greeting, refusal):
    meeting = Meeting(3, WITHIN).start(0)
    with meeting.stranger() as second:
        second.sendall(b'{"process": 2, "processes": 3}\n')
        assert json.loads(second.makefile().readline()) == {"missing": [1]}
        with meeting.stranger() as peer:
            peer.sendall(json.dumps(greeting).encode() + b"\n")
            assert json.loads(peer.makefile().readline()) == {"refused": refusal}
    meeting.wait()


def test_one_who_leaves_is_named():
    meeting = Meeting(3, WITHIN).start(0)
    with meeting.stranger() as peer:
        peer.sendall(b'{"process": 2, "processes": 3}\n')
        assert json.loads(peer.makefile().readline()) == {"missing": [1]}
    assert str(meeting.wait()[0]) == "process 2 left before process 1 came"


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PeerError, match=f"cannot listen at COORDINATOR_ADDRESS h:{port}"):
            meet(f"h:{port}", 2, 0, 5)


def test_process_0_that_is_not_there_is_named():
    with pytest.raises(PeerError, match=r"process 0 did not come to COORDINATOR_ADDRESS .* within 0.3 s; start it"):
        meet(f"127.0.0.1:{free_port()}", 2, 1, 0.3)

"""Processes that call functions of this package, in order; one that crashes or hangs costs its call alone.

They are started with the interpreter and not with multiprocessing, which imports the user's script in every
process: a script then needs `if __name__ == "__main__"`, or starts itself over and over.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

IN_FLIGHT_PER_PROCESS = 8
# Ctrl-C is for the parent; -P: a file signal.py in the current folder is not ours
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r}; "
    "from evax.data.processes import serve; serve()"
)


class Crashed(Exception):
    """The process ended, twice, while it made a call."""


class Processes:
    """So many processes, started when they are needed; a context manager."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._all = [_Process() for _ in range(number)]
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for process in self._all:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(number)  # each waits for the process that makes its call

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:  # calls that are still made end
            process.refuse()
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            process.stop()

    def calls(self, function: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Future[T]]:
        """A finished call per tuple of arguments, in order; a bounded number is made ahead.

        function: of a module that can be imported. A call's result raises what the function raised, and
        Crashed where its process ended.
        """
        ahead: deque[Future[T]] = deque()
        for given in arguments:
            ahead.append(self._threads.submit(self._call, function, given))
            if len(ahead) >= self._number * IN_FLIGHT_PER_PROCESS:
                yield _finished(ahead.popleft())
        while ahead:
            yield _finished(ahead.popleft())

    def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        process = self._idle.get()
        try:
            return process.call(function, arguments)
        finally:
            self._idle.put(process)


def _finished(call: Future[T]) -> Future[T]:
    call.exception()  # waits
    return call


class _Process:
    """One process, and a new one where it ended."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._over = False

    def call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        for _ in range(2):  # it may have ended before, killed for its memory for example
            if self._over:
                break
            process = self._started()
            assert process.stdin
            assert process.stdout
            try:
                pickle.dump((function, arguments), process.stdin)
                process.stdin.flush()
                raised, answer = pickle.load(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                self.stop()
                continue
            if raised:
                raise answer
            made: T = answer
            return made
        raise Crashed

    def _started(self) -> subprocess.Popen[bytes]:
        if self._running is None:
            path = [str(place) for place in sys.path]
            command = [
                sys.executable,
                "-P",
                "-X",
                f"utf8={sys.flags.utf8_mode}",
                "-c",
                START.format(path=path),
            ]
            self._running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._running

    def stop(self) -> None:
        """Returns when the process has ended."""
        if self._running is not None:
            self._running.kill()
            self._running.communicate()
            self._running = None

    def refuse(self) -> None:
        """Ends the process, and the call that it makes, and starts no other one."""
        self._over = True
        if (running := self._running) is not None:
            running.kill()


def serve() -> None:
    """What a process does: make the calls that come in, until its parent ends, in whatever way."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    calls: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
    Thread(target=_receive, args=(calls,), daemon=True).start()
    while True:
        function, arguments = calls.get()
        try:
            answer = False, function(*arguments)
        except Exception as error:  # for the parent to raise
            answer = True, error
        answers.write(pickle.dumps(answer))
        answers.flush()


def _receive(calls: SimpleQueue[Any]) -> None:
    try:
        while True:
            calls.put(pickle.load(sys.stdin.buffer))
    finally:  # the parent is gone, and nobody waits for an answer
        os._exit(1)

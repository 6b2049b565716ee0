# SPDX-License-Identifier: Apache-2.0
"""One piece of work after another, in this process or in several; one that fails does not stop the others."""

from __future__ import annotations

import logging
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing import get_context
from typing import Any

from gaussianocc_core.errors import GaussianOccError

logger = logging.getLogger(__name__)

Work = Callable[[Any, Callable[[int], object]], Any]  # argument, on_step -> result
_REPORT_S = 0.1  # steps are reported this often
_STOP_S = 10.0  # for a worker to tidy up


@dataclass(frozen=True)
class Outcome:
    """What became of one piece of work."""

    name: str
    result: Any = None
    error: str = ""  # one line; empty where it succeeded


def run_all(
    work: Work,
    names: Sequence[str],
    prepare: Callable[[str], Any],
    jobs: int = 1,
    on_step: Callable[[int], object] | None = None,
) -> Iterator[Outcome]:
    """The outcomes of `work(prepare(name), on_step)`, as they come.

    prepare runs in this process, when a worker is free. With several jobs, `work` is a function of a module, and
    its argument and result are pickled: workers are spawned, as a forked one dies in Numba. An interrupt here, or
    closing the iterator, interrupts the workers and waits for them to tidy up.
    """
    on_step = on_step or _ignore
    if jobs > 1 and len(names) > 1:
        yield from _Pool(work, prepare, on_step).run(names, min(jobs, len(names)))
        return
    for name in names:
        try:
            outcome = Outcome(name, work(prepare(name), on_step))
        except Exception as error:
            outcome = Outcome(name, error=describe(error))
        yield outcome


def describe(error: Exception) -> str:
    """One line for the user; where it is not his mistake, with the place in our code."""
    if isinstance(error, GaussianOccError):
        return str(error)
    logger.debug("unexpected error", exc_info=error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({place.filename}:{place.lineno}); this is no mistake of yours: report it"


def _ignore(count: int) -> None:
    pass


# ---- several processes ---------------------------------------------------------------------------------------------


class _Worker:
    """One process, and the piece of work it has."""

    def __init__(self, work: Work) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _interrupts_blocked():  # inherited: Ctrl-C goes to all processes of a terminal, and is ours to handle
            self.process.start()
        theirs.close()
        self.name = ""

    def stop(self) -> bool:
        """Whether it ended in good order."""
        self.process.terminate()
        self.process.join(_STOP_S)
        good = not self.process.is_alive()
        self.process.kill()
        self.process.join()
        self.connection.close()
        return good


class _Pool:
    def __init__(self, work: Work, prepare: Callable[[str], Any], on_step: Callable[[int], object]) -> None:
        self._work, self._prepare, self._on_step = work, prepare, on_step
        self._workers: list[_Worker] = []

    def run(self, names: Sequence[str], jobs: int) -> Iterator[Outcome]:
        waiting = iter(names)
        try:
            for _ in range(jobs):
                self._workers.append(_Worker(self._work))
            for worker in tuple(self._workers):
                yield from self._assign(worker, waiting)
            while busy := [worker for worker in self._workers if worker.name]:
                ready = connections.wait([worker.connection for worker in busy])
                for worker in [each for each in busy if each.connection in ready]:
                    yield from self._listen(worker, waiting)
        finally:
            for worker in self._workers:
                worker.process.terminate()  # all at once, then wait
            for worker in self._workers:
                if not worker.stop():
                    logger.warning("a process did not stop in %.0f s and was killed", _STOP_S)

    def _assign(self, worker: _Worker, waiting: Iterator[str]) -> Iterator[Outcome]:
        """Give the worker its next piece; outcomes are those of pieces that cannot even be prepared."""
        worker.name = ""
        for name in waiting:
            try:
                # Not connection.send, which would pass tensors on by shared memory and file descriptors.
                argument = pickle.dumps(self._prepare(name))
            except Exception as error:
                yield Outcome(name, error=describe(error))
                continue
            worker.name = name
            with suppress(OSError):  # a dead worker is found out when it is listened to
                worker.connection.send_bytes(argument)
            return

    def _listen(self, worker: _Worker, waiting: Iterator[str]) -> Iterator[Outcome]:
        try:
            steps, outcome = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            worker.process.join(_STOP_S)
            code = worker.process.exitcode
            killed = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            hint = "; if the system ran out of memory, use fewer jobs" if code == -signal.SIGKILL else ""
            yield Outcome(worker.name, error=f"its process ended with {killed}{hint}")
            worker.stop()
            self._workers.remove(worker)
            self._workers.append(_Worker(self._work))
            yield from self._assign(self._workers[-1], waiting)
            return
        if steps:
            self._on_step(steps)
        if outcome is not None:
            result, error = outcome
            yield Outcome(worker.name, result, error)
            yield from self._assign(worker, waiting)


class _Steps:
    """Counts steps and reports them now and then."""

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send, self.count, self._due = send, 0, 0.0

    def add(self, count: int) -> None:
        self.count += count
        now = time.monotonic()
        if now >= self._due:
            self._send(self.count)
            self.count, self._due = 0, now + _REPORT_S


def _serve(connection: Any, work: Work) -> None:
    # Twice, so that there is no line at which an interrupt would end in a traceback.
    with suppress(KeyboardInterrupt):
        # The parent has no more, is gone, or stops us.
        with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
            signal.signal(signal.SIGTERM, _interrupt)
            _work_on(connection, work)
        signal.signal(signal.SIGTERM, _carry_on)


def _work_on(connection: Any, work: Work) -> None:
    """Until the connection is closed."""

    def send(steps: int, outcome: tuple[Any, str] | None = None) -> None:
        connection.send_bytes(pickle.dumps((steps, outcome)))

    while True:
        argument = pickle.loads(connection.recv_bytes())
        steps = _Steps(send)
        try:
            outcome = (work(argument, steps.add), "")
        except Exception as error:
            outcome = (None, describe(error))
        send(steps.count, outcome)


def _interrupt(number: int, frame: Any) -> None:
    # Tidying up is not interrupted again. Not by SIG_IGN: Python complains with a traceback about a signal that arrives
    # while its handler is taken away.
    signal.signal(signal.SIGTERM, _carry_on)
    raise KeyboardInterrupt


def _carry_on(number: int, frame: Any) -> None:
    pass


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""An Embedder shared, closed, forked, copied and interrupted, each in a process of its own.

``python -m tests.torture.embedder CASE BUNDLE SEED`` runs one and prints ``valid result`` or
``clear error``; anything else is a failure, and so is no end within :data:`LIMIT_SECONDS`.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from runtimes import AdaptrtError, Embedder
from runtimes.arrays import Encoded

VALID, CLEAR = "valid result", "clear error"
_LINE = "the station near a river where people walk each morning before their work begins"
WORDS = _LINE.split()
LIMIT_SECONDS = 300.0
# Vectors of one text in calls of other shapes: FP32 sums in another order.
TOLERANCE = 2e-6
_LEAK_KB = 8192  # resident memory that 150 more loads may add

Call = dict[str, Any]


def _calls(embedder: Embedder, chosen: random.Random, count: int) -> list[Call]:
    """One to nine texts of 1 to 200 words, with tasks, lengths and types as they may be."""
    calls = []
    for _ in range(count):
        texts = [
            " ".join(chosen.choices(WORDS, k=chosen.choice((1, 2, 5, 20, 200))))
            for _ in range(chosen.randint(1, 9))
        ]
        tasks = tuple(embedder.manifest.prefixes)
        calls.append(
            {
                "texts": texts,
                "task": [chosen.choice(tasks) for _ in texts],
                "dimensions": chosen.choice(embedder.dimensions),
                "output": chosen.choice(("float32", "int8", "ubinary")),
            }
        )
    return calls


def _same(first: Encoded, second: Encoded) -> bool:
    """Within what a sum in another order changes: a step of INT8, no bit but one at zero."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.dtype == np.float32:
        return bool(np.abs(first - second).max() <= TOLERANCE)
    if first.dtype == np.int8:
        return bool(np.abs(first.astype(int) - second.astype(int)).max() <= 1)
    bits = [np.unpackbits(each.view(np.uint8)) for each in (first, second)]
    return int((bits[0] != bits[1]).sum()) <= first.size // 16


def _load(bundle: Path, **more: Any) -> Embedder:
    return Embedder.load(bundle, **more)


def shared(bundle: Path, chosen: random.Random) -> str:
    """Sixteen threads, mixed calls; each result is that of the call alone."""
    with _load(bundle, threads=2) as embedder:
        calls = _calls(embedder, chosen, 160)
        alone = [embedder.encode(**call) for call in calls]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda call: embedder.encode(**call), calls))
    wrong = [i for i, pair in enumerate(zip(alone, found, strict=True)) if not _same(*pair)]
    return VALID if not wrong else f"calls {wrong} differ among threads"


def closed_while_running(bundle: Path, chosen: random.Random) -> str:
    """Every call under way ends with its vectors, every later one with the one error."""
    for _ in range(10):
        embedder = _load(bundle)
        calls = _calls(embedder, chosen, 8)
        alone = [embedder.encode(**call) for call in calls]
        start = threading.Barrier(9)

        def work(number: int, start: threading.Barrier = start, it: Any = embedder) -> str:
            start.wait()
            while True:
                try:
                    if not _same(it.encode(**calls[number]), alone[number]):  # noqa: B023
                        return "another result while it was being closed"
                except AdaptrtError as error:
                    return CLEAR if "is closed" in str(error) else str(error)

        with ThreadPoolExecutor(8) as pool:
            found = [pool.submit(work, number) for number in range(8)]
            start.wait()
            time.sleep(chosen.uniform(0, 0.05))
            embedder.close()
            ends = {future.result() for future in found}
        if ends != {CLEAR}:
            return f"ended with {ends}"
    return CLEAR


def closed_twice_and_used(bundle: Path, chosen: random.Random) -> str:
    """Closing again is nothing; everything else is one line."""
    embedder = _load(bundle)
    embedder.encode(**_calls(embedder, chosen, 1)[0])
    embedder.close()
    embedder.close()
    uses: list[Callable[[], object]] = [
        lambda: embedder.encode(["x"], task="base"),
        lambda: embedder.encode_chunks("x", sentences=1, task="base"),
        lambda: embedder.run_rows([np.array([0, 2])], ["base"]),
        lambda: embedder.__enter__(),
        lambda: pickle.dumps(embedder),
        lambda: copy.copy(embedder),
        lambda: copy.deepcopy(embedder),
    ]
    for use in uses:
        try:
            return f"gave {use()!r}"
        except AdaptrtError as error:
            if "is closed" not in str(error):
                return str(error)
    return CLEAR


def _forked(bundle: Path, chosen: random.Random, threads: int) -> str:
    """A result or one error, no wait."""
    embedder = _load(bundle, threads=threads)
    call = _calls(embedder, chosen, 1)[0]
    expected = embedder.encode(**call)

    def child() -> str:
        try:
            found = embedder.encode(**call)
        except AdaptrtError as error:
            said = CLEAR if "process" in str(error) else str(error)
        else:
            said = VALID if _same(found, expected) else "another result in the child"
        embedder.close()
        return said

    return _in_child(child, then=lambda: _same(embedder.encode(**call), expected))


def forked(bundle: Path, chosen: random.Random) -> str:
    """With threads of its own that a child does not have."""
    return _forked(bundle, chosen, 2)


def forked_with_one_thread(bundle: Path, chosen: random.Random) -> str:
    """What needs no thread but the caller's may go on in the child."""
    return _forked(bundle, chosen, 1)


def forked_in_use(bundle: Path, chosen: random.Random) -> str:
    """Forked while other threads are inside and hold locks, twenty times."""
    embedder = _load(bundle, threads=2)
    calls = _calls(embedder, chosen, 4)
    ended = threading.Event()

    def work(number: int) -> None:
        while not ended.is_set():
            embedder.encode(**calls[number])

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()

    def child() -> str:
        try:
            embedder.encode(**calls[0])
        except AdaptrtError as error:
            return CLEAR if "process" in str(error) else str(error)
        return VALID

    try:
        found = {_in_child(child) for _ in range(20)}
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return found.pop() if len(found) == 1 else f"ended with {found}"


def forked_and_dropped(bundle: Path, chosen: random.Random) -> str:
    """The child forgets it: its end waits for threads that are not there."""
    kept = [_load(bundle, threads=2)]
    kept[0].encode(**_calls(kept[0], chosen, 1)[0])

    def child() -> str:
        kept.clear()
        gc.collect()
        return VALID

    return _in_child(child)


def forked_and_loaded(bundle: Path, chosen: random.Random) -> str:
    """One that the child loads itself works there, whatever it has from its parent."""
    embedder = _load(bundle, threads=2)
    call = _calls(embedder, chosen, 1)[0]
    expected = embedder.encode(**call)

    def child() -> str:
        with _load(bundle, threads=2) as own:
            return VALID if _same(own.encode(**call), expected) else "another result"

    return _in_child(child)


def forked_and_exited(bundle: Path, chosen: random.Random) -> str:
    """A child that ends as a program does, with its interpreter's clearing away."""
    embedder = _load(bundle, threads=2)
    embedder.encode(**_calls(embedder, chosen, 1)[0])
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        sys.exit(0)
    return _ended(pid) or VALID


def copied(bundle: Path, chosen: random.Random) -> str:
    """By pickle, copy and deepcopy: each works as the first, also after that is closed."""
    with _load(bundle) as embedder:
        call = _calls(embedder, chosen, 1)[0]
        expected = embedder.encode(**call)
        others = [
            pickle.loads(pickle.dumps(embedder)),
            copy.copy(embedder),
            copy.deepcopy(embedder),
        ]
    found = []
    for other in others:
        with other:
            found.append(_same(other.encode(**call), expected))
    return VALID if all(found) else f"copies differ: {found}"


def collected_while_running(bundle: Path, chosen: random.Random) -> str:
    """The last name of it goes while threads are inside."""
    for _ in range(10):
        names = [_load(bundle, threads=2)]
        call = _calls(names[0], chosen, 1)[0]
        expected = names[0].encode(**call)
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(names[0].encode, **call) for _ in range(16)]
            names.clear()
            gc.collect()
            if not all(_same(future.result(), expected) for future in found):
                return "another result"
    return VALID


def loaded_often(bundle: Path, chosen: random.Random) -> str:
    """Two hundred times: no handle, thread or memory is left of them."""
    sizes = []
    for number in range(200):
        with _load(bundle, threads=2) as embedder:
            embedder.encode(["a text"], task="base")
        del embedder
        if number in (49, 199):
            gc.collect()
            sizes.append((_entries("fd"), _entries("task"), _resident_kb()))
    (handles, threads, memory), last = sizes
    if last[0] > handles or last[1] > threads or last[2] > memory + _LEAK_KB:
        return f"handles, threads, kB after 50 loads: {sizes[0]}, after 200: {last}"
    return VALID


def text_iterator_that_raises(bundle: Path, chosen: random.Random) -> str:
    """A caller's own exception comes back as it was, and the embedder goes on."""

    def texts() -> Iterator[str]:
        yield "one"
        raise RuntimeError("the caller's own")

    with _load(bundle) as embedder:
        call = _calls(embedder, chosen, 1)[0]
        expected = embedder.encode(**call)
        try:
            embedder.encode(texts(), task="base")
        except RuntimeError as error:
            if str(error) != "the caller's own":
                return f"became {error}"
        else:
            return "was lost"
        return VALID if _same(embedder.encode(**call), expected) else "another result"


def interrupted(bundle: Path, chosen: random.Random) -> str:
    """Ctrl-C in the middle of calls, thirty times; the next call gives the same as ever."""
    with _load(bundle, threads=2) as embedder:
        call = _calls(embedder, chosen, 1)[0] | {"texts": [" ".join(WORDS * 8)] * 12}
        call["task"] = call["task"][0]
        expected = embedder.encode(**call)
        count = 0
        for _ in range(30):
            timer = threading.Timer(chosen.uniform(0, 0.1), os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                embedder.encode(**call)
                timer.join()
                time.sleep(0.2)  # it comes at last
            except KeyboardInterrupt:
                count += 1
            if not _same(embedder.encode(**call), expected):
                return "another result after an interrupt"
        if count != 30:
            return f"{count} of 30 interrupts arrived"
        state = embedder._users
    return VALID if state == 0 else f"{state} calls are thought to be inside still"


def async_exceptions(bundle: Path, chosen: random.Random) -> str:
    """An exception raised in a thread from outside, as some servers do to end a request."""
    with _load(bundle, threads=2) as embedder:
        call = _calls(embedder, chosen, 1)[0]
        expected = embedder.encode(**call)
        for _ in range(30):
            thread = threading.Thread(target=_swallowing, args=(embedder, call))
            thread.start()
            time.sleep(chosen.uniform(0, 0.02))
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeoutError)
            )
            thread.join()
        return VALID if _same(embedder.encode(**call), expected) else "another result"


def _swallowing(embedder: Embedder, call: Call) -> None:
    try:
        for _ in range(20):
            embedder.encode(**call)
    except TimeoutError:
        pass


def _in_child(work: Callable[[], str], then: Callable[[], bool] = lambda: True) -> str:
    """What a forked child says, or that it said nothing in time; ``then`` is tried here."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        said = "an exception"
        try:
            said = work()
        except BaseException as error:  # noqa: BLE001 - it is what is looked for
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    wrong = _ended(pid)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    if wrong or not then():
        return wrong or "the parent's is not what it was"
    return said


def _ended(pid: int, seconds: float = 20.0) -> str:
    """Empty where the child ended by itself and well, in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else f"the child ended with {code}"
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return f"the child hung for {seconds:.0f} s"


def _entries(kind: str) -> int:
    return sum(1 for _ in Path("/proc/self", kind).iterdir())


def _resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


CASES: dict[str, Callable[[Path, random.Random], str]] = {
    case.__name__.replace("_", " "): case
    for case in (
        shared,
        closed_while_running,
        closed_twice_and_used,
        forked,
        forked_with_one_thread,
        forked_in_use,
        forked_and_dropped,
        forked_and_loaded,
        forked_and_exited,
        copied,
        collected_while_running,
        loaded_often,
        text_iterator_that_raises,
        interrupted,
        async_exceptions,
    )
}


def main() -> None:
    """One case."""
    name, bundle, seed = sys.argv[1:]
    print(CASES[name](Path(bundle), random.Random(int(seed))))


if __name__ == "__main__":
    main()

"""Forked children, which have none of their parent's threads: no wait, and one error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In a process of its own: pytest's has threads, and newer Pythons warn of forks beside them.
COMMON = """
import os, sys, threading, time
from runtimes.errors import AdaptrtError
from runtimes.executors import base

class Threaded(base.RuntimeBase):
    '''Its threads are needed to free it.'''
    def __init__(self): self._belongs_here()
    @base.while_open
    def run(self): return "ran"
    def __del__(self): print("freed", flush=True)
    def _free(self): print("freed", flush=True)

class Free(base.RuntimeBase):
    @base.while_open
    def run(self): return "ran"
"""
REFUSED = """
one, other = Threaded(), Free()
if os.fork() == 0:
    print(other.run())
    for use in (one.run, one.__enter__, one.__reduce__):
        try: use()
        except AdaptrtError as error: print(error)
    one.close()
    del one
    print(Threaded().run(), flush=True)
    sys.exit(0)
os.wait()
print("parent", one.run())
"""
INSIDE = """
class Slow(base.RuntimeBase):
    @base.while_open
    def run(self, seconds):
        begun.set()
        time.sleep(seconds)
        return "ran"

one, begun = Slow(), threading.Event()
thread = threading.Thread(target=one.run, args=(0.5,))
thread.start()
begun.wait()
if os.fork() == 0:
    try: one.run(0)
    except AdaptrtError as error: print(error)
    one.close()
    sys.exit(0)
os.wait()
thread.join()
print("parent", one.run(0), flush=True)
if os.fork() == 0:
    print(one.run(0))
    sys.exit(0)
os.wait()
"""
HELD = """
one, begun = Free(), threading.Event()
def hold():
    with base._STATE:
        begun.set()
        time.sleep(0.5)
thread = threading.Thread(target=hold)
thread.start()
begun.wait()
if os.fork() == 0:
    print(one.run())
    one.close()
    sys.exit(0)
os.wait()
thread.join()
print("parent", one.run())
"""


def run(code: str) -> list[str]:
    """What it prints; a hang is an error."""
    done = subprocess.run(
        [sys.executable, "-c", COMMON + code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


def test_what_belongs_to_the_parent_says_so_and_is_not_freed_in_the_child() -> None:
    said = run(REFUSED)
    assert said[0] == "ran"
    for line in said[1:4]:
        assert line.startswith("this Threaded was opened before this process was forked")
        assert "start processes with multiprocessing's 'spawn'" in line
    # Freed: the child's own, and in the parent its one, when each interpreter ends.
    assert sorted(said[4:]) == ["freed", "freed", "parent ran", "ran"]


def test_what_somebody_is_inside_belongs_to_the_parent() -> None:
    refused, *others = run(INSIDE)
    assert refused.startswith("this Slow was opened before this process was forked")
    assert others == ["parent ran", "ran"]


@pytest.mark.parametrize("time", range(2))
def test_a_fork_in_the_middle_of_a_comparison_does_not_hang(time: int) -> None:
    assert run(HELD) == ["ran", "parent ran"]

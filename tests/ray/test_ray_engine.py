"""``adaptrt embed --engine ray`` on this machine, and on two nodes of which one is lost.

Run by ``make test-ray`` in an environment of its own, without what ``tests/conftest.py`` needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from runtimes.corpus.ray_engine import RayEngine, RaySettings, require_room
from runtimes.corpus.records import Loading, OnError, Record, Request, Wanted
from runtimes.corpus.run import Summary, Watch, embed_corpus
from runtimes.corpus.workers import LocalEngine
from runtimes.errors import InputError, MissingError
from tests.bench.kills import hashes, write_corpus

BUNDLE = Path(os.environ["ADAPTRT_BUNDLE"]).absolute()
STORE = 80 << 20  # bytes of a node's object store


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    write_corpus(path, 1500)
    return path


def request_of(corpus: Path, out: Path, task: str = "classification") -> Request:
    return Request(
        input=str(corpus),
        out=out,
        wanted=Wanted(task=task, keep=("n",), split_bytes=8_000),
        loading=Loading(bundle=BUNDLE, threads=1),
    )


@pytest.fixture(scope="module")
def local(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local engine's folder."""
    out = tmp_path_factory.mktemp("local") / "out"
    embed_corpus(request_of(corpus, out), partial(LocalEngine, workers=1), lambda item: None)
    return out


def embed(request: Request, settings: RaySettings, watch: Watch = lambda item: None) -> Summary:
    return embed_corpus(request, partial(RayEngine, settings=settings), watch)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes with a CPU each: two raylets on this machine."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE}
    )
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_the_local_engines_bytes(corpus: Path, local: Path, tmp_path: Path) -> None:
    summary = embed(request_of(corpus, tmp_path / "o"), RaySettings(least=1, most=2))
    assert summary.new == summary.parts > 8
    assert hashes(tmp_path / "o") == hashes(local)


def test_a_node_is_lost(corpus: Path, local: Path, tmp_path: Path, cluster: Cluster) -> None:
    """Its actor's work is done by another, and the folder is the same as the local engine's."""
    (node,) = cluster.worker_nodes
    finished: list[Record] = []
    busy: list[float] = []

    def watch(item: object) -> None:
        if isinstance(item, Record):
            finished.append(item)
            if len(finished) == 3:
                busy.append(2 - ray.available_resources().get("CPU", 0))
                cluster.remove_node(node, allow_graceful=False)

    settings = RaySettings(address=cluster.address, least=2, most=2)
    summary = embed(request_of(corpus, tmp_path / "o"), settings, watch)
    assert busy == [2], "the node that was lost had an actor"
    assert len(cluster.worker_nodes) == 0
    assert summary.parts > 8
    assert hashes(tmp_path / "o") == hashes(local)


def test_what_the_local_engine_began_is_gone_on_with(
    corpus: Path, local: Path, tmp_path: Path
) -> None:
    """And the other way round: the folder does not say who works in it."""

    class StopError(Exception):
        pass

    def stop(item: object) -> None:
        if isinstance(item, Record):
            raise StopError

    request = request_of(corpus, tmp_path / "o")
    with pytest.raises(StopError):
        embed_corpus(request, partial(LocalEngine, workers=1), stop)
    summary = embed(request, RaySettings())
    assert 0 < summary.new < summary.parts
    assert hashes(tmp_path / "o") == hashes(local)


def test_bad_input_is_one_error_of_ours(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task: got 'nope'"):
        embed(request_of(corpus, tmp_path / "o", task="nope"), RaySettings())
    assert not (tmp_path / "o").exists()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n{"text": 5}\n')
    with pytest.raises(InputError, match="at 17: 'text': got int, expected text"):
        embed(request_of(bad, tmp_path / "p"), RaySettings())
    skipping = Request(
        input=str(bad),
        out=tmp_path / "q",
        wanted=Wanted(task="classification"),
        loading=Loading(bundle=BUNDLE),
        on_error=OnError.SKIP,
    )
    assert embed(skipping, RaySettings()).skipped == 1


def test_actors_that_can_never_be_placed_are_refused() -> None:
    two, gpu = {"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}
    require_room(RaySettings(cpus=2), [two])  # every CPU of it
    require_room(RaySettings(cpus=16, least=9, most=9), [{"memory": 1.0}])  # it may grow
    require_room(RaySettings(gpus=0.5, least=2, most=2), [two, gpu])
    with pytest.raises(InputError, match="got 3, the largest node has 2 CPUs"):
        require_room(RaySettings(cpus=3), [two, two])
    with pytest.raises(InputError, match="5 of 1 CPUs, the cluster has 4"):
        require_room(RaySettings(least=5, most=5), [two, two])
    with pytest.raises(MissingError, match="2 × 1 GPUs, the cluster has 1"):
        require_room(RaySettings(gpus=1, least=2, most=2), [two, gpu])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--actors", "0"), "--actors: got '0'"),
        (("--actors", "3-2"), "--actors: got '3-2'"),
        (("--actors", "many"), "--actors: got 'many'"),
        (("--cpus-per-actor", "0"), "--cpus-per-actor: got 0"),
        (("--cpus-per-actor", "4096"), "--cpus-per-actor: got 4096, the largest node has"),
        (("--gpus-per-actor", "1.5"), "--gpus-per-actor: got 1.5"),
        (("--threads", "2"), "--threads: an actor has --cpus-per-actor threads"),
        (("--ray-address", "127.0.0.1:1"), "--ray-address: no cluster answers at '127.0.0.1:1'"),
    ],
)
def test_options_that_are_refused(
    corpus: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    command = [sys.executable, "-m", "export.cli", "embed", str(corpus), "--bundle", str(BUNDLE)]
    command += ["--out", str(tmp_path / "o"), "--task", "base", "--engine", "ray", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, message in done.stderr.splitlines()[-1]) == (2, True), done.stderr
    assert not (tmp_path / "o").exists()

"""Options of a run on a real Dask cluster, and what is refused before anything begins."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchmill import host
from batchmill.batch import Batch
from batchmill.cluster import doubts
from batchmill.errors import ClusterUnfit, InputMissing, InvalidUsage
from batchmill.plan import Plan
from batchmill.scheduler import checked, connected
from batchmill.settings import Settings
from cluster_kit import DaskCluster, certificate, dask_cluster
from fault_kit import CHECKPOINT, finish, numbered, prepare

pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc"),
    pytest.mark.xdist_group("cluster"),
]

WORK = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl")
NOWHERE = "tcp://127.0.0.1:1"  # no scheduler is there


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers of two threads; none of the tests here harms them."""
    with dask_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        for name in ("alice", "bob"):
            cluster.add(name, "--no-nanny", "--nthreads", "2")
        yield cluster.ready()


def plan(function: Callable[..., Any] = len, init: Callable[[], Any] | None = None, **settings: Any) -> Plan:
    """A batch of no items."""
    return Batch(function, items=[], no_checkpoint=True, init=init, settings=Settings(**settings)).plan


# --- refusals --------------------------------------------------------------------------------------------------------


def test_modules_too_large_to_be_sent_are_refused_before_a_checkpoint_is_moved_aside(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    assert finish(*WORK, cwd=tmp_path).status == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "data.py").open("w") as file:
        file.truncate(65 << 20)
    (tmp_path / "f.py").write_text(f"import large\n{before['f.py'].decode()}")
    ended = finish(*WORK, "--fresh", "--cluster", NOWHERE, cwd=tmp_path)
    assert ended.status == 2, ended.err
    assert "too large to be sent" in ended.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == {
        **before,
        "f.py": (tmp_path / "f.py").read_bytes(),
    }


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a certificate, by the options that they are for."""
    files = certificate(tmp_path_factory.mktemp("tls"))
    return dict(zip(("--tls-ca-file", "--tls-cert", "--tls-key"), files, strict=True))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate")
@pytest.mark.parametrize("option", ["--tls-ca-file", "--tls-cert", "--tls-key"])
@pytest.mark.parametrize("trouble", ["missing", "a folder", "nonsense"])
def test_a_certificate_that_is_no_good_is_a_missing_input_and_named(
    option: str, trouble: str, tmp_path: Path, tls: dict[str, str]
) -> None:
    file = tmp_path / "odd.pem"
    if trouble == "a folder":
        file.mkdir()
    elif trouble == "nonsense":
        file.write_text("nonsense\n")
    given: dict[str, Any] = {**tls, option: str(file)}
    batch = plan(cluster="tls://127.0.0.1:1", **{name[2:].replace("-", "_"): path for name, path in given.items()})
    with pytest.raises(InputMissing, match=r"odd\.pem") as caught, connected(batch):
        pass
    assert (option in caught.value.message) == (trouble != "nonsense")


def test_a_certificate_that_is_missing_is_exit_66_and_one_line(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    ended = finish(*WORK, "--cluster", NOWHERE, "--tls-cert", "missing.pem", cwd=tmp_path)
    assert ended.status == 66
    (line,) = ended.err.splitlines()
    assert "--tls-cert missing.pem does not exist" in line


@pytest.mark.parametrize("option", ["--tls-ca-file", "--tls-cert", "--tls-key"])
def test_a_certificate_without_a_cluster_is_refused(option: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    ended = finish(*WORK, option, "x.pem", cwd=tmp_path)
    assert ended.status == 2
    assert f"{option} is for a cluster" in ended.err


@pytest.mark.parametrize(
    ("workers", "said"),
    [((), "all there are"), (("-j", "4"), "at most 4"), (("-j", "50%"), "50% of all there are")],
)
def test_a_dry_run_says_how_many_workers_of_a_cluster_there_would_be(
    workers: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    prepare(tmp_path, numbered(3))
    ended = finish(*WORK, "-n", *workers, "--cluster", NOWHERE, cwd=tmp_path)
    assert ended.status == 0
    assert f"workers    {said} ({NOWHERE})" in ended.out.splitlines()


def test_a_client_that_was_closed_is_refused(cluster: DaskCluster) -> None:
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        assert checked(client) is client
    with pytest.raises(InvalidUsage, match="is closed"):
        Batch(len, items=[], no_checkpoint=True, cluster=client).run()


def test_what_dask_logs_is_kept_back_for_the_time_of_a_run(
    cluster: DaskCluster, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("distributed.client")
    before = logger.level, list(logger.filters)
    with connected(plan(cluster=cluster.address)):
        logger.error("meanwhile")
        with connected(plan(cluster=cluster.address)):  # runs in several threads
            pass
        logger.error("meanwhile")
    assert (logger.level, logger.filters) == before
    with pytest.raises(InvalidUsage), connected(plan(cluster="nonsense://x")):
        pass
    assert (logger.level, logger.filters) == before
    logger.error("afterwards")
    assert caplog.messages == ["afterwards"]


# --- who may take part -----------------------------------------------------------------------------------------------


def facts(**changed: str) -> dict[str, Any]:
    """A worker's, where it differs from this machine."""
    return {**host.describe(), **changed}


@pytest.mark.parametrize(("other", "said"), [
    ({"python": "3.2.1"}, "has Python 3.2.1"), ({"implementation": "pypy"}, "has pypy 3."),
])  # fmt: skip
def test_another_python_is_warned_of_and_cannot_have_functions_by_value(other: dict[str, str], said: str) -> None:
    warning = doubts("tcp://a:1", facts(**other), plan())
    assert warning.startswith(f"Warning: worker tcp://a:1 {said}")
    assert f"and this is Python {sys.version.split()[0]}" in warning
    for by_value in (plan(lambda item: item), plan(init=lambda: None)):
        with pytest.raises(ClusterUnfit, match="functions sent by value need the same"):
            doubts("tcp://a:1", facts(**other), by_value)


def test_another_patch_of_python_is_the_same() -> None:
    python = ".".join([*sys.version.split()[0].split(".")[:2], "99"])
    assert doubts("tcp://a:1", facts(python=python), plan(lambda item: item)) == ""


def test_another_batchmill_cannot_take_part() -> None:
    with pytest.raises(ClusterUnfit, match=r"has batchmill 0\.0\.1"):
        doubts("tcp://a:1", facts(batchmill="0.0.1"), plan())

"""The way to a Dask scheduler: a client of it, who is there, whether it has gone."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from batchmill.cluster.connection import SILENCE
from batchmill.errors import ClusterLost, InputMissing, InvalidUsage
from batchmill.plan import Plan
from batchmill.secrecy import mask_addresses
from batchmill.settings import TLS, Settings
from batchmill.text import option

CLOSING = 3.0  # seconds for a client to close
ASK = 2.0  # seconds without an answer after which it is looked whether anybody is there
PROBE = 1.0  # seconds for somebody who listens to be seen
CONNECTIONS = 1 << 16  # two a node: Dask's own limit is 512 in all


def checked(client: Any) -> Any:
    """A client as given from outside; raises InvalidUsage for what is none."""
    if not callable(getattr(client, "run", None)) or not hasattr(client, "rpc") or not hasattr(client, "loop"):
        remedy = "give a distributed.Client of it, or the scheduler's address"
        raise InvalidUsage(f"cluster={client!r} is no client of Dask", remedy)
    if client.status in ("closing", "closed"):
        raise InvalidUsage(f"cluster={client!r} is closed", "give a client that is open")
    if client.asynchronous:
        raise InvalidUsage("cluster is an asynchronous client, which would wait for itself", "give one that is not")
    return client


@contextmanager
def connected(plan: Plan) -> Iterator[Any]:
    """A client of our own: see connect. What Dask says of it is not shown meanwhile: all there is to say we say."""
    logger = logging.getLogger("distributed.client")

    def is_fatal(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.CRITICAL

    logger.addFilter(is_fatal)  # the level is one for all runs of this process
    # It compares packages that no item may ever need, and cron would mail its table.
    warnings.filterwarnings("ignore", "Mismatched versions found")
    ignored = warnings.filters[0]
    try:
        client = connect(plan)
        try:
            yield client
        finally:
            with suppress(Exception):  # all is committed: that a busy scheduler takes its time is no error
                client.close(timeout=CLOSING)
    finally:
        logger.removeFilter(is_fatal)
        with suppress(ValueError):  # another run's, or the program has put its own back
            warnings.filters.remove(ignored)  # type: ignore[attr-defined]


def connect(plan: Plan) -> Any:
    """A Dask client of the scheduler that the settings name; raises InvalidUsage, InputMissing, ClusterLost."""
    settings = plan.settings
    try:
        from distributed import Client
    except ImportError:
        raise InvalidUsage(f"{option('cluster')} needs dask.distributed", "pip install 'batchmill[dask]'") from None
    where, user = mask_addresses(settings.cluster_name), settings.cluster_name.rpartition("@")[0].rpartition("/")[2]
    if settings.cluster_file is not None:
        remedy = f"start one with `dask scheduler --scheduler-file {settings.cluster_file}`"
        _check_readable("cluster_file", settings.cluster_file, remedy)
        _check_names_scheduler(settings.cluster_file, remedy)
    try:
        security = _security(settings)
        return Client(
            settings.cluster,
            scheduler_file=settings.cluster_file,
            security=security,
            set_as_default=False,
            timeout=SILENCE,
            connection_limit=CONNECTIONS,
        )
    except (ValueError, TypeError) as error:
        if "ssl_context" in str(error):  # how Dask says it
            remedy = f"give {option('tls_ca_file')}, {option('tls_cert')} and {option('tls_key')}"
            raise InvalidUsage(f"{option('cluster', where)} needs certificates", remedy) from None
        said = str(error).replace(f"{user}@", "***@") if user else str(error)
        raise InvalidUsage(f"{option('cluster', where)}: {said}", "write tcp://HOST:8786 or tls://HOST:8786") from None
    except (TimeoutError, OSError) as error:
        raise ClusterLost(
            f"no scheduler can be reached at {where}: {str(error) or type(error).__name__}",
            "start one with `dask scheduler`, or check the address",
        ) from None


def _security(settings: Settings) -> Any:
    """What the client shows and trusts, where the settings say so; raises InputMissing for files that are no good."""
    from distributed import Security

    given = {name: getattr(settings, name) for name in TLS if getattr(settings, name) is not None}
    if not given:
        return None
    for name, path in given.items():
        _check_readable(name, path, "check the path")
    # What is not given is Dask's own configuration's, and must not be passed as None.
    named = dict(zip(TLS, ("tls_ca_file", "tls_client_cert", "tls_client_key")))
    security = Security(**{named[name]: path for name, path in given.items()}, require_encryption=True)
    try:
        security.get_connection_args("client")
    except OSError as error:  # ssl's own are
        remedy = "they must be PEM files, and the key that of the certificate"
        raise InputMissing(f"{', '.join(given.values())}: {error.strerror or error}", remedy) from None
    return security


def _check_names_scheduler(path: str, remedy: str) -> None:
    """Raise InvalidUsage for a file that no scheduler has written, or not whole."""
    try:
        with open(path, "rb") as file:
            is_one = isinstance(json.load(file)["address"], str)
    except (ValueError, TypeError, KeyError):
        is_one = False
    if not is_one:
        raise InvalidUsage(f"{option('cluster_file', path)} does not say where a scheduler is", remedy)


def _check_readable(name: str, path: str, remedy: str) -> None:
    option = f"--{name.replace('_', '-')}"
    try:
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise InputMissing(f"{option} {path} does not exist", remedy) from None
    except OSError as error:
        raise InputMissing(f"{option} {path} cannot be read: {error.strerror}", remedy) from None


def lost(address: str, error: BaseException, checkpoint: str | None) -> ClusterLost:
    """The error of a run whose scheduler has gone."""
    sentence = f"the scheduler {address} is lost ({type(error).__name__})"
    if checkpoint is None:
        return ClusterLost(
            sentence, "start it and its workers again; with a checkpoint nothing would have to be done twice"
        )
    remedy = f"start it and its workers again, and give the same again with {option('resume', True)}"
    return ClusterLost(f"{sentence}; what was done is in the checkpoint", remedy)


async def workers_of(client: Any, checkpoint: str | None, patience: float) -> dict[str, int]:
    """The threads of each node, by address; raises ClusterLost when the scheduler has gone, or has not answered
    for `patience` seconds: it may be busy with somebody else's graph."""
    address = str(client.scheduler.address)
    asking = asyncio.ensure_future(client.scheduler.ncores(workers=None))
    deadline = time.monotonic() + patience
    while not asking.done() and time.monotonic() < deadline:
        await asyncio.wait([asking], timeout=ASK)
        if not asking.done() and await is_refused(address):
            break
    try:
        if not asking.done():
            asking.cancel()
            raise TimeoutError
        found: dict[str, int] = asking.result()
    except Exception as error:  # what a broken connection raises differs
        raise lost(address, error, checkpoint) from error
    return found


async def is_refused(address: str) -> bool:
    """Whether nobody listens at a tcp:// or tls:// address: the process that did has gone."""
    where, _, port = address.partition("://")[2].rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(where.strip("[]"), int(port)), PROBE)
    except ConnectionRefusedError:
        return True
    except (TimeoutError, OSError, ValueError):  # it may be out of reach from here
        return False
    writer.close()
    return False

"""Owns a batch's lanes on a Dask cluster: who is there, an agent on each, messages to and fro. Never runs an item.

    scheduler --who is there--> Cluster --open_session--> host (in a worker) --> agent
                                   |                        ^
                               RemoteLanes <--- exchange ---'    straight to the worker, or by way of the scheduler

Everything but the constructor and what Site asks runs in the event loop of the Dask client.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

from batchmill import host
from batchmill.desk import Desk
from batchmill.errors import (
    BatchmillError,
    ClusterLost,
    ClusterUnfit,
    InputMissing,
    InvalidUsage,
    LanesLost,
    OutputLost,
)
from batchmill.function import FunctionSpec
from batchmill.guard import Guard
from batchmill.lanes import Event
from batchmill.link import SILENCE, Broken, Call, Link
from batchmill.model import Wake
from batchmill.parcel import anchored, collect
from batchmill.plan import Plan
from batchmill.pool import packed
from batchmill.remote import Machine, RemoteLanes
from batchmill.remote_watch import RemoteGuard, RemoteMonitor
from batchmill.resources import Monitor, machine, usable_cores, versions
from batchmill.version import __version__
from batchmill.wire import AgentSetup, pack

LOOK = 0.5  # seconds between looks at who is there
JOINING = 60.0  # seconds for a worker to join
DIRECT = 2.0  # seconds to find out whether workers can be reached from here; and that a look waits for who joins
CLOSING = 3.0  # seconds for agents to end
STILLBORN = 3  # agents that may end before they were up, in one worker


class Cluster:
    """The workers of a Dask cluster, as a Site: one lane per thread of each, unless `-j` says less.

    `client` is a dask.distributed Client; without, the plan's settings say where the scheduler is. Raises InvalidUsage
    where Dask is not installed, ClusterLost where the scheduler cannot be reached.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None], client: Any = None) -> None:
        self._plan = plan
        self._say = say
        self._owns = client is None
        self._client = connect(plan) if client is None else checked(client)
        self._loop: asyncio.AbstractEventLoop = self._client.loop.asyncio_loop
        self.address = str(self._client.scheduler.address)
        self._known: dict[str, Machine | None] = {}
        self._shares: dict[str, int] = {}  # the lanes of those that are joining, or have
        self._refused: set[str] = set()
        self._stillborn: Counter[str] = Counter()
        self._told: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._talks: set[asyncio.Task[None]] = set()
        self._told_waiting = False
        self._had_any = False
        self._is_direct: bool | None = None
        self._places: dict[str, str] = {}
        self._unfit: BatchmillError | None = None
        self._attending: Future[None] | None = None
        self._output: int | None = None  # a file for what items print
        try:
            threads = self._await(self._sizes()).values()
        except BaseException:
            self.close()
            raise
        wanted = plan.settings.workers
        self.workers = max(1, min(sum(map(self._share, threads)), wanted if isinstance(wanted, int) else 2**31))

    def _await(self, work: Coroutine[Any, Any, Any], patience: float | None = None) -> Any:
        """What a coroutine comes to, in the client's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(patience)

    async def _sizes(self) -> dict[str, int]:
        """The threads of each worker, by address; raises ClusterLost."""
        try:
            found: dict[str, int] = await asyncio.wait_for(self._client.scheduler.ncores(workers=None), SILENCE)
        except Exception as error:  # what a broken connection raises differs
            raise lost(self.address, error, self._plan.checkpoint) from error
        return found

    # As a Site

    def facts(self) -> dict[str, Any]:
        """See Site."""
        return {"workers": self.workers, "machine": machine(), "versions": versions(), "cluster": self.address}

    def lanes(
        self, run: int, put: Callable[[Event], None], output: int | None, lock: int | None, keep: int
    ) -> RemoteLanes:
        """See Site."""
        self._setup = self._make_setup(run)
        desk = Desk(self._plan.lane_setup(1, run=run), max(1, usable_cores()[0] - 1), put)
        self._lanes = RemoteLanes(put, Wake(), desk, self._say, self._prints(output), check=self._check_client)
        self._attending = asyncio.run_coroutine_threadsafe(self._attend(), self._loop)
        return self._lanes

    def _prints(self, output: int | None) -> int | None:
        """Where prints go: prints of all workers come here."""
        name = self._plan.settings.worker_output
        if name in ("stderr", "none"):
            return output
        try:
            self._output = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise OutputLost(
                f"cannot write {name}: {error.strerror}", "check the path given to --worker-output"
            ) from None
        return self._output

    def _check_client(self) -> None:
        if not self._loop.is_running():
            raise ClusterLost("the Dask client was closed during the run", "leave it open until the run is over")

    def _make_setup(self, run: int) -> AgentSetup:
        plan = self._plan
        lane = plan.lane_setup(1, run=run)
        if isinstance(lane.spec, FunctionSpec):
            lane = replace(lane, spec=anchored(lane.spec))
        specs = [spec for spec in (lane.spec, lane.init) if isinstance(spec, (FunctionSpec, str))]
        return AgentSetup(
            slots=range(0),
            lane=replace(lane, environ={}),
            kwargs=packed(dict(plan.kwargs)),
            limits=replace(plan.watched, max_items_per_worker=None),
            files=collect(*specs),
        )

    def guard(self, tick: float, message: Callable[[str], None]) -> Guard:
        """See Site."""
        return RemoteGuard(self._lanes, self._plan.watched, tick, message)  # type: ignore[arg-type]

    def monitor(self) -> Monitor:
        """See Site."""
        return RemoteMonitor(self._lanes)

    def places(self) -> dict[str, str] | None:
        """See Site."""
        found = {str(slot): machine.host for machine in self._lanes.machines for slot in machine.slots}
        changed = {slot: where for slot, where in found.items() if self._places.get(slot) != where}
        self._places.update(changed)
        return changed or None

    def close(self) -> None:
        """See Site."""
        if self._loop.is_running():  # else the client was closed: agents end by themselves
            with suppress(Exception):  # what a scheduler that is gone makes of it differs
                self._await(self._leave(), CLOSING + 2)
        if self._attending is not None:
            self._attending.cancel()
            self._lanes.catch_up()
        if self._output is not None:
            os.close(self._output)
        if self._owns:
            with suppress(Exception):  # all is committed: that a busy scheduler takes its time is no error
                self._client.close(timeout=CLOSING)

    async def _leave(self) -> None:
        if self._talks:
            await asyncio.wait(self._talks, timeout=CLOSING)
        for task in (*self._talks, *self._tasks):
            task.cancel()

    # Who is there

    async def _attend(self) -> None:
        """Look who comes and goes, until the run is over."""
        try:
            while not self._lanes.is_closed:
                sizes = await self._sizes()
                for name in self._known.keys() - sizes.keys():
                    self._leave_out(name, "it left the cluster")
                joining = [
                    self._start(self._join(name)) for name, threads in sizes.items() if self._take(name, threads)
                ]
                if joining:  # one that hangs does not keep the others
                    await asyncio.wait(joining, timeout=DIRECT)
                self._mind_absence(sizes.keys())
                await asyncio.sleep(LOOK)
        except BatchmillError as error:
            self._lanes.fail(error)
        except Exception as error:
            self._lanes.fail(lost(self.address, error, self._plan.checkpoint))

    def _take(self, name: str, threads: int) -> bool:
        """Whether a worker is to join: it is new, and lanes are wanted."""
        if name in self._known:
            return False
        share, wanted = self._share(threads), self._plan.settings.workers
        if isinstance(wanted, int):
            share = min(share, wanted - sum(self._shares.values()))
        if share > 0:
            self._known[name], self._shares[name] = None, share
        return share > 0

    def _share(self, threads: int) -> int:
        """How many lanes a worker of so many threads may have: one a thread, a share of them, or at most -j."""
        wanted = self._plan.settings.workers
        if wanted == "auto":
            return threads
        if isinstance(wanted, str):
            return max(1, int(threads * float(wanted.rstrip("%")) / 100 + 1e-9))
        return min(threads, wanted)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _leave_out(self, name: str, why: str) -> None:
        machine = self._known.pop(name, None)
        self._shares.pop(name, None)
        if machine is not None:
            machine.lose(why)

    def _mind_absence(self, names: Collection[str]) -> None:
        """Say once that there is nobody; end the run where all there are never could work for it."""
        if self._lanes.machines:
            self._had_any, self._told_waiting = True, False
        elif self._unfit is not None and not self._had_any and self._refused.issuperset(names):
            self._lanes.fail(self._unfit)
        elif not self._told_waiting:
            self._told_waiting = True
            self._tell(f"Waiting for workers of {self.address}")

    def _tell(self, sentence: str) -> None:
        self._lanes.later(lambda: self._say(sentence))

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._tell(sentence)

    async def _join(self, name: str) -> None:
        """Start an agent in a worker, if it can work for this run."""
        try:
            await asyncio.wait_for(self._open(name), JOINING)
        except ClusterUnfit as error:
            self._refuse(name, error)
        except Exception as error:
            if "No module named 'batchmill" in str(error):  # a text is all that Dask leaves of what it was
                remedy = f"install it there: pip install batchmill=={__version__}"
                self._refuse(name, ClusterUnfit(f"worker {name} has no batchmill", remedy))
                return
            self._leave_out(name, "")  # it has gone again, most likely
            self._tell_once(f"Worker {name} cannot be used: {type(error).__name__}: {error}".rstrip(": "))

    async def _open(self, name: str) -> None:
        facts = (await self._client.run(host.describe, workers=[name]))[name]
        self._check(name, facts)
        session = uuid.uuid4().hex
        slots = self._lanes.reserve(facts["host"], self._shares[name])
        setup = pickle.dumps(replace(self._setup, slots=slots))
        await self._client.run(host.open_session, session, setup, workers=[name])
        link = Link(self._loop, await self._way_to(name, session))
        machine = self._known[name] = self._lanes.add(name, facts["host"], link, slots)
        talk = self._start(self._talk(name, machine, link))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    def _refuse(self, name: str, error: ClusterUnfit) -> None:
        self._known[name] = None  # not to be asked again
        self._shares.pop(name, None)
        self._refused.add(name)
        self._unfit = self._unfit or error
        self._tell(str(error))

    def _check(self, name: str, facts: dict[str, Any]) -> None:
        """Raise ClusterUnfit for a worker that cannot take part; warn of one that may give other results."""
        own = sys.version.split()[0]
        if facts["batchmill"] != __version__:
            remedy = f"install the same there: pip install batchmill=={__version__}"
            raise ClusterUnfit(f"worker {name} has batchmill {facts['batchmill']}, and this is {__version__}", remedy)
        if facts["python"].rpartition(".")[0] == own.rpartition(".")[0]:
            return
        said = f"worker {name} has Python {facts['python']}, and this is {own}"
        if isinstance(self._plan.spec, FunctionSpec) and self._plan.spec.kind == "pickle":
            raise ClusterUnfit(f"{said}: functions sent by value need the same", "name the function, or use one Python")
        self._tell_once(f"Warning: {said}; results may differ")

    # Messages

    async def _way_to(self, name: str, session: str) -> Call:
        """How to call the agent's host in a worker: straight if that can be reached from here; the time it takes."""
        direct, proxied = self._direct(name, session), self._proxied(name, session)
        if self._is_direct is not False:
            try:
                await asyncio.wait_for(direct(), DIRECT)
                self._is_direct = True
            except (OSError, asyncio.TimeoutError):
                self._is_direct = False
        call = direct if self._is_direct else proxied
        begun = time.perf_counter()
        await call()
        self._lanes.round_trip = max(self._lanes.round_trip, time.perf_counter() - begun)
        return call

    def _direct(self, name: str, session: str) -> Call:
        async def call(**message: Any) -> dict[str, Any]:
            found: dict[str, Any] = await getattr(self._client.rpc(name), host.HANDLER)(session=session, **message)
            return found

        return call

    def _proxied(self, name: str, session: str) -> Call:
        async def call(**message: Any) -> dict[str, Any]:
            order = {"op": host.HANDLER, "session": session, **message}
            found: dict[str, Any] = await self._client.scheduler.proxy(worker=name, msg=order)
            return found

        return call

    async def _talk(self, name: str, machine: Machine, link: Link) -> None:
        """Pass messages to and fro until the agent has ended, or cannot be reached."""
        why = ""
        try:
            await link.talk(machine.receive)
        except Broken as error:
            why = str(error)
        except Exception as error:  # a defect of ours
            self._lanes.fail(LanesLost(f"messages of {name}: {error!r}", "this is a defect of batchmill"))
        if self._lanes.is_closed:
            return
        try:
            await self._sizes()  # if the scheduler is gone too, it is not the worker that is to blame
        except ClusterLost as error:
            self._lanes.fail(error)
            return
        machine.lose(why or "its agent ended")
        if self._known.get(name) is machine:
            self._leave_out(name, "")
            self._stillborn[name] += not (machine.is_up or why)
            if self._stillborn[name] == STILLBORN:
                remedy = "look at what that worker has written to its log"
                self._refuse(name, ClusterUnfit(f"the agents in worker {name} end before they are up", remedy))
        await link.leave(pack("bye"))


def checked(client: Any) -> Any:
    """A client as given from outside; raises InvalidUsage for what is none."""
    if not callable(getattr(client, "run", None)) or not hasattr(client, "rpc") or not hasattr(client, "loop"):
        remedy = "give a distributed.Client of it, or the scheduler's address"
        raise InvalidUsage(f"cluster={client!r} is no client of Dask", remedy)
    if client.asynchronous:
        raise InvalidUsage("cluster is an asynchronous client, which would wait for itself", "give one that is not")
    return client


def connect(plan: Plan) -> Any:
    """A Dask client of the scheduler that the settings name; raises InvalidUsage, InputMissing, ClusterLost."""
    settings = plan.settings
    try:
        from distributed import Client, Security
    except ImportError:
        raise InvalidUsage("--cluster needs dask.distributed", "pip install 'batchmill[dask]'") from None
    given = {
        "tls_ca_file": settings.tls_ca_file,
        "tls_client_cert": settings.tls_cert,
        "tls_client_key": settings.tls_key,
    }
    tls = {name: value for name, value in given.items() if value is not None}
    where = settings.cluster or settings.cluster_file
    if settings.cluster_file is not None and not os.path.isfile(settings.cluster_file):
        remedy = f"start one with `dask scheduler --scheduler-file {settings.cluster_file}`"
        raise InputMissing(f"--cluster-file {settings.cluster_file} does not exist", remedy)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # that the scheduler is lost is for us to say
    try:
        security = Security(**tls, require_encryption=True) if tls else None
        if settings.cluster_file is not None:
            return Client(
                scheduler_file=settings.cluster_file, security=security, set_as_default=False, timeout=SILENCE
            )
        return Client(settings.cluster, security=security, set_as_default=False, timeout=SILENCE)
    except (ValueError, TypeError) as error:
        raise InvalidUsage(f"--cluster {where}: {error}", "write tcp://HOST:8786 or tls://HOST:8786") from None
    except (OSError, asyncio.TimeoutError) as error:
        raise ClusterLost(
            f"no scheduler can be reached at {where}: {str(error) or type(error).__name__}",
            "start one with `dask scheduler`, or check the address",
        ) from None


def lost(address: str, error: BaseException, checkpoint: str | None) -> ClusterLost:
    """The error of a run whose scheduler has gone."""
    sentence = f"the scheduler {address} is lost ({type(error).__name__})"
    if checkpoint is None:
        return ClusterLost(sentence, "start it again; with a checkpoint (-c) nothing would have to be done twice")
    remedy = "start it again, and give the same command with --resume"
    return ClusterLost(f"{sentence}; what was done is in the checkpoint", remedy)

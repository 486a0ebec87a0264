"""A batch's workers on a Dask cluster: who is there, an agent on each, messages to and fro.

    scheduler --who is there--> DaskBackend (Membership) --open_session--> agent_host (on a node) --> agent
                                   |                               ^
                               RemotePool <------ exchange -------'    straight to the node, or by way of the scheduler

Everything but the constructor and what Backend asks runs in the event loop of the Dask client.
"""

from __future__ import annotations

import asyncio
import pickle
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from batchmill.cluster import agent_host
from batchmill.cluster.connection import SILENCE, AgentConnection, Call
from batchmill.cluster.dask_client import CLOSING, checked, connected, is_refused, lost, workers_of
from batchmill.cluster.membership import Membership
from batchmill.cluster.protocol import LEASE, AgentSetup, pack
from batchmill.cluster.remote_limits import RemoteLimits, RemoteMonitor
from batchmill.cluster.remote_pool import Machine, RemotePool
from batchmill.errors import (
    BatchmillError,
    ClusterLost,
    ClusterUnfit,
    WorkersLost,
)
from batchmill.model import Wake
from batchmill.plan import Plan
from batchmill.scheduler.backend import PRELOADED, Opened, Wanted
from batchmill.scheduler.rendering import LocalOutputMaker
from batchmill.secrecy import mask_addresses
from batchmill.system.machine import machine, usable_cores, versions
from batchmill.version import __version__
from batchmill.worker.code_bundle import anchored, collect, located
from batchmill.worker.function import FunctionSpec

LOOK = 0.5  # seconds between looks at who is there
JOINING = 60.0  # seconds for a node to join
DIRECT = 2.0  # seconds to find out whether a node can be reached from here
PINGS = 3  # calls to find out how long one takes
BUSY = 60.0  # seconds that a scheduler which is there may take to answer
MOMENT = 0.1  # seconds that a process may take from closing its connections to closing its port
SLACK = 0.5  # seconds for an agent to end after its node, or its lease


class DaskBackend:
    """The nodes of a Dask cluster, as a Backend: one worker per thread of each, unless `-j` says less.

    `client` is a dask.distributed Client; without, the plan's settings say where the scheduler is. Raises InvalidUsage
    where Dask is not installed, ClusterLost where the scheduler cannot be reached.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None], warn: Callable[[str], None], client: Any = None) -> None:
        self._plan = plan
        self._say = say
        self._warn = warn
        self._setup = _agent_setup(plan)
        self._own = ExitStack()  # what is to be closed at the end
        self._client = self._own.enter_context(connected(plan)) if client is None else checked(client)
        self._loop: asyncio.AbstractEventLoop = self._client.loop.asyncio_loop
        self.address = str(self._client.scheduler.address)
        self._members = Membership(plan.settings.workers)
        self._serving: dict[str, asyncio.Task[None]] = {}  # by node: one is asked again only when that is over
        self._links: dict[str, AgentConnection] = {}
        self._told: set[str] = set()
        self._told_waiting = False
        self._hosts_told = 0  # slots whose hosts were told
        self._attending: Future[None] | None = None
        try:
            self._found = self._members.most(self._await(self._look(SILENCE)))
        except BaseException:
            self.close()
            raise

    def _await(self, work: Coroutine[Any, Any, Any], patience: float | None = None) -> Any:
        """What a coroutine comes to, in the client's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(patience)

    async def _look(self, patience: float) -> dict[str, int]:
        return await workers_of(self._client, self._plan.checkpoint, patience)

    # As a Backend

    @property
    def workers(self) -> int:
        return self._found if self._attending is None else self._pool.most or self._found

    def facts(self) -> dict[str, Any]:
        return {
            "workers": self.workers,
            "machine": machine(),
            "versions": versions(),
            "cluster": mask_addresses(self.address),
        }

    def open(self, wanted: Wanted) -> Opened:
        self._setup = replace(self._setup, worker=replace(self._setup.worker, run=wanted.run))
        self._pool = pool = RemotePool(wanted.put, Wake(), self._say, wanted.prints, check=self._check_client)
        self._attending = asyncio.run_coroutine_threadsafe(self._attend(), self._loop)
        setup, processes = self._plan.worker_setup(1, run=wanted.run), max(1, usable_cores()[0] - 1)
        return Opened(
            pool,
            LocalOutputMaker(setup, processes, wanted.put, wanted.output),
            RemoteLimits(pool, self._plan.watched.max_items_per_worker),
            RemoteMonitor(pool),
        )

    def _check_client(self) -> None:
        if not self._loop.is_running():
            raise ClusterLost("the Dask client was closed during the run", "leave it open until the run is over")

    def preloads(self) -> str:
        return f"{PRELOADED} of a machine"

    def hosts(self) -> dict[str, str] | None:
        found = {str(slot): where for slot, where in self._pool.hosts(self._hosts_told)}
        self._hosts_told += len(found)
        return found or None

    def close(self) -> None:
        if self._loop.is_running():  # else the client was closed: agents end by themselves
            with suppress(Exception):  # what a scheduler that is gone makes of it differs
                self._await(self._leave(), CLOSING + 2)
        if self._attending is not None:
            self._attending.cancel()
            self._pool.last_words()
        self._own.close()

    async def _leave(self) -> None:
        tasks = list(self._serving.values())
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSING)
        for task in tasks:
            task.cancel()

    # Who is there

    async def _attend(self) -> None:
        """Look who comes and goes, until the run is over."""
        try:
            while not self._pool.is_closed:
                sizes = await self._look(BUSY)
                for name in self._members.left(sizes):
                    if name in self._links:
                        self._links[name].depart("it left the cluster")
                free = {name: threads for name, threads in sizes.items() if name not in self._serving}
                for name, workers in self._members.invite(free, time.monotonic()).items():
                    self._start(name, self._serve(name, workers))
                self._mind_absence()
                await asyncio.sleep(LOOK)
        except BatchmillError as error:
            self._pool.fail(error)
        except Exception as error:
            self._pool.fail(lost(self.address, error, self._plan.checkpoint))

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._serving[name] = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._serving.pop(name))

    def _mind_absence(self) -> None:
        """Say once that there are no workers; end the run where all there are cannot work for it, and none ever
        could."""
        error = self._members.unfit
        if any(machine.is_up for machine in self._pool.machines):
            self._told_waiting = False
        elif error is not None and not self._pool.was_used:
            self._pool.fail(error)
        elif not (self._told_waiting or self._members.are_coming):
            self._told_waiting = True
            self._tell(f"Waiting for workers of {self.address}: start some with `dask worker {self.address}`")

    def _tell(self, sentence: str) -> None:
        self._pool.later(lambda: self._say(sentence))

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._tell(sentence)

    async def _serve(self, name: str, workers: int) -> None:
        """A node's part in the run, from its invitation to its end."""
        try:
            machine, link = await asyncio.wait_for(self._open(name, workers), JOINING)
        except ClusterUnfit as error:
            self._refuse(name, error)
        except Exception as error:
            self._failed(name, error)
        else:
            self._links[name] = link
            if not self._members.has(name):
                link.depart("it left the cluster")
            try:
                await self._talk(name, machine, link)
            except Exception as error:
                self._pool.fail(WorkersLost(f"messages of {name}: {error!r}", "this is a defect of batchmill"))
            finally:
                del self._links[name]

    async def _open(self, name: str, workers: int) -> tuple[Machine, AgentConnection]:
        """Start an agent on a node, if it can work for this run."""
        facts = (await self._client.run(agent_host.describe, workers=[name]))[name]
        self._check(name, facts)
        session = uuid.uuid4().hex
        slots = self._pool.reserve(facts["host"], workers)
        try:
            setup = pickle.dumps(replace(self._setup, slots=slots))
            await self._client.run(agent_host.open_session, session, setup, workers=[name])
            call, round_trip = await self._way_to(name, session)
        except BaseException:
            self._pool.release(facts["host"], slots)
            raise
        link = AgentConnection(self._loop, call)
        return self._pool.add(name, facts["host"], link, slots, round_trip=round_trip), link

    async def _talk(self, name: str, machine: Machine, link: AgentConnection) -> None:
        """Pass messages to and fro until the node's part is over."""

        def take(message: bytes) -> None:
            was_up = machine.is_up
            machine.receive(message)
            if machine.is_up and not was_up and self._members.has(name):
                self._members.joined(name)

        parting = await link.talk(take)
        if self._pool.is_closed:
            return
        if await is_refused(self.address):  # then it is not the node that is to blame
            self._pool.fail(lost(self.address, OSError(), self._plan.checkpoint))
            return
        if not parting.is_over:
            await self._await_end(name, link, take)
        machine.lose(parting.why, is_suspicious=parting.is_suspicious)
        if machine.unfit is not None:
            self._refuse(name, machine.unfit)
        elif self._members.is_in(name):
            self._members.lost(name)
        else:
            self._failed(name, OSError(f"{parting.why} before it was up"))

    async def _await_end(self, name: str, link: AgentConnection, take: Callable[[bytes], None]) -> None:
        """Wait till nothing runs there any more, for then it may run elsewhere: the agent says so, or its node's
        process has gone, or nobody has asked for it till its lease was over."""
        await asyncio.sleep(MOMENT)
        is_silent = time.monotonic() - link.asked > SILENCE  # asking again would only begin its lease anew
        if not is_silent and not await is_refused(name) and await link.leave(pack("stop"), take):
            return
        while time.monotonic() < link.asked + LEASE and not await is_refused(name):
            await asyncio.sleep(MOMENT)
        await asyncio.sleep(SLACK)

    def _failed(self, name: str, error: Exception) -> None:
        """A node could not join; it may be able to later, unless it lacks batchmill."""
        if "No module named 'batchmill" in str(error):  # a text is all that Dask leaves of what it was
            remedy = f"install it there: pip install batchmill=={__version__}"
            self._refuse(name, ClusterUnfit(f"worker {name} has no batchmill", remedy))
        elif self._members.has(name):  # else it has gone again
            said = f"worker {name} cannot be used: {type(error).__name__}: {error}".rstrip(": ")
            unfit = ClusterUnfit(said, "look at what it has written to its log")
            if self._members.failed(name, time.monotonic(), unfit):
                self._leave_out(unfit)

    def _refuse(self, name: str, error: BatchmillError) -> None:
        if self._members.has(name):
            self._members.refused(name, error)
            self._leave_out(error)

    def _leave_out(self, error: BatchmillError) -> None:
        """Report a refused node as a warning, also in the run's report: otherwise half the cluster could stay idle
        every night unnoticed."""
        self._pool.later(lambda: self._warn(str(error)))

    def _check(self, name: str, facts: dict[str, Any]) -> None:
        """Raise ClusterUnfit for a node that cannot take part; warn of one that may give other results."""
        warning = doubts(name, facts, self._plan)
        if warning:
            self._tell_once(warning)

    # Messages

    async def _way_to(self, name: str, session: str) -> tuple[Call, float]:
        """How to call the agent's host on a node: straight if it can be reached from here, else by way of the
        scheduler; and the least time that this took."""
        call = self._direct(name, session)
        try:
            await asyncio.wait_for(call(), DIRECT)
        except (TimeoutError, OSError):
            call = self._proxied(name, session)
        tries = []
        for _ in range(PINGS):
            begun = time.perf_counter()
            await call()
            tries.append(time.perf_counter() - begun)
        return call, min(tries)

    def _direct(self, name: str, session: str) -> Call:
        async def call(**message: Any) -> dict[str, Any]:
            handler = getattr(self._client.rpc(name), agent_host.HANDLER)
            found: dict[str, Any] = await handler(session=session, **message)
            return found

        return call

    def _proxied(self, name: str, session: str) -> Call:
        async def call(**message: Any) -> dict[str, Any]:
            order = {"op": agent_host.HANDLER, "session": session, **message}
            found: dict[str, Any] = await self._client.scheduler.proxy(worker=name, msg=order)
            return found

        return call


def _agent_setup(plan: Plan) -> AgentSetup:
    """What an agent needs to know of a batch; the user's modules as they are now."""
    worker = replace(plan.worker_setup(1), environ={})
    if isinstance(worker.spec, FunctionSpec):
        spec = anchored(worker.spec)
        script = worker.script and anchored(worker.script)
        worker = replace(worker, spec=spec, init=located(worker.init, spec, worker.directory),
                         end=located(worker.end, spec, worker.directory), script=script)  # fmt: skip
    return AgentSetup(
        slots=range(0),
        worker=worker,
        arguments=plan.arguments(),
        limits=replace(plan.watched, max_items_per_worker=None),
        files=collect(worker.spec, worker.init, worker.end, worker.script),
    )


def doubts(name: str, facts: dict[str, Any], plan: Plan) -> str:
    """What is to be said of a node that may give other results, by what agent_host.describe says of it; raises
    ClusterUnfit for one that cannot take part."""
    if facts["batchmill"] != __version__:
        remedy = f"install the same there: pip install batchmill=={__version__}"
        raise ClusterUnfit(f"worker {name} has batchmill {facts['batchmill']}, and this is {__version__}", remedy)
    own = agent_host.describe()
    ours, theirs = ((one["implementation"], *one["python"].split(".")[:2]) for one in (own, facts))
    if theirs == ours:
        return ""
    said = f"worker {name} has {_python(facts)}, and this is {_python(own)}"
    if any(isinstance(spec, FunctionSpec) and spec.kind == "pickle" for spec in (plan.spec, plan.init, plan.end)):
        raise ClusterUnfit(f"{said}: functions sent by value need the same", "name the function, or use one Python")
    return f"Warning: {said}; results may differ"


def _python(facts: dict[str, Any]) -> str:
    """A Python as people know it."""
    name = str(facts["implementation"])
    return f"{'Python' if name == 'cpython' else name} {facts['python']}"

"""Workers on a Dask cluster. Imported only when one is asked for.

    backend          who is there, an agent on each node (a Dask worker), messages to and fro (start here)
    membership       which nodes take part, and with how many workers: the state table
    dask_client      the way to the scheduler; `connection`: to one agent
    remote_pool      the workers of all nodes, as a pool; `remote_executor`, `remote_limits`, `remote_output`
    protocol         the messages between a run and its agents
    agent_host       in a node's process: starts an agent, passes messages on
    agent            beside the node: has its workers (`python -m batchmill.cluster.agent`); `waiting_calls`: for them

May import: ground, system, files, plan, scheduler, pool, worker, output.
"""

__all__ = ["backend"]

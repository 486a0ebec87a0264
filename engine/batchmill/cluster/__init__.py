"""Workers on a Dask cluster. Imported only when one is asked for.

    In the parent:      backend (who is there, an agent on each node), membership (who takes part), connection (to an
                        agent), dask_client, remote_pool (its workers; `remote_executor`, `remote_limits`)
    In a Dask worker:   agent_host
    On the node:        agent (`python -m batchmill.cluster.agent`)
    Between them:       protocol, remote_output

May import: ground, system, plan, scheduler, pool, worker, output.
"""

__all__ = ["backend"]

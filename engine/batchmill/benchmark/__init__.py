"""Which worker count suits a function and its input.

    benchmark   a survey, from its arguments to its findings (start here)
    schedule    which worker count is measured when, and how long
    round       one measurement: the scheduler's own loop on the workers of `warm_pool`
    sample      records chosen evenly from the input
    scaling     what the measurements mean: a fitted law, a choice, doubts
    agreement   whether results agree between worker counts

May import: ground, system, plan, scheduler, pool, worker, checkpoint, input, codec.
"""

__all__ = ["benchmark", "sample", "scaling", "schedule"]

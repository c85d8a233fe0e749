"""Whole nodes in virtual time: the real driver, state machine, sessions, relay and callers, on one event loop.

    timeline.py    the loop, on which an hour takes no longer than what happens in it, and clocks that disagree
    storage.py     a disk that takes its time, and loses what it had not finished when its node crashes
    stage.py       machines with a node and processes each, the network between them, and what goes wrong
    actors.py      what the processes do, and what they must never see
    run.py         one run, from a seed

The simulation beside it proves the core under far more faults; this is about what stands on the core. The leader's
clock, leases over a change of leaders, requests that share an entry, a client's numbers over the life of many nodes.
"""

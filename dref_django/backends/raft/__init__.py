"""The embedded Raft back end: Django processes that keep the state themselves, replicated over their hosts.

    backend.py -> caller.py -> attachment.py -> link.py ... guests.py -> node.py     a process that is a client
                                             -> host.py ---------------> node.py     the process that hosts the node
    node.py    -> driver.py -> core/  storage.py  machine.py                         what is decided, kept, applied
               -> network.py -> founding.py  links.py  transport.py                  the other nodes
               -> relay.py   -> the leader's node.py

To read it in order: `machine.py` and `sessions.py` (what is replicated), `core/` (how), `driver.py`, `calls.py`,
`caller.py`, `node.py`, `attachment.py`, `network.py`.
"""

"""Stories of the protocol, as scripts: `> command` lines, and below each what the nodes then do.

`python -m tests.raft.scripts` plays all of them again and writes down what happens; the test only compares.

    nodes a b c                found a cluster
    log a 1 1 4 [@5]           (instead) a disk: the terms of a node's entries, and its own term; then `start`
    start                      start all nodes that are down
    new d                      start a node that belongs to no cluster
    tick a [5]                 time goes on for one node; without a word from a leader for 12 ticks, a campaigns (b: 13)
    elect a                    nobody heard from a leader for long, a is the first to act, and only votes travel
    run                        deliver messages until there are none
    deliver a->b [Append]      deliver what is under way on this link (of this kind), and nothing else
    drop a->b [Append]         lose it (a->*: whoever it is for)
    hold a->b [Append]         keep it back; `copy` delivers it and keeps a copy; `release` delivers all that was kept
    cut a [b]                  nothing goes through between a and b, or a and everyone; `heal` ends it
    propose a text             and: read a context ...; transfer a b; compact a [keep]; add, promote, remove: a node
    crash a / restart a        the disk stays
    stall a / sync a           writes of a do not reach the disk / now they do; a crash loses them
    logs / status / values     the terms in the logs, how far committed / who is what / what was applied
    curtain                    the end; another story
"""

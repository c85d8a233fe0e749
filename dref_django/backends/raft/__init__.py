"""The embedded Raft back end: Django processes that keep the state themselves, replicated over their hosts."""

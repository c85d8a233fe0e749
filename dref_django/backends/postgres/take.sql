-- One Acquire by the short way: the lease is free, and nobody waits for it or the owner is next. $1 space, $2 now,
-- $3 session, $4 name, $5 owner, $6 ttl, $7 meta, $8 key. No row comes back otherwise; when the key cannot be had, it is an
-- error. The key is taken with the row locked, when nothing else can fail: see dref_leases(), which does the rest.
UPDATE dref_lease AS l SET owner = $5, meta = $7, session = $3, token = greatest(l.token + 1, dref_now($2)),
    since = dref_now($2), deadline = dref_now($2) + $6, waiters = l.waiters[2:], expiries = l.expiries[2:]
WHERE l.space = $1 AND l.name = $4 AND l.deadline <= dref_now($2)
    AND (l.waiters = '{}' OR l.waiters[1] = $5 AND l.expiries[1] > dref_now($2))
RETURNING l.token, CASE WHEN pg_try_advisory_lock($8) THEN true ELSE dref_no_key() END

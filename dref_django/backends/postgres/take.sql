-- One Acquire by the short way: the lease is free, and nobody waits for it or the owner is next. $1 space, $2 now,
-- $3 session, $4 name, $5 owner, $6 ttl, $7 meta, $8 key. No row comes back otherwise; when the key cannot be had, it is an
-- error. The key comes last, with the row locked, when nothing else can fail: see dref_leases(), which does the rest.
WITH taken AS (
    UPDATE dref_lease AS l SET owner = $5, meta = $7, since = n.now, deadline = n.now + $6, session = $3,
        token = greatest(l.token + 1, n.now), backed = greatest(l.token + 1, n.now),
        waiters = l.waiters[2:], expiries = l.expiries[2:]
    FROM (SELECT dref_now($2) AS now OFFSET 0) AS n
    WHERE l.space = $1 AND l.name = $4 AND l.deadline <= n.now
        AND (l.waiters = '{}' OR l.waiters[1] = $5 AND l.expiries[1] > n.now)
    RETURNING l.token
)
SELECT t.token, CASE WHEN pg_try_advisory_lock($8) THEN true ELSE dref_no_key() END FROM taken AS t

-- A page of leases: $1 space, $2 prefix, $3 first name that the prefix does not have (NULL: none), $4 after, $5 limit,
-- $6 now. Free ones without waiters come back, too (left is NULL): they count for the cursor. A lease whose session is
-- gone is free.
WITH held AS (
    SELECT k.classid::bigint << 32 | k.objid::bigint AS key
    FROM pg_locks AS k
    WHERE k.locktype = 'advisory' AND k.objsubid = 1 AND k.granted
        AND k.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
)
SELECT p.name, CASE WHEN p.deadline > n.now THEN p.owner ELSE '' END, p.token, p.since,
    CASE WHEN p.deadline > n.now OR w.waiters IS NOT NULL THEN greatest(p.deadline - n.now, 0) END,
    CASE WHEN p.deadline > n.now THEN p.meta ELSE '' END, coalesce(w.waiters, '{}')
FROM (SELECT dref_now($6) AS now OFFSET 0) AS n
CROSS JOIN (
    SELECT e.name, e.owner, e.token, e.since, e.meta, e.waiters, e.expiries,
        CASE WHEN e.owner <> '' AND e.session <> 0 AND dref_key($1, e.name) NOT IN (SELECT key FROM held)
            THEN 0 ELSE e.deadline END AS deadline
    FROM dref_lease AS e
    WHERE e.space = $1 AND e.name > $4 AND e.name >= $2 AND ($3 IS NULL OR e.name < $3)
    ORDER BY e.name LIMIT $5
) AS p
CROSS JOIN LATERAL (
    SELECT array_agg(q.waiter ORDER BY q.place) AS waiters
    FROM unnest(p.waiters, p.expiries) WITH ORDINALITY AS q (waiter, expiry, place) WHERE q.expiry > n.now
) AS w
ORDER BY p.name

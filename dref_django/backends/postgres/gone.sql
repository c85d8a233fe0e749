-- Which of some leases are taken though the sessions that back them have ended: $1 space, $2 names, $3 now. One look at
-- the server's locks for all of them.
SELECT l.name
FROM dref_lease AS l
WHERE l.space = $1 AND l.name = ANY ($2) AND l.owner <> '' AND l.session <> 0 AND l.deadline > dref_now($3)
    AND dref_key($1, l.name) NOT IN (
        SELECT k.classid::bigint << 32 | k.objid::bigint
        FROM pg_locks AS k
        WHERE k.locktype = 'advisory' AND k.objsubid = 1 AND k.granted
            AND k.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))

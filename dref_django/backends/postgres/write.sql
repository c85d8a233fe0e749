-- An unconditional Write in one statement: $1 space, $2 name, $3 integer or $4 bytes, $5 ttl, $6 keep the deadline,
-- $7 op id, $8 now. As flat as add.sql; no row comes back when there is no value but a row lies there.
INSERT INTO dref_entry AS e (space, name, num, data, version, deadline, op)
VALUES (
    $1, $2, $3, $4, greatest(1, coalesce($8, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)),
    CASE WHEN $5 IS NOT NULL THEN dref_now($8) + $5 END, $7
)
ON CONFLICT (space, name) DO UPDATE SET
    num = $3,
    data = $4,
    version = greatest(e.version + 1, coalesce($8, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)),
    base = e.version,
    existed = true,
    deadline = CASE WHEN $6 THEN e.deadline WHEN $5 IS NOT NULL THEN dref_now($8) + $5 END,
    op = $7,
    result = 1,
    ring = CASE
        WHEN e.op = '' THEN substr(e.ring, greatest(1, length(e.ring) - 167))
        ELSE substr(e.ring, greatest(1, length(e.ring) - 143)) || e.op || int8send(e.version) || int8send(e.result)
    END
WHERE e.deadline IS NULL OR (e.num IS NOT NULL OR e.data IS NOT NULL) AND e.deadline > dref_now($8)
RETURNING version, base, existed, CASE WHEN deadline IS NOT NULL THEN deadline - dref_now($8) END

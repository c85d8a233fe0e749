-- Add in one statement: $1 space, $2 name, $3 amount, $4 initial, $5 op id, $6 now. The plan is kept as flat as a plain
-- upsert: a subquery here costs as much as the rest. No row comes back when bytes are stored, or nothing is but a
-- row lies there, and the sum may overflow: then dref_one() finds the exact answer.
INSERT INTO dref_entry AS e (space, name, num, version, op, result)
VALUES ($1, $2, $4 + $3, greatest(1, coalesce($6, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)), $5, $4 + $3)
ON CONFLICT (space, name) DO UPDATE SET
    num = e.num + $3,
    version = greatest(e.version + 1, coalesce($6, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)),
    base = e.version,
    existed = true,
    op = $5,
    result = e.num + $3,
    ring = CASE
        WHEN e.op = '' THEN substr(e.ring, greatest(1, length(e.ring) - 167))
        ELSE substr(e.ring, greatest(1, length(e.ring) - 143)) || e.op || int8send(e.version) || int8send(e.result)
    END
WHERE e.num IS NOT NULL AND (e.deadline IS NULL OR e.deadline > dref_now($6))
RETURNING num, version, base, existed, CASE WHEN deadline IS NOT NULL THEN deadline - dref_now($6) END

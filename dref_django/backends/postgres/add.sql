-- Add in one statement: $1 space, $2 name, $3 amount, $4 initial, $5 op id, $6 now.
-- No row comes back when bytes are stored, and the sum may overflow: dref_one() then finds the exact answer.
INSERT INTO dref_entry AS e (space, name, num, version, base, existed, ring)
SELECT $1, $2, $4 + $3, greatest(1, n.now), 0, false, dref_mark('', $5, greatest(1, n.now), $4 + $3)
FROM (SELECT dref_now($6) AS now OFFSET 0) AS n
ON CONFLICT (space, name) DO UPDATE SET (num, data, version, base, existed, deadline, ring) = (
    SELECT t.total, NULL::bytea, t.version, t.base, t.live, CASE WHEN t.live THEN e.deadline END,
        dref_mark(CASE WHEN t.base = 0 THEN '' ELSE e.ring END, $5, t.version, t.total)
    FROM (
        SELECT v.live, v.base, greatest(v.base + 1, v.now) AS version, CASE WHEN v.live THEN e.num ELSE $4 END + $3 AS total
        FROM (
            SELECT n.now, e.deadline IS NULL OR e.deadline > n.now AND e.num IS NOT NULL AS live,
                CASE
                    WHEN e.deadline IS NULL OR e.deadline > n.now AND e.num IS NOT NULL THEN e.version
                    WHEN e.deadline + 3600000000 <= n.now THEN 0
                    ELSE e.version + (e.num IS NOT NULL)::integer
                END AS base
            FROM (SELECT dref_now($6) AS now OFFSET 0) AS n
        ) AS v
    ) AS t
)
WHERE e.data IS NULL
RETURNING num, version, base, existed, deadline - dref_now($6)

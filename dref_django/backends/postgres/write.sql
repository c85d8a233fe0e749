-- An unconditional Write in one statement: $1 space, $2 name, $3 integer or $4 bytes, $5 ttl, $6 keep the deadline,
-- $7 op id, $8 now.
INSERT INTO dref_entry AS e (space, name, num, data, version, base, existed, deadline, ring)
SELECT $1, $2, $3, $4, greatest(1, n.now), 0, false, n.now + $5, dref_mark('', $7, greatest(1, n.now), 0)
FROM (SELECT dref_now($8) AS now OFFSET 0) AS n
ON CONFLICT (space, name) DO UPDATE SET (num, data, version, base, existed, deadline, ring) = (
    SELECT $3, $4, t.version, t.base, t.live, CASE WHEN $6 AND t.live THEN e.deadline ELSE t.now + $5 END,
        dref_mark(CASE WHEN t.base = 0 THEN '' ELSE e.ring END, $7, t.version, t.live::integer)
    FROM (
        SELECT v.now, v.live, v.base, greatest(v.base + 1, v.now) AS version
        FROM (
            SELECT n.now, e.deadline IS NULL OR e.deadline > n.now AND (e.num IS NOT NULL OR e.data IS NOT NULL) AS live,
                CASE
                    WHEN e.deadline IS NULL OR e.deadline > n.now AND (e.num IS NOT NULL OR e.data IS NOT NULL) THEN e.version
                    WHEN e.deadline + 3600000000 <= n.now THEN 0
                    ELSE e.version + (e.num IS NOT NULL OR e.data IS NOT NULL)::integer
                END AS base
            FROM (SELECT dref_now($8) AS now OFFSET 0) AS n
        ) AS v
    ) AS t
)
RETURNING version, base, existed, deadline - dref_now($8)

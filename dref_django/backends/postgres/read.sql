-- Read: $1 space, $2 name, $3 now. No row: never seen.
SELECT CASE WHEN v.live THEN e.num END, CASE WHEN v.live THEN e.data END,
    e.version + (NOT v.live AND (e.num IS NOT NULL OR e.data IS NOT NULL))::integer, v.live,
    CASE WHEN v.live THEN e.deadline - n.now END
FROM dref_entry AS e
CROSS JOIN LATERAL (SELECT CASE WHEN e.deadline IS NULL THEN 0 ELSE dref_now($3) END AS now OFFSET 0) AS n
CROSS JOIN LATERAL (
    SELECT e.deadline IS NULL OR e.deadline > n.now AND (e.num IS NOT NULL OR e.data IS NOT NULL) AS live
) AS v
WHERE e.space = $1 AND e.name = $2 AND (v.live OR e.deadline + 3600000000 > n.now)

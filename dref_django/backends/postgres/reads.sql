-- Reads and Finds ($5: send the ring), one round trip: $1 space, $2 names, $3 known versions, $4 now. A row a name, in their order.
SELECT
    CASE WHEN t.live AND w.known IS DISTINCT FROM t.version AND NOT w.find THEN t.num END,
    CASE WHEN t.live AND w.known IS DISTINCT FROM t.version AND NOT w.find THEN t.data END,
    coalesce(t.version, 0), coalesce(t.live, false), CASE WHEN t.live THEN t.deadline - n.now END,
    CASE WHEN w.find THEN t.ring ELSE '' END
FROM (SELECT dref_now($4) AS now OFFSET 0) AS n
CROSS JOIN unnest($2, $3, $5) WITH ORDINALITY AS w (name, known, find, place)
LEFT JOIN LATERAL (
    SELECT e.num, e.data, e.deadline, dref_marks(e) AS ring, v.live,
        e.version + (NOT v.live AND (e.num IS NOT NULL OR e.data IS NOT NULL))::integer AS version
    FROM dref_entry AS e
    CROSS JOIN LATERAL (
        SELECT e.deadline IS NULL OR e.deadline > n.now AND (e.num IS NOT NULL OR e.data IS NOT NULL) AS live
    ) AS v
    WHERE e.space = $1 AND e.name = w.name AND (v.live OR e.deadline + 3600000000 > n.now)
) AS t ON true
ORDER BY w.place

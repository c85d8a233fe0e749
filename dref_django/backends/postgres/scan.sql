-- A page of names: $1 space, $2 prefix, $3 first name that the prefix does not have (NULL: none), $4 after, $5 limit,
-- $6 whether to send values, $7 now. Dead entries come back as rows, too (live is false): they count for the cursor.
SELECT p.name, p.version, CASE WHEN p.num IS NULL THEN length(p.data) ELSE 8 END, p.deadline - n.now,
    CASE WHEN $6 THEN p.num END, CASE WHEN $6 THEN p.data END,
    p.deadline IS NULL OR p.deadline > n.now AND (p.num IS NOT NULL OR p.data IS NOT NULL) AS live
FROM (SELECT dref_now($7) AS now OFFSET 0) AS n
CROSS JOIN (
    SELECT * FROM dref_entry AS e
    WHERE e.space = $1 AND e.name > $4 AND e.name >= $2 AND ($3 IS NULL OR e.name < $3)
    ORDER BY e.name LIMIT $5
) AS p
ORDER BY p.name

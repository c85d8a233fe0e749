-- Renews leases that this session backs, all at once: $1 space, $2 now, then arrays of $3 names (each once), $4 owners,
-- $5 tokens, $6 ttls. A row for each: whether it was renewed, and the token. The rows are locked in the order of names,
-- as everywhere.
WITH asked AS (
    SELECT * FROM unnest($3, $4, $5, $6) WITH ORDINALITY AS u (name, owner, token, ttl, place)
), locked AS (
    SELECT a.* FROM dref_lease AS l
    JOIN asked AS a ON l.name = a.name AND l.owner = a.owner AND l.token = a.token
    WHERE l.space = $1
    ORDER BY l.name FOR NO KEY UPDATE OF l
), renewed AS (
    UPDATE dref_lease AS l SET deadline = dref_now($2) + k.ttl FROM locked AS k
    WHERE l.space = $1 AND l.name = k.name AND l.owner = k.owner AND l.token = k.token
        AND l.deadline > dref_now($2)
    RETURNING k.place
)
SELECT r.place IS NOT NULL, coalesce(l.token, 0)
FROM asked AS a
LEFT JOIN renewed AS r ON r.place = a.place
LEFT JOIN dref_lease AS l ON l.space = $1 AND l.name = a.name
ORDER BY a.place

-- Up to 8 Adds of one name, one after the other, in one statement: $1 space, $2 name, $3 how many, $4 the sums of the first,
-- the first two ... of the amounts, $5 all op ids but the last, $6 their sum, $7 the last op id, $8 now. No row comes back
-- when there is no integer, an error when one of the sums does not fit: then dref_batch() finds the exact answer. The
-- first has the version that it would have alone, each of the others the next one; base is the one before all of them.
UPDATE dref_entry AS e SET
    num = e.num + $6,
    version = greatest(e.version, n.now - 1) + $3,
    base = e.version,
    existed = true,
    op = $7,
    result = e.num + $6,
    ring = substr(dref_marks(e), greatest(1, length(dref_marks(e)) + 1 - 24 * (8 - $3::integer))) || (
        SELECT string_agg(u.op || int8send(greatest(e.version, n.now - 1) + u.place) || int8send(e.num + u.part), '' ORDER BY u.place)
        FROM unnest($5, $4) WITH ORDINALITY AS u (op, part, place)
    )
FROM (SELECT dref_now($8) AS now OFFSET 0) AS n
WHERE e.space = $1 AND e.name = $2 AND e.num IS NOT NULL AND (e.deadline IS NULL OR e.deadline > dref_now($8))
RETURNING e.num, e.version, e.base, CASE WHEN e.deadline IS NOT NULL THEN e.deadline - dref_now($8) END

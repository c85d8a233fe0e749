-- One Release by the short way: the lease is held, and nobody waits for it or who comes first is next. $1 space, $2 now,
-- $3 name, $4 owner, $5 token, $6 keep, $7 what the owners of this process start with, $8 whether one of them is to be
-- next or one of the others, $9 key, $10 whether it is given back, $11 what the channels of processes start with. No row
-- comes back otherwise; else token and who is next. Of another process, he is notified by the same commit (channels.py).
UPDATE dref_lease AS l SET owner = '', meta = '', deadline = CASE WHEN $6 > 0 THEN dref_now($2) + $6 ELSE 0 END,
    expiries = CASE WHEN l.waiters = '{}' THEN '{}' ELSE least(l.expiries[1], dref_now($2) + 1000000) || l.expiries[2:] END
WHERE l.space = $1 AND l.name = $3 AND l.owner = $4 AND l.owner <> '' AND $5 IN (0, l.token) AND l.deadline > dref_now($2)
    AND (l.waiters = '{}' OR $6 = 0 AND l.expiries[1] > dref_now($2)
        AND (cardinality(l.waiters) = 1 OR starts_with(l.waiters[1], $7) = $8))
RETURNING l.token, l.waiters[1], CASE WHEN $10 THEN pg_advisory_unlock($9) END,
    CASE WHEN NOT starts_with(l.waiters[1], $7) THEN pg_notify(
        $11 || left(encode(sha256(convert_to(split_part(l.waiters[1], '/', 1), 'UTF8')), 'hex'), 24),
        l.waiters[1] || ' ' || l.name) END

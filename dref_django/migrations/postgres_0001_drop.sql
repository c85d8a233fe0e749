DROP FUNCTION dref_epoch(), dref_sweep(integer);
DROP FUNCTION dref_no_key();
DROP FUNCTION dref_leases(
    text, bigint, bigint, text, smallint[], text[], text[], bigint[], bigint[], bigint[], text[], boolean[], boolean[]
);
DROP FUNCTION dref_key_is_held(bigint), dref_key(text, text);
DROP FUNCTION dref_batch(
    text, bigint, smallint[], text[], bigint[], bytea[], bigint[], bigint[], bigint[], bigint[], bigint[], boolean[], bytea[]
);
DROP FUNCTION dref_one(
    text, bigint, smallint, text, bigint, bytea, bigint, bigint, bigint, bigint, bigint, boolean, bytea
);
DROP FUNCTION dref_marks(dref_entry), dref_now(bigint);
DROP TABLE dref_lease, dref_entry, dref_meta;

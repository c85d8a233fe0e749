DROP FUNCTION dref_epoch(), dref_sweep(integer);
DROP FUNCTION dref_leases(text, bigint, smallint[], text[], text[], bigint[], bigint[], bigint[], text[]);
DROP FUNCTION dref_batch(
    text, bigint, smallint[], text[], bigint[], bytea[], bigint[], bigint[], bigint[], bigint[], bigint[], boolean[], bytea[]
);
DROP FUNCTION dref_one(
    text, bigint, smallint, text, bigint, bytea, bigint, bigint, bigint, bigint, bigint, boolean, bytea
);
DROP FUNCTION dref_marks(dref_entry), dref_now(bigint);
DROP TABLE dref_lease, dref_entry, dref_meta;

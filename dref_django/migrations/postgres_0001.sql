-- Layout 1: tables and functions of the PostgreSQL back end. Run by migration 0001 and never changed afterwards; what
-- changes later gets a file and a migration of its own.
--
-- What the commands mean is written in store.py and leases.py; these functions agree with them command by command.
-- Times are microseconds since 1970. p_now replaces the server's clock (NULL in production), which is otherwise read
-- after the row is locked: an operation that waited for the row sees it as it is then.

CREATE TABLE dref_meta (
    key text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO dref_meta (key, value) VALUES
    ('layout', '1'),
    ('marker', md5(random()::text || clock_timestamp()::text || pg_backend_pid()::text));

-- One row a name. num: an integer; data: anything else, encoded; both NULL: deleted (kept an hour as a grave).
CREATE TABLE dref_entry (
    space text COLLATE "C" NOT NULL,     -- KEY_PREFIX of the project
    name text COLLATE "C" NOT NULL,      -- "C" is the order of code points
    num bigint,
    data bytea,
    version bigint NOT NULL,
    base bigint NOT NULL DEFAULT 0,      -- the version before
    existed boolean NOT NULL DEFAULT false,  -- whether there was a value before this version
    deadline bigint,                     -- end of life; of a deleted entry the time of its deletion; NULL: lives for ever
    op bytea NOT NULL DEFAULT '',        -- op id of the mutation that made this version, 8 bytes; '': it had none
    result bigint NOT NULL DEFAULT 0,    -- and its result: the sum of an Add, else whether there was a value before
    ring bytea NOT NULL DEFAULT '',      -- earlier mutations, 24 bytes each: op id, version, result; 8 with this one
    PRIMARY KEY (space, name)
) WITH (fillfactor = 50);                -- room for updates within the page (HOT), which leave the index alone
ALTER TABLE dref_entry ALTER COLUMN data SET STORAGE EXTERNAL;  -- compressing 100 KB costs 3 ms a write
ALTER TABLE dref_entry ALTER COLUMN ring SET STORAGE PLAIN, ALTER COLUMN op SET STORAGE PLAIN;
CREATE INDEX dref_entry_deadline ON dref_entry (deadline) WHERE deadline IS NOT NULL;

CREATE TABLE dref_lease (
    space text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    owner text NOT NULL DEFAULT '',      -- '': free, or kept by nobody until the deadline
    token bigint NOT NULL DEFAULT 0,     -- the fencing token of the last acquisition
    since bigint NOT NULL DEFAULT 0,
    deadline bigint NOT NULL DEFAULT 0,
    meta text NOT NULL DEFAULT '',
    waiters text[] NOT NULL DEFAULT '{}',      -- the queue, first come first
    expiries bigint[] NOT NULL DEFAULT '{}',   -- until when each of them waits
    session bigint NOT NULL DEFAULT 0,   -- the session whose advisory lock backs it while it is held; 0: none
    PRIMARY KEY (space, name)
) WITH (fillfactor = 50);

CREATE FUNCTION dref_now(p_now bigint) RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT coalesce(p_now, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)  -- extract() is numeric, and slow
$$;

-- The marks of all remembered mutations, oldest first.
CREATE FUNCTION dref_marks(e dref_entry) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN e.op = '' THEN e.ring ELSE e.ring || e.op || int8send(e.version) || int8send(e.result) END
$$;

-- One command on one entry. Kinds: 1 Read, 2 Check, 3 Write, 4 Add, 5 Delete, 6 Expire, 7 Find.
-- p_expect is Read's `known` too. A splice replaces bytes p_start to p_stop by p_data. r_status is protocol.Status.
CREATE FUNCTION dref_one(
    p_space text, p_now bigint, p_kind smallint, p_name text, p_num bigint, p_data bytea, p_start bigint, p_stop bigint,
    p_initial bigint, p_expect bigint, p_ttl bigint, p_keep boolean, p_op bytea,
    OUT r_status smallint, OUT r_num bigint, OUT r_data bytea, OUT r_version bigint, OUT r_base bigint,
    OUT r_existed boolean, OUT r_left bigint, OUT r_ring bytea
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    e dref_entry;
    v_known boolean;
    v_now bigint;
    v_live boolean;
    v_ring bytea;
    v_result bigint;
    v_total numeric;
    v_size bigint;
BEGIN
    -- A condition that does not hold now needs no lock, and so no flush to the disk: versions only rise.
    v_known := p_kind <= 2 OR p_kind = 7 OR coalesce(p_expect > 0, false) AND NOT EXISTS (
        SELECT FROM dref_entry t WHERE t.space = p_space AND t.name = p_name AND t.version = p_expect);
    LOOP
        IF v_known THEN
            SELECT * INTO e FROM dref_entry t WHERE t.space = p_space AND t.name = p_name;
        ELSE
            SELECT * INTO e FROM dref_entry t WHERE t.space = p_space AND t.name = p_name FOR NO KEY UPDATE;
        END IF;
        v_now := dref_now(p_now);

        -- The entry as it stands at v_now.
        r_num := NULL; r_data := NULL; r_left := NULL; r_ring := NULL; v_ring := ''; r_version := 0; v_live := false;
        IF e.version IS NOT NULL THEN
            IF e.deadline IS NULL OR e.deadline > v_now AND (e.num IS NOT NULL OR e.data IS NOT NULL) THEN
                v_live := true;
                r_num := e.num; r_data := e.data; r_version := e.version; v_ring := dref_marks(e);
                r_left := e.deadline - v_now;
            ELSIF e.deadline + 3600000000 > v_now THEN
                r_version := e.version + (e.num IS NOT NULL OR e.data IS NOT NULL)::integer;
                v_ring := dref_marks(e);
            END IF;
        END IF;
        r_base := r_version;
        r_existed := v_live;
        r_status := 0;

        -- Refusals; each answers with the current value.
        IF p_kind = 1 THEN
            IF p_expect = r_version THEN
                r_status := 8; r_num := NULL; r_data := NULL;
            END IF;
            RETURN;
        ELSIF p_kind = 7 THEN
            r_ring := v_ring; r_num := NULL; r_data := NULL;
            RETURN;
        ELSIF p_expect IS NOT NULL AND p_kind <= 5
              AND (CASE WHEN p_expect = 0 THEN v_live ELSE NOT v_live OR r_version <> p_expect END) THEN
            r_status := 1;
            RETURN;
        ELSIF p_kind = 2 THEN
            r_num := NULL; r_data := NULL;
            RETURN;
        ELSIF p_kind = 3 AND p_start IS NOT NULL THEN
            v_size := length(r_data);
            IF v_size IS NULL OR p_start < 0 OR p_start > p_stop OR p_stop > v_size THEN
                r_status := 3;
                RETURN;
            END IF;
        ELSIF p_kind = 4 THEN
            IF r_data IS NOT NULL THEN
                r_status := 3;
                RETURN;
            END IF;
            v_total := coalesce(r_num, p_initial)::numeric + p_num;
            IF v_total NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
                r_status := 2;
                RETURN;
            END IF;
        ELSIF p_kind = 5 AND NOT v_live THEN
            RETURN;
        ELSIF p_kind = 6 AND NOT v_live THEN
            r_status := 1;
            RETURN;
        END IF;

        -- The condition came true meanwhile: change nothing without the row's lock.
        IF v_known THEN
            v_known := false;
            CONTINUE;
        END IF;

        -- The change.
        r_version := greatest(r_version + 1, v_now);
        CASE p_kind
        WHEN 3 THEN
            r_num := p_num;
            IF p_start IS NULL THEN
                r_data := p_data;
            ELSE
                r_data := substr(e.data, 1, p_start::integer) || p_data || substr(e.data, p_stop::integer + 1);
            END IF;
            IF NOT p_keep THEN
                r_left := p_ttl;
            END IF;
        WHEN 4 THEN
            r_num := v_total::bigint;
        WHEN 5 THEN
            r_num := NULL; r_data := NULL; r_left := 0;
        WHEN 6 THEN
            r_left := p_ttl;
        END CASE;
        v_result := CASE WHEN p_kind = 4 THEN r_num ELSE v_live::integer END;
        IF p_op <> '' THEN
            v_ring := substr(v_ring, greatest(1, length(v_ring) - 167));
        END IF;
        IF e.version IS NOT NULL AND p_kind = 6 THEN
            UPDATE dref_entry t SET version = r_version, base = r_base, existed = true, deadline = v_now + r_left,
                op = p_op, result = v_result, ring = v_ring
            WHERE t.space = p_space AND t.name = p_name;
            r_data := NULL;
            RETURN;
        ELSIF e.version IS NOT NULL THEN
            UPDATE dref_entry t SET num = r_num, data = r_data, version = r_version, base = r_base, existed = v_live,
                deadline = v_now + r_left, op = p_op, result = v_result, ring = v_ring
            WHERE t.space = p_space AND t.name = p_name;
        ELSE
            INSERT INTO dref_entry (space, name, num, data, version, base, existed, deadline, op, result, ring)
            VALUES (p_space, p_name, r_num, r_data, r_version, 0, false, v_now + r_left, p_op, v_result, v_ring)
            ON CONFLICT DO NOTHING;
        END IF;
        IF FOUND THEN
            r_data := NULL;
            IF p_kind = 3 THEN
                r_num := NULL;
            END IF;
            RETURN;
        END IF;
        -- Somebody made or removed the row meanwhile: look again.
    END LOOP;
END
$$;

-- Several commands, all or nothing. When one fails, its row is the last one and nothing is kept; r_place counts from 1.
CREATE FUNCTION dref_batch(
    p_space text, p_now bigint, p_kind smallint[], p_name text[], p_num bigint[], p_data bytea[], p_start bigint[],
    p_stop bigint[], p_initial bigint[], p_expect bigint[], p_ttl bigint[], p_keep boolean[], p_op bytea[]
) RETURNS TABLE (
    r_place integer, r_status smallint, r_num bigint, r_data bytea, r_version bigint, r_base bigint, r_existed boolean,
    r_left bigint, r_ring bytea
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_name text;
    v_now bigint;
BEGIN
    -- Rows are locked in the order of names, so that two batches never wait for each other. An absent name gets a row
    -- to lock: what a batch found absent stays so until it commits.
    FOR v_name IN SELECT DISTINCT n COLLATE "C" FROM unnest(p_name) AS n ORDER BY 1 LOOP
        LOOP
            PERFORM FROM dref_entry t WHERE t.space = p_space AND t.name = v_name FOR NO KEY UPDATE;
            EXIT WHEN FOUND;
            INSERT INTO dref_entry (space, name, version, deadline) VALUES (p_space, v_name, 0, 0) ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND;
        END LOOP;
    END LOOP;
    v_now := dref_now(p_now);
    BEGIN
        FOR i IN 1 .. cardinality(p_name) LOOP
            SELECT o.* INTO r_status, r_num, r_data, r_version, r_base, r_existed, r_left, r_ring FROM dref_one(
                p_space, v_now, p_kind[i], p_name[i], p_num[i], p_data[i], p_start[i], p_stop[i], p_initial[i],
                p_expect[i], p_ttl[i], p_keep[i], p_op[i]) AS o;
            r_place := i;
            IF r_status IN (1, 2, 3) THEN
                RAISE EXCEPTION USING ERRCODE = 'DREF1';
            END IF;
            RETURN NEXT;
        END LOOP;
    EXCEPTION WHEN SQLSTATE 'DREF1' THEN
        RETURN NEXT;
    END;
    DELETE FROM dref_entry t WHERE t.space = p_space AND t.name = ANY (p_name) AND t.version = 0;
END
$$;

-- The key of the advisory lock behind a lease: the first 8 bytes of a SHA-256, big-endian.
CREATE FUNCTION dref_key(p_space text, p_name text) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ('x' || substr(encode(sha256(convert_to(concat(E'dref_lock\n', p_space, E'\n', p_name), 'UTF8')), 'hex'), 1, 16)
        )::bit(64)::bigint
$$;

-- Whether any session holds it.
CREATE FUNCTION dref_key_is_held(p_key bigint) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT EXISTS (
        SELECT FROM pg_locks AS k
        WHERE k.locktype = 'advisory' AND k.objsubid = 1 AND k.granted
            AND k.classid = (p_key >> 32 & 4294967295)::oid AND k.objid = (p_key & 4294967295)::oid
            AND k.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
$$;

-- Lease commands, each for itself. Kinds: 1 Acquire, 2 Renew, 3 Release, 4 Inspect, 5 Break. p_ttl is Release's `keep`
-- too. Names are taken in their order, so that two batches never wait for each other; r_place counts from 1.
--
-- With p_session, a number of its own for each session, a lease that is granted or renewed is *backed* by an advisory
-- lock of the session that runs this (r_backed says whether that could be had). A lease that another session backs is
-- free as soon as that advisory lock is: the session is gone. Advisory locks change hands only while the row is locked.
-- p_unlock: Release gives the advisory lock back, too, whatever became of the lease. p_node: the waiters whose names
-- start so are this process's own; p_near says whether Release serves the first of them or the first of the others.
CREATE FUNCTION dref_leases(
    p_space text, p_now bigint, p_session bigint, p_node text, p_kind smallint[], p_name text[], p_owner text[],
    p_token bigint[], p_ttl bigint[], p_wait bigint[], p_meta text[], p_unlock boolean[], p_near boolean[]
) RETURNS TABLE (
    r_place integer, r_status smallint, r_left bigint, r_existed boolean, r_token bigint, r_woken text[],
    r_owner text, r_since bigint, r_meta text, r_waiters text[], r_backed boolean
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    c record;
    l dref_lease;
    old dref_lease;
    v_now bigint;
    v_found boolean;
    v_place integer;
    v_queued boolean;
    v_wake boolean;
    v_dead boolean;
    v_backed boolean;
BEGIN
    FOR c IN
        SELECT ordinality::integer AS place, kind, name, owner, token, ttl, wait, meta, unlock, near
        FROM unnest(p_kind, p_name, p_owner, p_token, p_ttl, p_wait, p_meta, p_unlock, p_near) WITH ORDINALITY
            AS u (kind, name, owner, token, ttl, wait, meta, unlock, near, ordinality)
        ORDER BY name COLLATE "C", ordinality
    LOOP
        r_place := c.place; r_status := 0; r_left := NULL; r_existed := false; r_token := 0; r_woken := '{}';
        r_owner := NULL; r_since := NULL; r_meta := NULL; r_waiters := NULL; r_backed := false;
        IF c.kind = 4 THEN
            SELECT * INTO l FROM dref_lease t WHERE t.space = p_space AND t.name = c.name;
        ELSE
            SELECT * INTO l FROM dref_lease t WHERE t.space = p_space AND t.name = c.name FOR NO KEY UPDATE;
            IF NOT FOUND AND c.kind = 1 THEN
                LOOP
                    INSERT INTO dref_lease (space, name) VALUES (p_space, c.name) ON CONFLICT DO NOTHING;
                    SELECT * INTO l FROM dref_lease t WHERE t.space = p_space AND t.name = c.name FOR NO KEY UPDATE;
                    EXIT WHEN FOUND;
                END LOOP;
            END IF;
        END IF;
        v_found := l.name IS NOT NULL;
        v_now := dref_now(p_now);
        IF c.unlock THEN
            PERFORM pg_advisory_unlock(dref_key(p_space, c.name));
        END IF;
        IF v_found AND c.kind <> 4 AND v_now >= 3600000000 +
                greatest(l.deadline, l.token, (SELECT max(x) FROM unnest(l.expiries) AS x)) THEN
            -- Long unused: as if it had never been. The row that was just made counts as that, too.
            old := l;
            l.owner := ''; l.token := 0; l.since := 0; l.deadline := 0; l.meta := ''; l.waiters := '{}'; l.expiries := '{}';
            v_found := c.kind = 1;
        ELSE
            old := l;
        END IF;
        IF NOT v_found THEN
            r_status := CASE c.kind WHEN 2 THEN 6 WHEN 4 THEN 4 ELSE 0 END;
            RETURN NEXT;
            CONTINUE;
        END IF;
        SELECT coalesce(array_agg(w ORDER BY o), '{}'), coalesce(array_agg(x ORDER BY o), '{}')
            INTO l.waiters, l.expiries
            FROM unnest(l.waiters, l.expiries) WITH ORDINALITY AS q (w, x, o) WHERE x > v_now;
        v_wake := false;

        -- A lease ends with the session that backs it. Its owner may still repeat its Acquire on another, or release.
        -- A process has one session, so an earlier one of its own has ended, whatever the server has seen of it.
        v_dead := false;
        IF l.session NOT IN (0, p_session) AND l.deadline > v_now AND l.owner <> ''
                AND NOT (l.owner = c.owner AND c.kind IN (1, 3)) THEN
            IF p_node <> '' AND starts_with(l.owner, p_node) THEN
                v_dead := true;
            ELSIF c.kind = 4 THEN
                v_dead := NOT dref_key_is_held(dref_key(p_space, c.name));
            ELSIF pg_try_advisory_lock(dref_key(p_space, c.name)) THEN
                v_dead := true;
                PERFORM pg_advisory_unlock(dref_key(p_space, c.name));
            END IF;
            IF v_dead THEN
                l.owner := ''; l.meta := '';
                l.deadline := 0;
            END IF;
        END IF;

        IF c.kind = 1 THEN
            IF l.deadline > v_now AND l.owner = c.owner THEN
                l.deadline := v_now + c.ttl;
                r_left := c.ttl;
            ELSIF l.deadline <= v_now AND (l.waiters = '{}' OR l.waiters[1] = c.owner) THEN
                l.waiters := l.waiters[2:]; l.expiries := l.expiries[2:];
                l.owner := c.owner; l.meta := c.meta;
                l.token := greatest(l.token + 1, v_now);
                l.since := v_now; l.deadline := v_now + c.ttl;
                l.session := 0;
                r_left := c.ttl;
            ELSE
                r_status := 5;
                IF c.wait > 0 THEN
                    v_place := array_position(l.waiters, c.owner);
                    IF v_place IS NULL THEN
                        l.waiters := l.waiters || c.owner; l.expiries := l.expiries || (v_now + c.wait);
                    ELSE
                        l.expiries[v_place] := v_now + c.wait;
                    END IF;
                END IF;
                v_wake := l.deadline <= v_now;
                r_left := l.deadline - v_now;
            END IF;
        ELSIF c.kind = 2 THEN
            IF l.owner <> c.owner OR l.token <> c.token OR l.deadline <= v_now
                    OR l.session NOT IN (0, p_session) THEN
                r_status := 6;
                v_wake := v_dead;
            ELSE
                l.deadline := v_now + c.ttl;
                r_left := c.ttl;
            END IF;
        ELSIF c.kind = 3 THEN
            v_place := array_position(l.waiters, c.owner);
            v_queued := v_place IS NOT NULL;
            IF v_queued THEN
                l.waiters := l.waiters[:v_place - 1] || l.waiters[v_place + 1:];
                l.expiries := l.expiries[:v_place - 1] || l.expiries[v_place + 1:];
            END IF;
            r_existed := l.deadline > v_now AND l.owner = c.owner AND c.owner <> '' AND c.token IN (0, l.token);
            IF r_existed THEN
                l.owner := ''; l.meta := '';
                l.deadline := CASE WHEN c.ttl > 0 THEN v_now + c.ttl ELSE 0 END;  -- 0: free whatever the clock says
                IF p_node <> '' THEN
                    v_place := (SELECT o FROM unnest(l.waiters) WITH ORDINALITY AS q (w, o)
                                WHERE starts_with(w, p_node) = c.near ORDER BY o LIMIT 1);
                    IF v_place > 1 THEN
                        l.waiters := l.waiters[v_place] || l.waiters[:v_place - 1] || l.waiters[v_place + 1:];
                        l.expiries := l.expiries[v_place] || l.expiries[:v_place - 1] || l.expiries[v_place + 1:];
                    END IF;
                END IF;
            END IF;
            v_wake := (r_existed OR v_queued) AND l.deadline <= v_now;
        ELSIF c.kind = 5 THEN
            r_existed := l.deadline > v_now AND c.token IN (0, l.token);
            IF r_existed THEN
                IF l.owner <> '' THEN
                    r_woken := ARRAY[l.owner];
                END IF;
                l.owner := ''; l.meta := '';
                l.deadline := 0;
                v_wake := true;
            END IF;
        ELSE
            IF l.deadline <= v_now THEN
                l.owner := ''; l.meta := '';
            END IF;
            r_left := greatest(l.deadline - v_now, 0);
            IF r_left = 0 AND l.waiters = '{}' THEN
                r_status := 4;
            ELSE
                r_owner := l.owner; r_since := l.since; r_meta := l.meta; r_waiters := l.waiters; r_token := l.token;
            END IF;
            RETURN NEXT;
            CONTINUE;
        END IF;

        IF v_wake AND l.waiters <> '{}' THEN
            -- The lease is kept for the first waiter; one that does not come in a second is passed over.
            l.expiries[1] := least(l.expiries[1], v_now + 1000000);
            r_woken := r_woken || l.waiters[1];
            IF c.kind = 1 THEN
                r_left := l.expiries[1] - v_now;
            END IF;
        END IF;
        r_token := l.token;
        r_backed := c.kind <= 2 AND r_status = 0 AND p_session <> 0;
        v_backed := l.session = p_session;  -- already
        IF r_backed THEN
            l.session := p_session;
        END IF;
        IF l IS DISTINCT FROM old THEN
            UPDATE dref_lease t SET owner = l.owner, token = l.token, since = l.since, deadline = l.deadline,
                meta = l.meta, waiters = l.waiters, expiries = l.expiries, session = l.session
            WHERE t.space = p_space AND t.name = c.name;
        END IF;
        -- Last of all, when nothing can fail any more: a failure does not give an advisory lock back.
        IF r_backed AND NOT v_backed AND NOT pg_try_advisory_lock(dref_key(p_space, c.name)) THEN
            -- Another name with the same key, or a session that has lost the lease and does not know: it is a lease
            -- like those of LOCKS = 'lease' then, until a renewal finds the key free.
            r_backed := false;
            UPDATE dref_lease t SET session = 0 WHERE t.space = p_space AND t.name = c.name;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- What take.sql says when the advisory lock is not to be had.
CREATE FUNCTION dref_no_key() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'another session holds the advisory lock' USING ERRCODE = 'DREF2';
END
$$;

-- Garbage collection: removes up to p_limit graves of each table; one session at a time. Returns how many.
CREATE FUNCTION dref_sweep(p_limit integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_buried bigint := dref_now(NULL) - 3600000000;
    v_count integer;
    v_total integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('dref_sweep', 0)) THEN
        RETURN 0;
    END IF;
    DELETE FROM dref_entry t WHERE t.deadline <= v_buried AND (t.space, t.name) IN (
        SELECT g.space, g.name FROM dref_entry g WHERE g.deadline <= v_buried LIMIT p_limit FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS v_total = ROW_COUNT;
    DELETE FROM dref_lease t WHERE (t.space, t.name) IN (
        SELECT g.space, g.name FROM dref_lease g
        WHERE greatest(g.deadline, g.token, (SELECT max(x) FROM unnest(g.expiries) AS x)) <= v_buried
        LIMIT p_limit FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_total + v_count;
END
$$;

-- Another answer means that versions may have gone back: another cluster, another database, a fail-over (timeline).
CREATE FUNCTION dref_epoch() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_system text := '';
    v_timeline text := '';
BEGIN
    BEGIN
        SELECT system_identifier::text INTO v_system FROM pg_control_system();
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN
        NULL;
    END;
    BEGIN
        v_timeline := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
    EXCEPTION WHEN OTHERS THEN  -- refused to this user, or a service without WAL files
        NULL;
    END;
    RETURN concat_ws('-', v_system, v_timeline, (SELECT oid FROM pg_database WHERE datname = current_database()),
        (SELECT value FROM dref_meta WHERE key = 'marker'));
END
$$;

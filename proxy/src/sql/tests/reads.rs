//! What is proven to be a read, and what is not.

use super::*;

#[test]
fn queries_that_change_nothing_are_reads() {
    assert_parsed_route(
        Route::Read,
        &[
            "SELECT 1",
            "select",
            "SELECT 1;",
            ";",
            "",
            "  -- nothing\n",
            "VALUES (1, 'a'), (2, 'b')",
            "TABLE pgbench_accounts",
            "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
            "SELECT count(*), sum(abalance) FILTER (WHERE bid > 1) FROM pgbench_accounts GROUP BY bid HAVING max(aid) > 3 ORDER BY 1 LIMIT 5 OFFSET 2",
            "SELECT row_number() OVER (PARTITION BY a ORDER BY lower(b)), lag(c, 1) OVER w FROM t WINDOW w AS (ORDER BY abs(d))",
            "WITH a AS (SELECT 1), b AS MATERIALIZED (SELECT * FROM a) SELECT * FROM b",
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 10) SELECT * FROM r",
            "SELECT * FROM a JOIN b USING (id) LEFT JOIN LATERAL (SELECT * FROM c WHERE c.x = a.x) d ON true CROSS JOIN generate_series(1, 3)",
            "SELECT * FROM t WHERE x IN (SELECT y FROM u) AND EXISTS (SELECT FROM v) OR z = ANY ($1::int[])",
            "SELECT 1 UNION SELECT 2 EXCEPT SELECT 3 INTERSECT VALUES (4)",
            "(SELECT 1) UNION ALL (SELECT 2 ORDER BY 1) LIMIT 1",
            "SELECT CASE WHEN a > 1 THEN coalesce(b, 0) ELSE greatest(c, nullif(d, 1)) END FROM t",
            "SELECT now(), current_timestamp, current_user, session_user, current_schema(), clock_timestamp(), random(), gen_random_uuid()",
            "SELECT extract(epoch FROM now()), date_trunc('day', ts) AT TIME ZONE 'UTC', substring(a FROM 1 FOR 2), trim(both ' ' from b), position('a' in c), overlay(a placing b from 1) FROM t",
            "SELECT a::text, CAST(b AS numeric(10,2)), c COLLATE \"C\", ARRAY[1,2], ROW(1,2), (t).x, arr[1:2], 'x'::interval FROM t",
            "SELECT '{}'::jsonb -> 'a' ->> 'b', jsonb_build_object('a', 1), json_agg(x), to_jsonb(t) FROM t",
            "SELECT string_agg(DISTINCT a, ',' ORDER BY a), percentile_cont(0.5) WITHIN GROUP (ORDER BY b), mode() WITHIN GROUP (ORDER BY c) FROM t",
            "SELECT GROUPING(a), a, b FROM t GROUP BY GROUPING SETS ((a), CUBE (a, b), ROLLUP (b))",
            "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b NULLS LAST",
            "SELECT pg_catalog.lower('A'), \"pg_catalog\".now()",
            "SELECT * FROM unnest(ARRAY[1,2]) WITH ORDINALITY, ROWS FROM (generate_series(1,2), generate_series(1,3)) AS x(a, b)",
            "SELECT * FROM json_to_recordset('[]') AS x(a int, b text)",
            "SELECT * FROM t TABLESAMPLE SYSTEM (10) REPEATABLE (1)",
            "SELECT * FROM t TABLESAMPLE bernoulli (10)",
            "SELECT xmlelement(name a, xmlattributes(b AS c)), xmlserialize(content x AS text) FROM t",
            "SELECT * FROM XMLTABLE('/a' PASSING x COLUMNS id int PATH '@id')",
            "SELECT pg_is_in_recovery(), inet_server_addr(), pg_backend_pid(), version(), pg_sleep(0.1)",
            "SELECT * FROM pg_stat_activity",
            "SELECT pg_size_pretty(pg_database_size(current_database())), pg_total_relation_size('t')",
            "SELECT current_setting('server_version_num'), has_table_privilege('t', 'select'), to_regclass('t')",
            "SELECT information_schema._pg_expandarray(i.indkey) FROM pg_catalog.pg_index i",
            "SELECT 1; SELECT 2; SHOW work_mem",
            "EXPLAIN SELECT 1",
            "EXPLAIN (FORMAT json, COSTS off) UPDATE t SET a = 1",
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN (ANALYZE false) DELETE FROM t",
            "EXPLAIN (ANALYZE, BUFFERS) SELECT count(*) FROM t",
            "EXPLAIN CREATE TABLE x AS SELECT 1",
            "SHOW transaction_isolation",
            "SHOW ALL",
            "SHOW TIME ZONE",
            "COPY t TO STDOUT",
            "COPY t (a, b) TO STDOUT (FORMAT csv, HEADER)",
            "COPY (SELECT * FROM t) TO STDOUT WITH (FORMAT binary)",
            "BEGIN READ ONLY",
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        ],
    );
}

#[test]
fn everything_else_is_a_write() {
    assert_parsed_route(
        Route::Write,
        &[
            "INSERT INTO t VALUES (1)",
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)",
            "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2",
            "DELETE FROM t USING u WHERE t.a = u.a RETURNING *",
            "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)",
            "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.b WHERE lower(t.b) > 'a'",
            "TRUNCATE t",
            "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d",
            "SELECT * FROM (WITH d AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM d) x",
            "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
            "SELECT * FROM t FOR UPDATE",
            "SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED",
            "SELECT * FROM t FOR SHARE",
            "SELECT * FROM (SELECT * FROM t FOR KEY SHARE) x",
            "SELECT 1 FROM t WHERE EXISTS (SELECT FROM u FOR UPDATE)",
            "SELECT * INTO x FROM t",
            "SELECT nextval('s')",
            "SELECT setval('s', 1), 2",
            "SELECT currval('s')",
            "SELECT lastval()",
            "SELECT pg_catalog.nextval('s')",
            "SELECT a FROM t WHERE b = nextval('s')",
            "SELECT a FROM t ORDER BY nextval('s')",
            "SELECT a FROM t LIMIT nextval('s')",
            "SELECT count(*) FILTER (WHERE nextval('s') > 1) FROM t",
            "SELECT sum(a) OVER (ORDER BY nextval('s')) FROM t",
            "SELECT sum(a ORDER BY nextval('s')) FROM t",
            "SELECT CASE WHEN true THEN nextval('s') END",
            "SELECT ARRAY[nextval('s')], (ARRAY[1,2])[nextval('s')]",
            "SELECT * FROM generate_series(1, nextval('s'))",
            "SELECT * FROM a JOIN b ON a.x = nextval('s')",
            "VALUES (1), (nextval('s'))",
            "SELECT 1 UNION SELECT nextval('s')",
            "SELECT xmlelement(name a, nextval('s'))",
            "SELECT json_object('a': nextval('s'))",
            "SELECT * FROM json_table('[]', '$' PASSING nextval('s') AS x COLUMNS (a int))",
            "SELECT nextval('s') IS NULL, nextval('s')::text COLLATE \"C\"",
            "SELECT my_function()",
            "SELECT public.lower('A')",
            "SELECT db.pg_catalog.lower('A')",
            "SELECT information_schema.made_up()",
            "SELECT * FROM my_function(1)",
            "SELECT * FROM t TABLESAMPLE my_method (1)",
            "SELECT txid_current(), pg_current_xact_id()",
            "SELECT pg_notify('a', 'b')",
            "SELECT pg_export_snapshot()",
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT pg_reload_conf()",
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT dblink_exec('x', 'y')",
            "SELECT query_to_xml('delete from t', true, true, '')",
            "SELECT set_config('a.b', 'c', false)",
            "SELECT lo_get(1)",
            "EXPLAIN ANALYZE DELETE FROM t",
            "EXPLAIN (ANALYZE) SELECT nextval('s')",
            "EXPLAIN (ANALYZE false, ANALYZE true) DELETE FROM t",
            "EXPLAIN EXECUTE p",
            "COPY t FROM STDIN",
            "COPY t TO '/tmp/x'",
            "COPY t TO PROGRAM 'cat'",
            "COPY (SELECT nextval('s')) TO STDOUT",
            "COPY (DELETE FROM t RETURNING *) TO STDOUT",
            "CALL p()",
            "DO $$ BEGIN END $$",
            "BEGIN",
            "BEGIN READ WRITE",
            "COMMIT",
            "SET work_mem = '1MB'",
            "SELECT 1; DELETE FROM t",
            "SELECT 1; BEGIN",
            "LOCK TABLE t",
            "VACUUM",
            "ANALYZE t",
            "REFRESH MATERIALIZED VIEW v",
            "CREATE TABLE t (a int)",
            "LISTEN a",
            "FETCH 1 FROM c",
        ],
    );
}

#[track_caller]
fn assert_parsed_route(route: Route, statements: &[&str]) {
    for sql in statements {
        assert!(!classify(sql).parse_error, "does not parse: {sql}");
    }
    assert_route(route, statements);
}

#[test]
fn what_drivers_and_frameworks_ask_at_start_up_are_reads() {
    assert_parsed_route(
        Route::Read,
        &[
            // Python: psycopg, SQLAlchemy, Django.
            "select pg_catalog.version()",
            "select current_schema()",
            "show standard_conforming_strings",
            "SELECT t.oid, t.typarray FROM pg_type t WHERE t.typname = 'hstore' ORDER BY t.oid",
            "SELECT c.relname, CASE WHEN c.relispartition THEN 'p' WHEN c.relkind IN ('m', 'v') THEN 'v' ELSE 't' END, obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND n.nspname NOT IN ('pg_catalog', 'pg_toast') AND pg_catalog.pg_table_is_visible(c.oid)",
            // Java: pgjdbc, Hibernate.
            "SELECT NULL AS table_cat, n.nspname, ct.relname, a.attname, (information_schema._pg_expandarray(i.indkey)).n AS key_seq, ci.relname FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) JOIN pg_catalog.pg_index i ON (a.attrelid = i.indrelid) JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) WHERE i.indisprimary",
            "select * from information_schema.sequences",
            "SELECT typinput = 'pg_catalog.array_in'::regproc AS is_array, typtype, typname, pg_type.oid FROM pg_catalog.pg_type LEFT JOIN (select ns.oid as nspoid, ns.nspname, r.r from pg_namespace as ns join (select s.r, (current_schemas(false))[s.r] as nspname from generate_series(1, array_upper(current_schemas(false), 1)) as s(r)) as r using (nspname)) as sp ON sp.nspoid = typnamespace WHERE typname = $1 ORDER BY sp.r, pg_type.oid DESC LIMIT 1",
            // Ruby: ActiveRecord.
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, a.atttypid, a.atttypmod, c.collname, col_description(a.attrelid, a.attnum) AS comment FROM pg_attribute a LEFT JOIN pg_attrdef d ON a.attrelid = d.adrelid AND a.attnum = d.adnum LEFT JOIN pg_type t ON a.atttypid = t.oid LEFT JOIN pg_collation c ON a.attcollation = c.oid AND a.attcollation <> t.typcollation WHERE a.attrelid = '\"users\"'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            "SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype, t.typtype, t.typbasetype FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid WHERE t.typname IN ('int2', 'int4')",
            // Node: Prisma, TypeORM; Go: pgx; .NET: Npgsql.
            "SELECT EXISTS(SELECT 1 FROM pg_namespace WHERE nspname = $1), version(), current_setting('server_version_num')::integer as numeric_version",
            "SELECT * FROM current_schema()",
            "select t.oid, case when t.typtype = 'b' then t.typname end from pg_type t where pg_type_is_visible(t.oid)",
            "SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.elemtypoid FROM (SELECT typ.oid, typ.typnamespace, typ.typname, typ.typtype, typ.typrelid, typ.typnotnull, typ.relkind, elemtyp.oid AS elemtypoid, CASE WHEN proc.proname = 'array_recv' THEN 'a' ELSE typ.typtype END AS x FROM (SELECT typ.oid, typnamespace, typname, typrelid, typnotnull, relkind, typelem AS elemoid, typtype, typreceive FROM pg_type AS typ LEFT JOIN pg_class AS cls ON (cls.oid = typ.typrelid)) AS typ LEFT JOIN pg_type AS elemtyp ON elemtyp.oid = elemoid LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive::oid) AS t JOIN pg_namespace AS ns ON (ns.oid = typnamespace)",
            // pgbench and pg_isready style probes.
            "select o.n, p.partstrat, pg_catalog.count(i.inhparent) from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on (n.oid = c.relnamespace) cross join lateral (select pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)) as o(n) left join pg_catalog.pg_partitioned_table as p on (p.partrelid = c.oid) left join pg_catalog.pg_inherits as i on (c.oid = i.inhparent) where c.relname = 'pgbench_accounts' and o.n is not null group by 1, 2 order by 1 asc limit 1",
            "select count(*) from pgbench_branches",
        ],
    );
}

#[test]
fn texts_that_do_not_parse_are_writes() {
    for sql in ["SELEC 1", "SELECT 1 FROM", "INSERT", "SELECT 'open", "SELECT 1; SELEC 2", "/* open", "\\d", "SELECT $$open", "SELECT 1\0"]
    {
        let classified = classify(sql);
        assert!(classified.parse_error, "{sql}");
        assert_eq!(classified.route(), Route::Write, "{sql}");
        assert!(classified.statements.is_empty(), "{sql}");
    }
}

#[test]
fn each_statement_of_a_text_knows_its_place() {
    let sql = "  SELECT 'ö;' ;/* x */ UPDATE t SET a = 1; ;\n  SHOW work_mem  ";
    let classified = classify(sql);
    let texts: Vec<_> = classified.statements.iter().map(|one| &sql[one.range.clone()]).collect();
    assert_eq!(texts, ["SELECT 'ö;'", "UPDATE t SET a = 1", "SHOW work_mem"]);
    assert_eq!(classified.only(), None);
    assert_eq!(classified.route(), Route::Write);
}

//! DDL by what carries it, and what is refused.

use super::*;

#[test]
fn definitions_of_the_database() {
    for sql in [
        "CREATE TABLE t (a int PRIMARY KEY, b serial, c text DEFAULT my_function())",
        "CREATE UNLOGGED TABLE t (a int)",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1 INTO t",
        "CREATE TABLE t PARTITION OF p FOR VALUES FROM (1) TO (2)",
        "ALTER TABLE t ADD COLUMN x int",
        "ALTER TABLE t DETACH PARTITION p",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE t OWNER TO bob",
        "ALTER TABLE t SET SCHEMA s",
        "DROP TABLE t CASCADE",
        "CREATE INDEX ON t (lower(a))",
        "DROP INDEX i",
        "CREATE VIEW v AS SELECT nextval('s')",
        "CREATE OR REPLACE VIEW v AS SELECT 1",
        "CREATE MATERIALIZED VIEW v AS SELECT 1",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "CREATE SEQUENCE s",
        "ALTER SEQUENCE s RESTART",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE PROCEDURE f() LANGUAGE plpgsql AS 'begin end'",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TYPE e AS ENUM ('a')",
        "ALTER TYPE e ADD VALUE 'b'",
        "CREATE TYPE c AS (a int)",
        "CREATE DOMAIN d AS int CHECK (value > 0)",
        "CREATE SCHEMA s",
        "CREATE EXTENSION pgcrypto",
        "COMMENT ON TABLE t IS 'x'",
        "GRANT SELECT ON t TO bob",
        "GRANT EXECUTE ON FUNCTION f(int) TO bob",
        "REVOKE ALL ON SCHEMA s FROM public",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO bob",
        "CREATE POLICY p ON t USING (true)",
        "CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING",
        "CREATE STATISTICS s ON a, b FROM t",
        "CREATE AGGREGATE a (int) (sfunc = f, stype = int)",
        "CREATE OPERATOR + (function = f, leftarg = x)",
        "CREATE SERVER s FOREIGN DATA WRAPPER w",
    ] {
        assert_eq!(kind(sql), Kind::Ddl, "{sql}");
    }
    // The binding has no name for this node; it must not be taken for less than a write.
    assert_eq!(classify("CREATE FOREIGN TABLE t (a int) SERVER s").route(), Route::Write);
}

#[test]
fn definitions_of_the_server() {
    for sql in [
        "CREATE ROLE bob LOGIN PASSWORD 'x'",
        "CREATE USER bob",
        "CREATE GROUP g",
        "ALTER ROLE bob SUPERUSER",
        "ALTER USER bob PASSWORD 'y'",
        "ALTER ROLE bob RENAME TO rob",
        "ALTER ROLE bob SET work_mem = '1MB'",
        "ALTER ROLE ALL IN DATABASE d RESET ALL",
        "ALTER DATABASE d SET work_mem = '1MB'",
        "ALTER GROUP g ADD USER bob",
        "DROP ROLE bob",
        "DROP USER IF EXISTS bob",
        "GRANT admins TO bob WITH ADMIN OPTION",
        "REVOKE admins FROM bob",
        "REASSIGN OWNED BY bob TO rob",
        "DROP OWNED BY bob",
    ] {
        assert_eq!(kind(sql), Kind::GlobalDdl, "{sql}");
    }
}

#[test]
fn what_cannot_be_replicated_is_refused() {
    use Refusal as R;
    for (sql, why) in [
        ("CREATE DATABASE d", R::Database),
        ("DROP DATABASE d", R::Database),
        ("ALTER DATABASE d RENAME TO e", R::Database),
        ("ALTER DATABASE d OWNER TO bob", R::Database),
        ("ALTER DATABASE d CONNECTION LIMIT 5", R::Database),
        ("ALTER SYSTEM SET work_mem = '1MB'", R::AlterSystem),
        ("CREATE TABLESPACE s LOCATION '/x'", R::Tablespace),
        ("DROP TABLESPACE s", R::Tablespace),
        ("ALTER TABLESPACE s RENAME TO x", R::Tablespace),
        ("ALTER TABLESPACE s SET (random_page_cost = 1)", R::Tablespace),
        ("ALTER TABLE ALL IN TABLESPACE s SET TABLESPACE x", R::Tablespace),
        ("GRANT CREATE ON TABLESPACE s TO bob", R::Tablespace),
        ("CREATE PUBLICATION p FOR ALL TABLES", R::Publication),
        ("ALTER PUBLICATION p ADD TABLE t", R::Publication),
        ("ALTER PUBLICATION p OWNER TO bob", R::Publication),
        ("DROP PUBLICATION howdah", R::Publication),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", R::Subscription),
        ("ALTER SUBSCRIPTION s DISABLE", R::Subscription),
        ("DROP SUBSCRIPTION s", R::Subscription),
        ("SELECT lo_create(0)", R::LargeObject),
        ("SELECT lo_import('/x')", R::LargeObject),
        ("INSERT INTO t VALUES (lo_from_bytea(0, 'x'))", R::LargeObject),
        ("SELECT pg_catalog.lowrite(1, 'x')", R::LargeObject),
        ("GRANT SELECT ON LARGE OBJECT 1 TO bob", R::LargeObject),
        ("COMMENT ON LARGE OBJECT 1 IS 'x'", R::LargeObject),
        ("ALTER LARGE OBJECT 1 OWNER TO bob", R::LargeObject),
        ("SECURITY LABEL ON TABLE t IS 'x'", R::SecurityLabel),
        ("CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()", R::EventTrigger),
        ("ALTER EVENT TRIGGER e DISABLE", R::EventTrigger),
        ("DROP EVENT TRIGGER e", R::EventTrigger),
        ("COMMENT ON DATABASE d IS 'x'", R::CommentOnShared),
        ("GRANT CONNECT ON DATABASE d TO bob", R::SharedGrant),
        ("GRANT SET ON PARAMETER work_mem TO bob", R::SharedGrant),
        ("COMMENT ON ROLE bob IS 'x'", R::CommentOnShared),
        ("LOCK TABLE pg_class", R::CatalogLock),
        ("LOCK t, pg_catalog.pg_attribute", R::CatalogLock),
        ("CLUSTER pg_class USING i", R::CatalogLock),
        ("VACUUM FULL", R::CatalogLock),
        ("VACUUM (FULL) pg_class", R::CatalogLock),
        ("REINDEX TABLE pg_class", R::CatalogLock),
        ("REINDEX SYSTEM d", R::CatalogLock),
        ("SELECT pg_drop_replication_slot('howdah')", R::Replication),
        ("SELECT pg_logical_emit_message(true, 'howdah', 'x')", R::Replication),
        ("SELECT pg_replication_origin_session_setup('howdah')", R::Replication),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity", R::CancelBackend),
        ("SELECT pg_cancel_backend(1)", R::CancelBackend),
        ("SET synchronous_commit = off", R::GateSetting),
        ("SET LOCAL Synchronous_Commit TO 'local'", R::GateSetting),
        ("SET session_replication_role = replica", R::GateSetting),
        ("SELECT set_config('synchronous_commit', 'off', false)", R::GateSetting),
        ("SELECT 1, pg_catalog.set_config('SYNCHRONOUS_COMMIT', $1, true)", R::GateSetting),
        ("ALTER ROLE bob SET synchronous_commit = off", R::GateSetting),
        ("ALTER DATABASE d SET synchronous_commit FROM CURRENT", R::GateSetting),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET synchronous_commit = off AS 'SELECT 1'", R::GateSetting),
        ("ALTER FUNCTION f() SET session_replication_role = replica", R::GateSetting),
        ("PREPARE TRANSACTION 'x'", R::PrepareTransaction),
        ("PREPARE p AS SELECT lo_create(0)", R::LargeObject),
        ("DECLARE c CURSOR FOR SELECT lo_create(0)", R::LargeObject),
        ("COPY (SELECT lo_create(0)) TO STDOUT", R::LargeObject),
        ("EXPLAIN ANALYZE SELECT lo_create(0)", R::LargeObject),
        ("CREATE TABLE t AS SELECT lo_create(0)", R::LargeObject),
        ("CALL p(lo_create(0))", R::LargeObject),
    ] {
        assert_eq!(kind(sql), Kind::Refused(why), "{sql}");
        assert!(!why.reason().is_empty() && why.hint().ends_with('.'));
    }
    for sql in [
        "RESET synchronous_commit",
        "SET synchronous_commit = DEFAULT",
        "SHOW synchronous_commit",
        "ALTER ROLE bob RESET synchronous_commit",
    ] {
        assert_eq!(classify(sql).refusal(), None, "{sql}");
    }
    assert_eq!(classify("SELECT 1; DROP DATABASE d").refusal(), Some(R::Database));
    assert_eq!(classify("EXPLAIN SELECT lo_create(0)").refusal(), None);
}

#[test]
fn maintenance() {
    for sql in [
        "VACUUM",
        "VACUUM (ANALYZE, FULL off) t",
        "VACUUM FULL t",
        "VACUUM pg_class",
        "CREATE INDEX CONCURRENTLY i ON t (a)",
        "DROP INDEX CONCURRENTLY i",
        "REINDEX TABLE CONCURRENTLY t",
        "REINDEX (CONCURRENTLY) INDEX i",
        "REINDEX SCHEMA s",
        "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
        "CLUSTER",
    ] {
        assert_eq!(kind(sql), Kind::NonTransactional, "{sql}");
    }
    for sql in ["ANALYZE", "ANALYZE t (a)", "REINDEX TABLE t", "CLUSTER t USING i", "CHECKPOINT", "SET CONSTRAINTS ALL DEFERRED"] {
        assert_eq!(kind(sql), Kind::Write, "{sql}");
    }
    for sql in ["CREATE TEMP TABLE t (a int)", "CREATE TEMP TABLE t (a int) ON COMMIT DROP", "SELECT 1 INTO TEMP t"] {
        assert_eq!(kind(sql), Kind::CreateTemp, "{sql}");
    }
}

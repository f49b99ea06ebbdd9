//! Transactions, settings, cursors, and what pins.

use super::*;

fn set(sql: &str) -> (Scope, String, SetValue) {
    match kind(sql) {
        Kind::Set { scope, name, value } => (scope, name.into(), value),
        other => panic!("{sql}: {other:?}"),
    }
}

fn text(value: &str) -> SetValue {
    SetValue::Text(value.into())
}

#[test]
fn transactions() {
    let begin = |read_only, isolation, deferrable| Kind::Begin(Begin { read_only, isolation, deferrable });
    for (sql, expected) in [
        ("BEGIN", begin(None, None, None)),
        ("begin work", begin(None, None, None)),
        ("START TRANSACTION READ WRITE", begin(Some(false), None, None)),
        ("BEGIN TRANSACTION READ ONLY", begin(Some(true), None, None)),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE", begin(Some(true), Some(Isolation::Serializable), Some(true))),
        ("BEGIN ISOLATION LEVEL READ UNCOMMITTED NOT DEFERRABLE", begin(None, Some(Isolation::ReadUncommitted), Some(false))),
        ("BEGIN READ ONLY, READ WRITE", begin(Some(false), None, None)),
        ("COMMIT", Kind::Commit { chain: false }),
        ("END AND CHAIN", Kind::Commit { chain: true }),
        ("ROLLBACK", Kind::Rollback { chain: false }),
        ("ABORT AND CHAIN", Kind::Rollback { chain: true }),
        ("SAVEPOINT a", Kind::Savepoint("a".into())),
        ("RELEASE SAVEPOINT \"B\"", Kind::Release("B".into())),
        ("ROLLBACK TO a", Kind::RollbackTo("a".into())),
        ("COMMIT PREPARED 'x'", Kind::CommitPrepared),
        ("ROLLBACK PREPARED 'x'", Kind::RollbackPrepared),
        (
            "SET TRANSACTION READ WRITE",
            Kind::SetTransaction { scope: Scope::Local, begin: Begin { read_only: Some(false), ..Begin::default() } },
        ),
        ("SET TRANSACTION SNAPSHOT '0-1'", Kind::SetSnapshot),
    ] {
        assert_eq!(kind(sql), expected, "{sql}");
        assert!(pins(sql).is_empty(), "{sql}");
    }
    assert!(kind("COMMIT").is_transaction_boundary());
    assert!(!kind("SAVEPOINT a").is_transaction_boundary());
}

#[test]
fn session_characteristics_are_the_settings_they_stand_for() {
    let Kind::SetTransaction { scope: Scope::Session, begin } =
        kind("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ, NOT DEFERRABLE")
    else {
        panic!("another kind")
    };
    let settings: Vec<_> = begin.session_settings().collect();
    assert_eq!(
        settings,
        [
            ("default_transaction_isolation", "repeatable read"),
            ("default_transaction_read_only", "on"),
            ("default_transaction_deferrable", "off"),
        ]
    );
}

#[test]
fn settings_come_out_as_the_server_would_read_them() {
    for (sql, name, value) in [
        ("SET work_mem = '64MB'", "work_mem", "64MB"),
        ("SET SESSION Work_Mem TO 65536", "work_mem", "65536"),
        ("SET \"DateStyle\" = ISO, mdy", "datestyle", "iso, mdy"),
        ("SET extra_float_digits = -1", "extra_float_digits", "-1"),
        ("SET random_page_cost = 1.1", "random_page_cost", "1.1"),
        ("SET enable_seqscan = off", "enable_seqscan", "off"),
        ("SET enable_seqscan = true", "enable_seqscan", "true"),
        ("SET search_path = \"$user\", Public, 'We\"ird'", "search_path", "\"$user\", public, \"We\"\"ird\""),
        ("SET search_path = ''", "search_path", "\"\""),
        ("SET SCHEMA 'a'", "search_path", "a"),
        ("SET TIME ZONE 'Europe/Berlin'", "timezone", "Europe/Berlin"),
        ("SET TIME ZONE -8", "timezone", "-8"),
        ("SET NAMES 'utf8'", "client_encoding", "utf8"),
        ("SET ROLE bob", "role", "bob"),
        ("SET SESSION AUTHORIZATION 'bob'", "session_authorization", "bob"),
        ("SET howdah.consistency = eventual", "howdah.consistency", "eventual"),
        ("SET application_name = 'it''s'", "application_name", "it's"),
    ] {
        assert_eq!(set(sql), (Scope::Session, name.to_owned(), text(value)), "{sql}");
        assert!(pins(sql).is_empty(), "{sql}");
    }
    assert_eq!(set("SET LOCAL work_mem = 1"), (Scope::Local, "work_mem".to_owned(), text("1")));
    for sql in ["SET work_mem TO DEFAULT", "SET work_mem = DEFAULT"] {
        assert_eq!(set(sql), (Scope::Session, "work_mem".to_owned(), SetValue::Default), "{sql}");
    }
    assert_eq!(set("SET TIME ZONE LOCAL"), (Scope::Session, "timezone".to_owned(), SetValue::Default));
    assert_eq!(kind("RESET Work_Mem"), Kind::Reset("work_mem".into()));
    assert_eq!(kind("RESET ALL"), Kind::ResetAll);
    assert_eq!(kind("SHOW Work_Mem"), Kind::Show("work_mem".into()));
    assert_eq!(kind("SHOW ALL"), Kind::Show("all".into()));
    assert_eq!(kind("SHOW howdah.token"), Kind::Show("howdah.token".into()));
}

#[test]
fn a_setting_that_cannot_be_repeated_pins() {
    let interval = "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE";
    assert_eq!(set(interval).2, SetValue::Opaque);
    assert_eq!(pins(interval), PinReasons::SETTING);
    assert_eq!(pins("SET LOCAL TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE"), PinReasons::NONE);
}

#[test]
fn set_config_is_followed_where_it_is_constant_and_pins_where_not() {
    for (sql, scope, name, value) in [
        ("SELECT set_config('Work_Mem', '1MB', false)", Scope::Session, "work_mem", "1MB"),
        ("SELECT pg_catalog.set_config('search_path', '', false);", Scope::Session, "search_path", ""),
        ("SELECT set_config('a.b', 'c', true) AS x", Scope::Local, "a.b", "c"),
        ("SELECT set_config('a.b', 'c', 't')", Scope::Local, "a.b", "c"),
    ] {
        assert_eq!(kind(sql), Kind::SetConfig { scope, name: name.into(), value: value.into() }, "{sql}");
        assert!(pins(sql).is_empty(), "{sql}");
    }
    for sql in [
        "SELECT set_config('a.b', $1, false)",
        "SELECT set_config('a.b', 'c', $1)",
        "SELECT set_config('a.b', 'c', false) FROM t",
        "SELECT set_config('a.b', 'c', false) WHERE false",
        "SELECT set_config('a.b', 'c', false), 1",
        "SELECT 1 WHERE set_config('a.b', 'c', false) = ''",
        "SELECT set_config('a.b', NULL, false)",
        "UPDATE t SET a = set_config('a.b', 'c', false)",
        "UPDATE pg_settings SET setting = 'x' WHERE name = 'work_mem'",
    ] {
        assert_eq!((kind(sql), pins(sql)), (Kind::Write, PinReasons::SETTING), "{sql}");
    }
    let local = "SELECT set_config('request.jwt', $1, true), set_config('role', 'web', true)";
    assert_eq!((kind(local), pins(local)), (Kind::Write, PinReasons::NONE));
}

#[test]
fn prepared_statements_cursors_and_channels() {
    let Kind::Prepare { name, inner } = kind("PREPARE p (int) AS SELECT * FROM t WHERE a = $1") else { panic!("another kind") };
    assert_eq!((&*name, *inner), ("p", Kind::Read));
    assert_eq!(kind("EXECUTE p (1)"), Kind::Execute("p".into()));
    assert_eq!(kind("DEALLOCATE PREPARE p"), Kind::Deallocate(Some("p".into())));
    assert_eq!(kind("DEALLOCATE ALL"), Kind::Deallocate(None));
    assert_eq!(kind("DECLARE c CURSOR FOR SELECT 1"), Kind::DeclareCursor { name: "c".into(), hold: false });
    assert_eq!(kind("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1"), Kind::DeclareCursor { name: "c".into(), hold: true });
    assert_eq!(kind("DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1"), Kind::DeclareCursor { name: "c".into(), hold: false });
    assert_eq!(kind("FETCH ALL FROM c"), Kind::Fetch);
    assert_eq!(kind("MOVE 5 IN c"), Kind::Fetch);
    assert_eq!(kind("CLOSE c"), Kind::Close);
    assert_eq!(kind("CLOSE ALL"), Kind::Close);
    assert_eq!(kind("LISTEN \"A\""), Kind::Listen("A".into()));
    assert_eq!(kind("UNLISTEN a"), Kind::Unlisten(Some("a".into())));
    assert_eq!(kind("UNLISTEN *"), Kind::Unlisten(None));
    assert_eq!(kind("NOTIFY a, 'b'"), Kind::Notify("a".into()));
    assert_eq!(kind("DISCARD ALL"), Kind::Discard(Discard::All));
    assert_eq!(kind("DISCARD PLANS"), Kind::Discard(Discard::Plans));
    assert_eq!(kind("DISCARD TEMP"), Kind::Discard(Discard::Temp));
    assert_eq!(kind("DISCARD SEQUENCES"), Kind::Discard(Discard::Sequences));
    assert_eq!(kind("COPY t FROM STDIN"), Kind::CopyFrom { stdin: true });
    assert_eq!(kind("COPY t FROM '/tmp/x'"), Kind::CopyFrom { stdin: false });
    assert_eq!(kind("COPY t TO STDOUT"), Kind::CopyTo { stdout: true, read: true });
    assert_eq!(kind("COPY (SELECT nextval('s')) TO STDOUT"), Kind::CopyTo { stdout: true, read: false });
    assert_eq!(kind("COPY t TO PROGRAM 'cat'"), Kind::CopyTo { stdout: false, read: true });
    assert_eq!(kind("EXPLAIN ANALYZE DELETE FROM t"), Kind::Explain { analyze: true, inner: Box::new(Kind::Write) });
    assert_eq!(kind("CALL p(1)"), Kind::Call);
    assert_eq!(kind("DO 'begin end'"), Kind::Do);
    assert_eq!(kind("LOCK TABLE t IN SHARE MODE"), Kind::LockTable);
}

#[test]
fn what_keeps_a_session_on_its_connection() {
    for (sql, expected) in [
        ("SELECT 1", PinReasons::NONE),
        ("CREATE TEMP TABLE t (a int)", PinReasons::TEMP_TABLE),
        ("CREATE LOCAL TEMPORARY TABLE t (a int) ON COMMIT DELETE ROWS", PinReasons::TEMP_TABLE),
        ("CREATE TEMP TABLE t (a int) ON COMMIT DROP", PinReasons::NONE),
        ("CREATE TABLE pg_temp.t (a int)", PinReasons::TEMP_TABLE),
        ("CREATE TEMP TABLE t AS SELECT 1", PinReasons::TEMP_TABLE),
        ("SELECT 1 INTO TEMP t", PinReasons::TEMP_TABLE),
        ("SELECT 1 INTO TEMP t UNION SELECT 2", PinReasons::TEMP_TABLE),
        ("CREATE TEMP VIEW v AS SELECT 1", PinReasons::TEMP_TABLE),
        ("CREATE TEMP SEQUENCE s", PinReasons::TEMP_TABLE),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", PinReasons::TEMP_TABLE),
        ("CREATE TYPE PG_TEMP.x AS ENUM ('a')", PinReasons::TEMP_TABLE),
        ("CREATE TABLE t (a int)", PinReasons::NONE),
        ("SELECT pg_advisory_lock(1)", PinReasons::SESSION_LOCK),
        ("SELECT 1 FROM t WHERE pg_catalog.pg_try_advisory_lock_shared(a, 2)", PinReasons::SESSION_LOCK),
        ("INSERT INTO t SELECT pg_try_advisory_lock(1)", PinReasons::SESSION_LOCK),
        ("CREATE TABLE t AS SELECT pg_advisory_lock(1)", PinReasons::SESSION_LOCK),
        ("CALL p(pg_advisory_lock(1))", PinReasons::SESSION_LOCK),
        ("EXECUTE p (pg_advisory_lock(1))", PinReasons::SESSION_LOCK),
        ("EXPLAIN ANALYZE SELECT pg_advisory_lock(1)", PinReasons::SESSION_LOCK),
        ("EXPLAIN SELECT pg_advisory_lock(1)", PinReasons::NONE),
        ("COPY (SELECT pg_advisory_lock(1)) TO STDOUT", PinReasons::SESSION_LOCK),
        ("SELECT pg_advisory_xact_lock(1)", PinReasons::NONE),
        ("SELECT pg_advisory_unlock_all()", PinReasons::NONE),
        ("LISTEN a", PinReasons::LISTEN),
        ("NOTIFY a", PinReasons::NONE),
        ("DECLARE c CURSOR FOR SELECT 1", PinReasons::CURSOR),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", PinReasons::HOLD_CURSOR),
        ("PREPARE p AS SELECT 1", PinReasons::PREPARED),
        ("SELECT setseed(0.5)", PinReasons::SEED),
        ("LOAD 'auto_explain'", PinReasons::LIBRARY),
    ] {
        assert_eq!(pins(sql), expected, "{sql}");
    }
    let several = classify("LISTEN a; CREATE TEMP TABLE t (a int); SELECT 1; DECLARE c CURSOR FOR SELECT 1").pins;
    assert_eq!(several, PinReasons::LISTEN | PinReasons::TEMP_TABLE | PinReasons::CURSOR);
    assert_eq!(several.to_string(), "temp_table,listen,cursor");
    assert_eq!(several.beyond_transaction(), PinReasons::LISTEN | PinReasons::TEMP_TABLE);
}

//! Schema changes and roles travel in order with the rows.

use super::fixture::Pair;
use serde_json::{Value, json};
use std::time::Duration;

impl Pair {
    /// Runs `sql` on the source and puts into the log what the event trigger would.
    async fn ddl(&self, role: &str, search_path: &str, sql: &str, nth: usize) {
        let message = json!({"kind": "ddl", "tag": "DDL", "sql": sql, "nth": nth, "search_path": search_path, "role": role});
        self.with_message(&format!("SET LOCAL ROLE {role}; SET LOCAL search_path = {search_path}; {sql}; RESET ROLE"), &message).await;
    }

    async fn with_message(&self, sql: &str, message: &Value) {
        let emit = format!("SELECT pg_logical_emit_message(true, 'howdah', $howdah${message}$howdah$)");
        self.on_source(&format!("BEGIN; {sql}; {emit}; COMMIT")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typical_migration() {
    let mut pair = Pair::new().await;
    pair.both("CREATE ROLE app; GRANT CREATE ON SCHEMA public TO app; GRANT CREATE ON DATABASE postgres TO app").await;
    let steps: &[&str] = &[
        "CREATE SCHEMA shop",
        "CREATE TYPE status AS ENUM ('new', 'done')",
        "CREATE TABLE customer (id serial PRIMARY KEY, name text NOT NULL, email text UNIQUE)",
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES customer, state status DEFAULT 'new')",
        "INSERT INTO customer (name) SELECT 'c' || i FROM generate_series(1, 20) i; INSERT INTO orders (customer) SELECT id FROM customer",
        "ALTER TABLE customer ADD COLUMN age int DEFAULT 30, ADD CHECK (age > 0)",
        "UPDATE customer SET age = id + 1",
        "CREATE INDEX CONCURRENTLY orders_state ON orders (state)",
        "ALTER TYPE status ADD VALUE 'lost'",
        "UPDATE orders SET state = 'lost' WHERE id % 2 = 0",
        "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END $f$",
        "CREATE TRIGGER bump BEFORE UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION bump()",
        "UPDATE customer SET age = 5 WHERE id < 4",
        "ALTER TABLE orders ALTER customer TYPE bigint",
        "UPDATE orders SET customer = NULL WHERE id = 1",
        "CREATE VIEW busy AS SELECT c.name, count(*) FROM customer c JOIN orders o ON o.customer = c.id GROUP BY 1",
        "COMMENT ON TABLE orders IS 'it''s all here'",
        "GRANT SELECT ON orders TO PUBLIC",
        "ALTER TABLE customer RENAME COLUMN name TO full_name",
        "INSERT INTO customer (full_name) VALUES ('after the rename')",
        "DROP VIEW busy",
        "CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM orders",
        "REFRESH MATERIALIZED VIEW totals",
        "ALTER TABLE customer DROP COLUMN email",
        "INSERT INTO customer (full_name, age) VALUES ('after the drop', 3)",
        "ALTER TABLE orders RENAME TO purchase",
        "DELETE FROM purchase WHERE id > 15",
        "DROP SCHEMA shop",
    ];
    for sql in steps {
        let on_source = sql.replace("CONCURRENTLY ", "");
        match sql.split(' ').next() {
            Some("INSERT" | "UPDATE" | "DELETE") => pair.on_source(sql).await,
            _ => {
                let message =
                    json!({"kind": "ddl", "tag": "DDL", "sql": sql, "search_path": "\"$user\", public", "role": "app", "missing": []});
                pair.with_message(&format!("SET LOCAL ROLE app; {on_source}; RESET ROLE"), &message).await;
            }
        }
    }
    // All of it in one entry: what needs an earlier commit (the enum value) gets one.
    pair.same().await;
    assert_eq!(definitions(&pair.source).await, definitions(&pair.target).await);
    assert_eq!(pair.applied().rows_missing, 0);
    let stored: String = pair.target.query_one("SELECT state::text FROM howdah.progress", &[]).await.unwrap().get(0);
    assert!(!stored.contains("items_done"), "{stored}");
}

/// Columns, owners, indexes, grants, comments, triggers of all user tables.
async fn definitions(client: &tokio_postgres::Client) -> Vec<String> {
    const SQL: &str = "
        SELECT format('%s.%s %s %s owner %s acl %s comment %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                      pg_get_userbyid(c.relowner), c.relacl, obj_description(c.oid))
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = 'public'::regnamespace
        UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid::regclass::text !~ '^pg_|howdah'
        UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT nspname FROM pg_namespace WHERE nspname NOT IN ('howdah')
        ORDER BY 1";
    client.query(SQL, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_statement_of_many_runs_as_the_right_role() {
    let mut pair = Pair::new().await;
    pair.both("CREATE ROLE \"App x\"; CREATE SCHEMA a AUTHORIZATION \"App x\"").await;
    let sql = "SELECT 1; CREATE TABLE one (x int PRIMARY KEY); INSERT INTO one VALUES (1); CREATE TABLE two (y int PRIMARY KEY)";
    let message = |nth: usize| json!({"kind": "ddl", "tag": "CREATE TABLE", "sql": sql, "nth": nth, "search_path": "a", "role": "App x"});
    let emit = |nth| format!("SELECT pg_logical_emit_message(true, 'howdah', $h${}$h$)", message(nth));
    pair.on_source(&format!(
        "BEGIN; SET LOCAL ROLE \"App x\"; SET LOCAL search_path = a; CREATE TABLE one (x int PRIMARY KEY); RESET ROLE; {}; INSERT INTO one VALUES (1); \
         SET LOCAL ROLE \"App x\"; CREATE TABLE two (y int PRIMARY KEY); RESET ROLE; {}; COMMIT",
        emit(0),
        emit(1)
    ))
    .await;
    pair.same().await;
    let owners: i64 =
        pair.target.query_one("SELECT count(*) FROM pg_tables WHERE schemaname = 'a' AND tableowner = 'App x'", &[]).await.unwrap().get(0);
    assert_eq!(owners, 2);
}

/// As the event trigger does: with every ALTER TABLE all columns of the table that have such a value.
async fn alter_with_missing(pair: &Pair, sql: &str) {
    pair.on_source(sql).await;
    const MISSING: &str = "SELECT c.relname::text, a.attname::text, (a.attmissingval::text::text[])[1] FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid WHERE a.atthasmissing AND c.relnamespace = 'public'::regnamespace";
    let rows = pair.source.query(MISSING, &[]).await.unwrap();
    let missing = |row: &tokio_postgres::Row| json!({"schema": "public", "table": row.get::<_, String>(0), "column": row.get::<_, String>(1), "value": row.get::<_, Option<String>>(2)});
    let missing: Vec<Value> = rows.iter().map(missing).collect();
    let message = json!({"kind": "ddl", "tag": "ALTER TABLE", "search_path": "public", "role": "postgres", "sql": sql, "missing": missing});
    pair.with_message("SELECT 1", &message).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_is_what_it_was_on_the_leader() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY)").await;
    pair.on_source("INSERT INTO t SELECT generate_series(1, 10)").await;
    pair.same().await;
    alter_with_missing(&pair, "ALTER TABLE t ADD COLUMN at timestamptz DEFAULT now(), ADD COLUMN n int[] DEFAULT '{1,2}', ADD COLUMN d timestamptz[] DEFAULT ARRAY[now(), NULL]").await;
    pair.on_source("INSERT INTO t VALUES (11)").await;
    pair.same().await;
    // What is changed later stays changed, although the next messages name the column again, under other names too.
    pair.on_source("UPDATE t SET at = '2000-01-01', n = '{3}' WHERE id < 3").await;
    for sql in
        ["ALTER TABLE t ADD COLUMN more text DEFAULT now()::text", "ALTER TABLE t RENAME COLUMN at TO since", "ALTER TABLE t RENAME TO u"]
    {
        alter_with_missing(&pair, sql).await;
        pair.on_source("SELECT 1").await;
    }
    pair.on_source("UPDATE u SET since = '2001-01-01' WHERE id = 4").await;
    alter_with_missing(&pair, "ALTER TABLE u ADD COLUMN last timestamptz DEFAULT now()").await;
    pair.same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_missing_here_is_named() {
    let mut pair = Pair::new().await;
    pair.on_source("CREATE ROLE stranger SUPERUSER").await;
    pair.ddl("stranger", "public", "CREATE TABLE t (x int)", 0).await;
    pair.replicate().await;
    let mut applied = pair.applier.as_ref().unwrap().applied();
    let waited = tokio::time::timeout(Duration::from_secs(20), applied.wait_for(|applied| applied.error.is_some())).await;
    let error = waited.unwrap().unwrap().error.clone().unwrap();
    assert!(error.starts_with("role stranger, as whom the leader executed DDL, does not exist on this node"), "{error}");
    // It is not given up: with the role there, it goes on.
    pair.target.batch_execute("CREATE ROLE stranger SUPERUSER").await.unwrap();
    pair.caught_up().await;
    assert_eq!(pair.applied().error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_become_equal() {
    let mut pair = Pair::new().await;
    let role = |name: &str, verifier: Value| {
        json!({"name": name, "superuser": false, "createdb": true, "createrole": false, "inherit": true, "login": true, "replication": false,
               "bypassrls": false, "connlimit": 5, "verifier": verifier, "valid_until": "2040-01-01 00:00:00+00",
               "config": ["search_path=\"$user\", \"x y\"", "work_mem=8MB"]})
    };
    let verifier = json!(
        "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$2zcJ3eiO4SLQcCSPNmEMTxl1XIzDCMrTHn6Zg3ydJ1o=:Ay2sTwXhHwWAGAyUBj2gEqTkCjP6NYHNYUmS1hKF0Us="
    );
    let members = json!([{"role": "writer", "member": "b", "admin": true, "grantor": "postgres"}, {"role": "pg_monitor", "member": "b", "admin": false, "grantor": "postgres"}]);
    let settings = json!([{"database": "postgres", "role": "b", "config": ["jit=off"]}, {"database": "postgres", "role": null, "config": ["work_mem=5MB"]}]);
    let state = json!({"kind": "roles", "roles": [role("a", json!(null)), role("b", verifier.clone()), role("writer", json!(null))], "members": members, "db_settings": settings});
    pair.target.batch_execute("SET synchronous_commit = local; CREATE ROLE old; CREATE ROLE a SUPERUSER").await.unwrap();
    pair.with_message("SELECT 1", &state).await;
    // Twice: the second time there is nothing to do.
    pair.with_message("SELECT 1", &state).await;
    pair.replicate().await;
    pair.caught_up().await;
    let row = pair
        .target
        .query_one(
            "SELECT rolpassword, rolconnlimit, rolvaliduntil::text, (SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles WHERE rolname !~ '^pg_'),
                    (SELECT setconfig FROM pg_db_role_setting WHERE setrole = r.oid AND setdatabase = 0),
                    (SELECT count(*) FROM pg_auth_members WHERE member = r.oid), (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase <> 0)
               FROM pg_authid r WHERE rolname = 'b'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, Option<String>>(0).as_deref(), verifier.as_str());
    assert_eq!((row.get::<_, i32>(1), row.get::<_, String>(2)), (5, "2040-01-01 00:00:00+00".to_owned()));
    assert_eq!(row.get::<_, Vec<String>>(3), ["a", "b", "postgres", "writer"]);
    assert_eq!(row.get::<_, Vec<String>>(4), ["search_path=\"$user\", \"x y\"", "work_mem=8MB"]);
    assert_eq!((row.get::<_, i64>(5), row.get::<_, i64>(6)), (2, 2));
}

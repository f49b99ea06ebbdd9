//! Logical messages: schema changes and roles, executed inside the transaction of their position.

use super::session::Session;
use super::{Error, quote};
use crate::core::ddl::roles::{self, RolesState};
use crate::core::ddl::{Command, Ddl, Missing, Ranged};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// The apply session finds rows by index at any price; a statement of the application may plan as it likes.
const PLAN_FREELY: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";
const AS_BEFORE: &str = "RESET ROLE; SET LOCAL search_path = pg_catalog; \
                         SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// Executes one message. What was sent before has been answered when this begins; the session has forgotten its statements after it.
pub(super) async fn execute(session: &mut Session, content: &[u8]) -> Result<(), Error> {
    session.pipeline.drain().await?;
    match Command::parse(content)? {
        Command::Ddl(ddl) => run(&session.client, &ddl).await?,
        Command::Roles(wanted) => make_roles(&session.client, &wanted).await?,
    }
    session.forget();
    Ok(())
}

async fn run(client: &Client, ddl: &Ddl) -> Result<(), Error> {
    let statement = ddl.statement()?;
    let failed = |source| Error::postgres(format!("{} from the leader: `{statement}`", ddl.tag), source);
    client.execute("SELECT pg_catalog.set_config('search_path', $1, true)", &[&ddl.search_path]).await.map_err(failed)?;
    client.batch_execute(PLAN_FREELY).await.map_err(failed)?;
    for (name, value) in &ddl.settings {
        client.execute("SELECT pg_catalog.set_config($1, $2, true)", &[name, value]).await.map_err(failed)?;
    }
    let role = format!("SET LOCAL ROLE {}", quote(&ddl.role));
    client.batch_execute(&role).await.map_err(|source| Error::MissingRole { role: ddl.role.clone(), tag: ddl.tag.clone(), source })?;
    // The extended protocol takes one statement only: a text that could not be taken apart never runs twice.
    match ddl.ranged(&statement) {
        Some(ranged) => run_ranged(client, &statement, &ranged).await.map_err(failed)?,
        None => client.execute(&statement, &[]).await.map(drop).map_err(failed)?,
    }
    let reset: String = ddl.settings.keys().map(|name| format!("RESET {}; ", quote(name))).collect();
    client.batch_execute(&format!("{reset}{AS_BEFORE}")).await.map_err(failed)?;
    for missing in &ddl.missing {
        fix_missing(client, missing).await?;
    }
    Ok(())
}

/// Postgres refuses a range that a sequence's value is not in, and what the leader's value is, is not known here: it is handed out without
/// a word in the log, and a follower's is raised to marks that lie ahead of it. Then the statement is run with the sequence at its start, which
/// is part of its definition and so the same everywhere; from there it is raised again.
async fn run_ranged(client: &Client, statement: &str, ranged: &Ranged) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("SAVEPOINT howdah_ranged").await?;
    match client.execute(statement, &[]).await {
        Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => {
            client.batch_execute("ROLLBACK TO SAVEPOINT howdah_ranged").await?;
            match ranged {
                Ranged::Sequence { restarting } => client.execute(restarting, &[]).await?,
                Ranged::Table { schema, table } => {
                    restart_identities(client, schema.as_deref(), table).await?;
                    client.execute(statement, &[]).await?
                }
            };
        }
        other => drop(other?),
    }
    client.batch_execute("RELEASE SAVEPOINT howdah_ranged").await
}

async fn restart_identities(client: &Client, schema: Option<&str>, table: &str) -> Result<(), tokio_postgres::Error> {
    const THEIR: &str = "
        SELECT pg_catalog.format('ALTER SEQUENCE %s RESTART', d.objid::pg_catalog.regclass)
          FROM pg_catalog.pg_depend d
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid AND d.deptype = 'i' AND d.refobjsubid > 0
           AND d.refobjid = pg_catalog.to_regclass($1::pg_catalog.text)
           AND d.objid IN (SELECT seqrelid FROM pg_catalog.pg_sequence)";
    let name = schema.map(|schema| quote(schema) + ".").unwrap_or_default() + &quote(table);
    for row in client.query(THEIR, &[&name]).await? {
        client.batch_execute(row.get(0)).await?;
    }
    Ok(())
}

/// A default such as now() was evaluated once on the leader, for all rows that existed; here it came out differently. The message names
/// every column of the table that was ever added with a default, so what tells a new one is the value that Postgres keeps for such rows
/// (`attmissingval`): once the rows have the leader's value it is taken away, and later messages change nothing.
async fn fix_missing(client: &Client, missing: &Missing) -> Result<(), Error> {
    const HERE: &str = "
        SELECT a.attrelid, a.attnum, (a.attmissingval::pg_catalog.text::pg_catalog.text[])[1], pg_catalog.format_type(a.atttypid, -1)
          FROM pg_catalog.pg_attribute a
          JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1::pg_catalog.text AND c.relname = $2::pg_catalog.text AND a.attname = $3::pg_catalog.text
           AND a.atthasmissing";
    const TAKE_AWAY: &str =
        "UPDATE pg_catalog.pg_attribute SET atthasmissing = false, attmissingval = NULL WHERE attrelid = $1 AND attnum = $2";
    let table = format!("{}.{}", missing.schema, missing.table);
    let failed = |source| Error::postgres(format!("setting column {} of {table} to the leader's default", missing.column), source);
    let Some(row) = client.query_opt(HERE, &[&missing.schema, &missing.table, &missing.column]).await.map_err(failed)? else {
        return Ok(());
    };
    let (oid, number, here, type_name): (u32, i16, Option<String>, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
    if here == missing.value {
        return Ok(());
    }
    let (schema, name, column) = (quote(&missing.schema), quote(&missing.table), quote(&missing.column));
    let update = format!("UPDATE ONLY {schema}.{name} SET {column} = $1::pg_catalog.text::{type_name}");
    client.execute(&update, &[&missing.value]).await.map_err(failed)?;
    client.batch_execute("SET LOCAL allow_system_table_mods = on").await.map_err(failed)?;
    client.execute(TAKE_AWAY, &[&oid, &number]).await.map_err(failed)?;
    client.batch_execute("SET LOCAL allow_system_table_mods = off").await.map_err(failed)
}

/// In the form of the message. The role that initdb made (10) is each node's own.
const ROLES: &str = "
SELECT pg_catalog.json_build_object(
    'roles', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'name', r.rolname, 'superuser', r.rolsuper, 'createdb', r.rolcreatedb, 'createrole', r.rolcreaterole, 'inherit', r.rolinherit,
        'login', r.rolcanlogin, 'replication', r.rolreplication, 'bypassrls', r.rolbypassrls, 'connlimit', r.rolconnlimit,
        'verifier', r.rolpassword, 'valid_until', r.rolvaliduntil,
        'config', (SELECT s.setconfig FROM pg_catalog.pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0)))
        FROM pg_catalog.pg_authid r WHERE r.oid <> 10), '[]'),
    'members', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'role', r.rolname, 'member', m.rolname, 'admin', a.admin_option))
        FROM pg_catalog.pg_auth_members a
        JOIN pg_catalog.pg_authid r ON r.oid = a.roleid
        JOIN pg_catalog.pg_authid m ON m.oid = a.member), '[]'),
    'db_settings', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'database', d.datname, 'role', r.rolname, 'config', s.setconfig))
        FROM pg_catalog.pg_db_role_setting s
        JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
        LEFT JOIN pg_catalog.pg_authid r ON r.oid = s.setrole
        WHERE s.setrole = 0 OR r.oid IS NOT NULL), '[]'))::pg_catalog.text,
    session_user::pg_catalog.text,
    ARRAY(SELECT datname::pg_catalog.text FROM pg_catalog.pg_database)";

pub(super) async fn make_roles(client: &Client, wanted: &RolesState) -> Result<(), Error> {
    let failed = |source| Error::postgres("reading the roles of this node", source);
    let row = client.query_one(ROLES, &[]).await.map_err(failed)?;
    let (json, own, databases): (String, String, Vec<String>) = (row.get(0), row.get(1), row.get(2));
    let now: RolesState = serde_json::from_str(&json).map_err(|error| Error::Progress(format!("roles of this node: {error}")))?;
    for statement in roles::changes(&now, wanted, &own, &databases) {
        // The statement may hold a verifier: it does not go into messages.
        let words = statement.split(' ').take(3).collect::<Vec<_>>().join(" ");
        client.batch_execute(&statement).await.map_err(|source| Error::postgres(format!("roles: {words}"), source))?;
    }
    Ok(())
}

//! The `howdah` schema of a node, who the node is, and whether its Postgres can be used at all.

use crate::config::{Config, Mode};
use crate::core::decisions::Decisions;
use crate::pg::connect::{self, Target};
use howdah_protocol::settings::{POSTGRES_VERSION_MIN, PROXY_ROLE};
use howdah_protocol::{InstanceId, LogIndex};
use tokio_postgres::Client;

const SQL: &str = include_str!("schema.sql");
/// What Howdah does in this session is local to the node: it fires no event triggers and is not captured.
const LOCAL: &str = "-c session_replication_role=replica";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] connect::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Server(Box<super::server::Error>),
    #[error("this PostgreSQL cannot be used:\n{}", .0.join("\n"))]
    Unfit(Vec<String>),
    #[error("the database belongs to node {node} of cluster \"{cluster}\"; this sidecar is node {expected_node} of \"{expected_cluster}\"")]
    Stranger { cluster: String, node: u64, expected_cluster: String, expected_node: u64 },
}

/// A settled node: its life, and the version of its server.
#[derive(Debug, Clone)]
pub struct Settled {
    pub instance: InstanceId,
    pub version: String,
}

/// Checks the server, makes the database, the roles and the schema where they are missing, and says who this node is.
pub async fn settle(config: &Config, target: &Target, new_instance: InstanceId) -> Result<Settled, Error> {
    let mut maintenance = target.clone();
    if config.postgres.mode == Mode::Managed {
        maintenance.database = "postgres".to_owned();
    }
    let server = maintenance.connect("howdah-settle", LOCAL).await?;
    must_be_fit(&server).await?;
    let exists = server.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&config.postgres.database]).await?.is_some();
    let existing = if exists { Some(target.connect("howdah-settle", LOCAL).await?) } else { None };
    if let Some(client) = &existing {
        must_be_ours(config, client).await?;
    }
    let (role, database) = (quoted(&config.postgres.app_role), quoted(&config.postgres.database));
    if server.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&config.postgres.app_role]).await?.is_none() {
        server.batch_execute(&format!("CREATE ROLE {role}")).await?;
    }
    let client = match existing {
        Some(client) => client,
        None => {
            server.batch_execute(&format!("CREATE DATABASE {database} OWNER {role}")).await?;
            target.connect("howdah-settle", LOCAL).await?
        }
    };
    client.batch_execute(SQL).await?;
    let password = config.postgres.proxy_password.replace('\'', "''");
    client.batch_execute(&format!("ALTER ROLE {PROXY_ROLE} PASSWORD '{password}'")).await?;
    let instance = identity(config, &client, new_instance).await?;
    let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    let version = version.split(' ').next().unwrap_or_default().to_owned();
    Ok(Settled { instance, version })
}

/// Writes nothing.
pub(super) async fn examine(config: &Config, client: &Client) -> Result<(), Error> {
    must_be_fit(client).await?;
    must_be_ours(config, client).await
}

async fn must_be_fit(server: &Client) -> Result<(), Error> {
    let problems = check(server).await?;
    if problems.is_empty() { Ok(()) } else { Err(Error::Unfit(problems)) }
}

/// A database that says nothing of itself is nobody's yet.
async fn must_be_ours(config: &Config, client: &Client) -> Result<(), Error> {
    if client.query_one("SELECT to_regclass('howdah.node') IS NULL", &[]).await?.get(0) {
        return Ok(());
    }
    let Some(row) = client.query_opt("SELECT cluster, node FROM howdah.node", &[]).await? else { return Ok(()) };
    let (cluster, node): (String, u64) = (row.get(0), row.get::<_, i64>(1).unsigned_abs());
    if cluster == config.cluster && node == config.node.0 {
        return Ok(());
    }
    Err(Error::Stranger { cluster, node, expected_cluster: config.cluster.clone(), expected_node: config.node.0 })
}

async fn identity(config: &Config, client: &Client, new_instance: InstanceId) -> Result<InstanceId, Error> {
    let fresh = i64::try_from(new_instance.0).expect("instance ids are made with 63 bits");
    let node = i64::try_from(config.node.0).unwrap_or(i64::MAX);
    let state = serde_json::to_string(&Decisions::default()).expect("maps with string keys become JSON");
    client
        .execute(
            "INSERT INTO howdah.node (cluster, node, instance) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[&config.cluster, &node, &fresh],
        )
        .await?;
    client
        .execute("INSERT INTO howdah.progress (applied_index, state) VALUES (0, $1::text::jsonb) ON CONFLICT DO NOTHING", &[&state])
        .await?;
    let row = client.query_one("SELECT instance FROM howdah.node", &[]).await?;
    Ok(InstanceId(row.get::<_, i64>(0).unsigned_abs()))
}

/// What a server says of itself.
#[derive(Debug, Clone)]
struct Found {
    version: u32,
    wal_level: String,
    slots_max: i32,
    senders_max: i32,
    prepared_max: i32,
    standby_names: String,
    fsync: String,
    superuser: String,
    encoding: String,
}

async fn check(server: &Client) -> Result<Vec<String>, Error> {
    let row = server
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('wal_level'),
                current_setting('max_replication_slots')::int, current_setting('max_wal_senders')::int,
                current_setting('max_prepared_transactions')::int, current_setting('synchronous_standby_names'),
                current_setting('fsync'), current_setting('is_superuser'), current_setting('server_encoding')",
            &[],
        )
        .await?;
    let found = Found {
        version: row.get::<_, i32>(0).unsigned_abs(),
        wal_level: row.get(1),
        slots_max: row.get(2),
        senders_max: row.get(3),
        prepared_max: row.get(4),
        standby_names: row.get(5),
        fsync: row.get(6),
        superuser: row.get(7),
        encoding: row.get(8),
    };
    Ok(problems(&found))
}

/// Of a `server_version_num`: what is to be done, where anything is.
pub(super) fn too_old(version: u32) -> Option<String> {
    const RACE: &str = "earlier ones have a start-up race in which commits do not wait";
    let text = || format!("PostgreSQL {}.{} is too old: upgrade to 15.13 or later ({RACE})", version / 10_000, version % 10_000);
    (version < POSTGRES_VERSION_MIN).then(text)
}

/// Everything that makes a server unfit, each with what to set.
fn problems(found: &Found) -> Vec<String> {
    let mut problems = Vec::new();
    let mut require = |good: bool, problem: String| {
        if !good {
            problems.push(format!("- {problem}"));
        }
    };
    require(too_old(found.version).is_none(), too_old(found.version).unwrap_or_default());
    require(found.wal_level == "logical", format!("wal_level is {}: set wal_level = logical and restart", found.wal_level));
    require(found.slots_max >= 4, format!("max_replication_slots is {}: set it to 4 or more and restart", found.slots_max));
    require(found.senders_max >= 4, format!("max_wal_senders is {}: set it to 4 or more and restart", found.senders_max));
    require(found.prepared_max >= 1, format!("max_prepared_transactions is {}: set it to 100 and restart", found.prepared_max));
    require(
        found.standby_names == howdah_protocol::settings::GATE_APPLICATION_NAME,
        format!("synchronous_standby_names is '{}': set synchronous_standby_names = 'howdah' and reload", found.standby_names),
    );
    require(found.fsync == "on", "fsync is off: set fsync = on and reload; nothing survives a crash without it".to_owned());
    require(found.superuser == "on", "the sidecar's role is not a superuser: ALTER ROLE ... SUPERUSER".to_owned());
    require(found.encoding == "UTF8", format!("the encoding is {}: create the database with ENCODING 'UTF8'", found.encoding));
    problems
}

/// Writes where a seeded node starts: the position, and the state there as the applier keeps it.
pub async fn set_origin(target: &Target, applied: LogIndex, state: &str) -> Result<(), Error> {
    let client = target.connect("howdah-settle", LOCAL).await?;
    let index = i64::try_from(applied.0).unwrap_or(i64::MAX);
    client.execute("UPDATE howdah.progress SET applied_index = $1, state = $2::text::jsonb", &[&index, &state]).await?;
    Ok(())
}

/// An SQL identifier.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Found {
        let text = |text: &str| text.to_owned();
        Found {
            version: POSTGRES_VERSION_MIN,
            wal_level: text("logical"),
            slots_max: 4,
            senders_max: 4,
            prepared_max: 1,
            standby_names: text("howdah"),
            fsync: text("on"),
            superuser: text("on"),
            encoding: text("UTF8"),
        }
    }

    #[test]
    fn a_fit_server_has_no_problems() {
        assert_eq!(problems(&good()), Vec::<String>::new());
    }

    #[test]
    fn an_old_server_and_a_wrong_setting_are_named_with_what_to_do() {
        let old = Found { version: 150_012, ..good() };
        assert!(problems(&old)[0].contains("15.12 is too old: upgrade"));
        let wrong = Found { wal_level: "replica".to_owned(), standby_names: String::new(), ..good() };
        let problems = problems(&wrong);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("set wal_level = logical") && problems[1].contains("set synchronous_standby_names = 'howdah'"));
    }
}

//! The sidecar's configuration file (TOML): what it may hold, its defaults, and what is wrong with it in words that help.

use howdah_protocol::{GroupId, NodeId};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Unix socket paths are limited to 107 bytes; PostgreSQL appends `/.s.PGSQL.65535`.
const SOCKET_DIR_BYTES_MAX: usize = 107 - "/.s.PGSQL.65535".len();

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the cluster. A node of another cluster is refused.
    pub cluster: String,
    #[serde(default)]
    pub group: GroupId,
    /// This node's id, from 1. Never reused.
    pub node: NodeId,
    /// The sidecar's own folder: log, marks, and in managed mode the Postgres data directory `pg`.
    pub data_dir: PathBuf,
    /// Where status, metrics and Raft are served.
    pub admin_listen: SocketAddr,
    /// Shared by all members of the cluster: peers and switchover calls must show it.
    pub secret: String,
    pub postgres: Postgres,
    /// The members that found the group, this node included; later the members are in the log. Of a node that joins, its own entry is enough.
    pub peers: Vec<Peer>,
    /// This node founds no group: it waits until it is added to one (`howdahctl node add`), is filled from another node, and follows.
    #[serde(default)]
    pub join: bool,
    /// The log is shortened when it takes more than this on disk. What is kept lets a node catch up that was away.
    #[serde(default = "default_log_bytes_max")]
    pub log_bytes_max: u64,
    /// It is shortened too when its older part is of longer ago than this, in seconds.
    #[serde(default = "default_log_age_max_s")]
    pub log_age_max_s: u64,
    /// An ex-leader with at most this many row changes that the group never accepted is repaired row by row; one with more is seeded again.
    #[serde(default = "default_repair_rows_max")]
    pub repair_rows_max: u32,
    /// How often the leader compares all nodes without being asked, in seconds; 0 for never.
    #[serde(default = "default_verify_interval_s")]
    pub verify_interval_s: u64,
    /// A follower's sessions that hold apply up for longer (a reader in front of DDL, a node that is filled from it) are ended, in seconds.
    #[serde(default = "default_apply_delay_max_s")]
    pub apply_delay_max_s: u64,
    #[serde(default)]
    pub seed: Seed,
    #[serde(default)]
    pub timing: Timing,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub node: NodeId,
    /// host:port of its admin API.
    pub admin: String,
    /// host:port of its Postgres.
    pub sql: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The sidecar runs initdb and supervises Postgres.
    Managed,
    /// Postgres is someone else's; the sidecar checks its settings.
    Attached,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    pub mode: Mode,
    /// Directory of `initdb`, `postgres`, `pg_dump`.
    pub bin_dir: PathBuf,
    /// host:port for clients. In attached mode where Postgres listens already.
    pub listen: SocketAddr,
    /// Directory of the Unix socket over which the sidecar speaks to Postgres.
    pub socket_dir: PathBuf,
    /// The user that Postgres runs as when the sidecar runs as root.
    #[serde(default = "default_os_user")]
    pub os_user: String,
    /// The one database that is replicated and served.
    pub database: String,
    /// The sidecar's own role, a superuser.
    #[serde(default = "default_superuser")]
    pub superuser: String,
    pub superuser_password: Option<String>,
    /// Role and password that own the database; created with the cluster.
    pub app_role: String,
    pub app_password: String,
    /// Password of `howdah_proxy`, with which proxies look up verifiers.
    pub proxy_password: String,
    /// Further server settings, managed mode only.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// What this node gives to a node that is being filled from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seed {
    /// Tables, or parts of one, that are copied at once.
    pub connections: u8,
    /// All of them together send at most this much.
    pub megabytes_per_second: u32,
    /// While this node's machine has no processor time to spare, they send this much.
    pub megabytes_per_second_busy: u32,
}

/// More than this would take connections away from applications.
const SEED_CONNECTIONS_MAX: u8 = 16;

impl Default for Seed {
    fn default() -> Self {
        Self { connections: 4, megabytes_per_second: 200, megabytes_per_second_busy: 5 }
    }
}

impl Seed {
    fn check(self) -> Result<(), String> {
        if self.connections == 0 || self.connections > SEED_CONNECTIONS_MAX {
            return Err(format!("seed.connections: 1 to {SEED_CONNECTIONS_MAX}"));
        }
        if self.megabytes_per_second_busy == 0 || self.megabytes_per_second_busy > self.megabytes_per_second {
            return Err("seed: needs 0 < megabytes_per_second_busy <= megabytes_per_second".into());
        }
        Ok(())
    }
}

/// All in milliseconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// How long a switchover or a stop waits for another leader.
    pub handover_ms: u64,
    /// How long Postgres may take to start.
    pub start_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 80, election_min_ms: 250, election_max_ms: 400, handover_ms: 5_000, start_ms: 60_000 }
    }
}

fn default_log_bytes_max() -> u64 {
    1 << 30
}

/// A week.
fn default_log_age_max_s() -> u64 {
    7 * 24 * 3600
}

fn default_repair_rows_max() -> u32 {
    100_000
}

/// Once a day.
fn default_verify_interval_s() -> u64 {
    86_400
}

/// As long as a hot standby's `max_standby_streaming_delay`.
fn default_apply_delay_max_s() -> u64 {
    30
}

fn default_os_user() -> String {
    "postgres".to_owned()
}

fn default_superuser() -> String {
    "howdah".to_owned()
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {what}")]
    Invalid { path: PathBuf, what: String },
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text).map_err(|source| Error::Parse { path: path.to_owned(), source: Box::new(source) })?;
        config.check().map_err(|what| Error::Invalid { path: path.to_owned(), what })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.node.0 == 0 {
            return Err("node: ids start at 1".into());
        }
        if self.secret.len() < 16 {
            return Err("secret: at least 16 characters".into());
        }
        let me = self.peers.iter().filter(|peer| peer.node == self.node).count();
        if me != 1 {
            return Err(format!("peers: node {} must stand there exactly once, it stands there {me} times", self.node));
        }
        let mut ids: Vec<_> = self.peers.iter().map(|peer| peer.node).collect();
        ids.sort();
        ids.dedup();
        if ids.len() != self.peers.len() {
            return Err("peers: every node id must be there once".into());
        }
        let socket_dir_len = self.postgres.socket_dir.as_os_str().len();
        if socket_dir_len > SOCKET_DIR_BYTES_MAX {
            return Err(format!(
                "postgres.socket_dir: {socket_dir_len} bytes, but the system takes {SOCKET_DIR_BYTES_MAX} at most; use a shorter path"
            ));
        }
        let timing = &self.timing;
        if timing.heartbeat_ms == 0 || timing.election_min_ms < 2 * timing.heartbeat_ms || timing.election_max_ms <= timing.election_min_ms
        {
            return Err("timing: needs 0 < 2 * heartbeat_ms <= election_min_ms < election_max_ms".into());
        }
        if timing.handover_ms < 1_000 {
            return Err("timing.handover_ms: at least 1000; a shorter wait gives up hand-overs that would have come about".into());
        }
        if self.log_age_max_s == 0 {
            return Err("log_age_max_s: at least 1".into());
        }
        if self.apply_delay_max_s == 0 {
            return Err("apply_delay_max_s: at least 1".into());
        }
        self.seed.check()?;
        for name in self.postgres.settings.keys() {
            if howdah_protocol::settings::is_fixed(name) {
                return Err(format!("postgres.settings.{name}: Howdah sets this one itself; take it out"));
            }
        }
        Ok(())
    }

    /// Stands while this node's Postgres is being filled: what is there then is not whole.
    #[must_use]
    pub fn seeding_mark(&self) -> PathBuf {
        self.data_dir.join("seeding")
    }

    /// Where repairs leave what they took away.
    #[must_use]
    pub fn rollback_dir(&self) -> PathBuf {
        self.data_dir.join("rollback")
    }

    /// The Postgres data directory of managed mode.
    #[must_use]
    pub fn pg_data(&self) -> PathBuf {
        self.data_dir.join("pg")
    }

    /// This node as the others know it.
    #[must_use]
    pub fn me(&self) -> &Peer {
        self.peers.iter().find(|peer| peer.node == self.node).expect("checked on load: this node is among the peers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        cluster = "c"
        node = 1
        data_dir = "/d"
        admin_listen = "127.0.0.1:1"
        secret = "0123456789abcdef"
        peers = [{ node = 1, admin = "127.0.0.1:1", sql = "127.0.0.1:2" }]
        [postgres]
        mode = "managed"
        bin_dir = "/b"
        listen = "127.0.0.1:2"
        socket_dir = "/s"
        database = "app"
        app_role = "app"
        app_password = "p"
        proxy_password = "q"
    "#;

    fn load(text: &str) -> Result<Config, String> {
        let file = std::env::temp_dir().join(format!("howdah-config-{}-{:?}.toml", std::process::id(), std::thread::current().id()));
        std::fs::write(&file, text).expect("temporary file");
        let loaded = Config::load(&file).map_err(|error| error.to_string());
        std::fs::remove_file(&file).expect("temporary file");
        loaded
    }

    #[test]
    fn a_good_file_loads() {
        assert_eq!(load(GOOD).map(|config| config.node), Ok(NodeId(1)));
    }

    #[test]
    fn bad_files_say_what_is_wrong() {
        let cases = [
            ("node = 1", "node = 0", "ids start at 1"),
            ("node = 1", "node = 2", "exactly once"),
            ("node = 1", "nod = 1", "unknown field `nod`"),
            ("0123456789abcdef", "short", "at least 16"),
            ("\"managed\"", "\"own\"", "unknown variant"),
            ("[postgres]", "timing = { handover_ms = 10 }\n[postgres]", "handover_ms: at least 1000"),
            ("[postgres]", "log_age_max_s = 0\n[postgres]", "log_age_max_s: at least 1"),
            ("[postgres]", "[seed]\nconnections = 0\n[postgres]", "seed.connections: 1 to 16"),
            ("[postgres]", "[seed]\nmegabytes_per_second = 1\n[postgres]", "megabytes_per_second_busy <="),
            ("socket_dir = \"/s\"", &format!("socket_dir = \"/{}\"", "s".repeat(100)), "shorter path"),
            ("proxy_password = \"q\"", "proxy_password = \"q\"\nsettings = { fsync = \"off\" }", "settings.fsync"),
            ("proxy_password = \"q\"", "proxy_password = \"q\"\nsettings = { Fsync = \"off\" }", "settings.Fsync"),
        ];
        for (from, to, expected) in cases {
            let error = load(&GOOD.replacen(from, to, 1)).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}

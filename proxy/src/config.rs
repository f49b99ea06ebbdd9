//! The configuration file: TOML, every key known, every value checked before anything starts.

use serde::Deserialize;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More sidecars than a Raft group sensibly has.
const SIDECARS_MAX: usize = 64;
const MESSAGE_BYTES_MIN: usize = 64 * 1024;
const MESSAGE_BYTES_LIMIT: usize = 1 << 30;
const WORKERS_MAX: usize = 256;
/// Each worker has pools of its own, so more of them share server connections less well.
const WORKERS_DEFAULT_MAX: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {problem}")]
    Read { path: PathBuf, problem: std::io::Error },
    #[error("{path}: {problem}")]
    Parse { path: PathBuf, problem: Box<toml::de::Error> },
    #[error("{path}: {key}: {problem}")]
    Value { path: PathBuf, key: &'static str, problem: String },
}

/// What `howdah-proxy` runs with. Every key but `sidecars` and `proxy_password` has a default.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where health, metrics and routing are served over HTTP.
    #[serde(default = "default_admin_listen")]
    pub admin_listen: SocketAddr,
    /// host:port of the admin API of every sidecar of the group.
    pub sidecars: Vec<String>,
    /// The one database that is served.
    #[serde(default = "default_database")]
    pub database: String,
    /// Password of the role `howdah_proxy`, with which verifiers are looked up.
    pub proxy_password: String,
    /// Clients connected at one time; the next is refused with 53300.
    #[serde(default = "default_clients_max")]
    pub clients_max: NonZeroUsize,
    /// Server connections per role and node, shared by all workers.
    #[serde(default = "default_pool_size")]
    pub pool_size: NonZeroUsize,
    /// How long a statement waits for a leader or for a free server connection, and a login for any server that is open.
    #[serde(default = "default_queue_ms")]
    pub queue_ms: NonZeroU64,
    /// How long a read waits for a follower that has caught up, before it goes to the leader.
    #[serde(default = "default_wait_ms")]
    pub wait_ms: u64,
    /// Writes in autocommit by the extended protocol, too, can be looked up in the log when their server dies under them. That costs one more
    /// packet from the server for each; without it they are answered 08007.
    #[serde(default = "default_autocommit_outcomes")]
    pub autocommit_outcomes: bool,
    /// Opening one server connection, login included.
    #[serde(default = "default_connect_ms")]
    pub connect_ms: NonZeroU64,
    /// From a client's connect to the end of its login, without the time that it waits for a server.
    #[serde(default = "default_handshake_ms")]
    pub handshake_ms: NonZeroU64,
    /// A larger message of a client ends its connection.
    #[serde(default = "default_message_bytes_max")]
    pub message_bytes_max: usize,
    /// A server connection that was unused for longer is closed.
    #[serde(default = "default_idle_server_ms")]
    pub idle_server_ms: NonZeroU64,
    /// How long busy clients may go on after SIGTERM.
    #[serde(default = "default_drain_ms")]
    pub drain_ms: u64,
    /// Threads that serve clients; as many as cores by default, at most 4.
    #[serde(default = "default_workers")]
    pub workers: NonZeroUsize,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("listen", &self.listen).field("sidecars", &self.sidecars).finish_non_exhaustive()
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 6432))
}

fn default_admin_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 6433))
}

fn default_database() -> String {
    "postgres".to_owned()
}

const fn default_autocommit_outcomes() -> bool {
    true
}

const fn size(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("defaults are not zero")
}

const fn millis(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).expect("defaults are not zero")
}

fn default_clients_max() -> NonZeroUsize {
    size(2000)
}

fn default_pool_size() -> NonZeroUsize {
    size(40)
}

fn default_queue_ms() -> NonZeroU64 {
    millis(10_000)
}

fn default_wait_ms() -> u64 {
    1000
}

fn default_connect_ms() -> NonZeroU64 {
    millis(5000)
}

fn default_handshake_ms() -> NonZeroU64 {
    millis(10_000)
}

fn default_message_bytes_max() -> usize {
    64 * 1024 * 1024
}

fn default_idle_server_ms() -> NonZeroU64 {
    millis(60_000)
}

fn default_drain_ms() -> u64 {
    10_000
}

fn default_workers() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    size(cores.min(WORKERS_DEFAULT_MAX))
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Names the file, and the key with what is allowed where one is wrong.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|problem| Error::Read { path: path.into(), problem })?;
        let config: Self = toml::from_str(&text).map_err(|problem| Error::Parse { path: path.into(), problem: Box::new(problem) })?;
        config.check().map_err(|(key, problem)| Error::Value { path: path.into(), key, problem })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.sidecars.is_empty() || self.sidecars.len() > SIDECARS_MAX {
            return Err(("sidecars", format!("{} given, allowed are 1 to {SIDECARS_MAX}", self.sidecars.len())));
        }
        for (nth, sidecar) in self.sidecars.iter().enumerate() {
            let port = sidecar.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                return Err(("sidecars", format!("\"{sidecar}\" is not of the form host:port")));
            }
            if self.sidecars[..nth].contains(sidecar) {
                return Err(("sidecars", format!("\"{sidecar}\" is given twice")));
            }
        }
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(("admin_listen", format!("{} is the same as listen, it must be another", self.admin_listen)));
        }
        if self.database.is_empty() {
            return Err(("database", "is empty, it must name the one database that is served".to_owned()));
        }
        if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_LIMIT).contains(&self.message_bytes_max) {
            let given = self.message_bytes_max;
            return Err(("message_bytes_max", format!("{given} given, allowed are {MESSAGE_BYTES_MIN} to {MESSAGE_BYTES_LIMIT}")));
        }
        if self.workers.get() > WORKERS_MAX {
            return Err(("workers", format!("{} given, allowed are 1 to {WORKERS_MAX}", self.workers)));
        }
        Ok(())
    }

    pub(crate) fn queue(&self) -> Duration {
        Duration::from_millis(self.queue_ms.get())
    }

    pub(crate) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    pub(crate) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms.get())
    }

    pub(crate) fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms.get())
    }

    pub(crate) fn idle_server(&self) -> Duration {
        Duration::from_millis(self.idle_server_ms.get())
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }

    /// What one worker may open per role and node.
    pub(crate) fn pool_size_per_worker(&self) -> usize {
        self.pool_size.get().div_ceil(self.workers.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), text).expect("written");
        Config::load(file.path()).map_err(|error| {
            let text = error.to_string();
            assert!(text.contains(&file.path().display().to_string()), "names the file: {text}");
            text
        })
    }

    #[test]
    fn the_smallest_file_is_enough() {
        let config = load("sidecars = [\"127.0.0.1:7101\"]\nproxy_password = \"x\"").expect("valid");
        assert_eq!(config.listen.port(), 6432);
        assert_eq!(config.queue(), Duration::from_secs(10));
        assert!(!format!("{config:?}").contains("\"x\""), "the password is not printed");
    }

    #[test]
    fn errors_name_the_key_and_what_is_allowed() {
        let base = "sidecars = [\"127.0.0.1:7101\"]\nproxy_password = \"x\"\n";
        for (text, expected) in [
            ("", vec!["sidecars"]),
            ("sidecars = []\nproxy_password = \"x\"", vec!["sidecars", "1 to 64"]),
            ("sidecars = [\"nowhere\"]\nproxy_password = \"x\"", vec!["sidecars", "nowhere", "host:port"]),
            (&format!("{base}listn = 1"), vec!["listn", "listen"]),
            (&format!("{base}queue_ms = 0"), vec!["queue_ms", "nonzero"]),
            (&format!("{base}listen = \"here\""), vec!["listen", "socket address"]),
            (&format!("{base}admin_listen = \"127.0.0.1:6432\""), vec!["admin_listen", "another"]),
            (&format!("{base}message_bytes_max = 10"), vec!["message_bytes_max", "65536"]),
        ] {
            let error = load(text).expect_err(text);
            for word in expected {
                assert!(error.contains(word), "{word} not in: {error}");
            }
        }
    }
}

//! Sessions of the sidecar itself, over the Unix socket that only the sidecar's superuser may use.
//!
//! They commit locally (`synchronous_commit = local`): the gate is for clients, and a sidecar that waited for itself would hang.

use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where this node's Postgres is, and as whom the sidecar speaks to it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Socket directory, or a host name for an attached Postgres.
    pub host: PathBuf,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to PostgreSQL at {host}:{port}: {source}")]
    Connect { host: String, port: u16, source: tokio_postgres::Error },
    #[error("PostgreSQL at {host}:{port} did not answer within {CONNECT_TIMEOUT:?}")]
    TimedOut { host: String, port: u16 },
}

impl Error {
    /// The server lives and does not take anybody yet: it recovers from a crash. (Or not any more: it stops.)
    #[must_use]
    pub fn is_starting_up(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.code() == Some(&SqlState::CANNOT_CONNECT_NOW))
    }
}

impl Target {
    /// Opens a session. `application_name` shows in pg_stat_activity; `options` are further start-up options such as `-c name=value`.
    pub async fn connect(&self, application_name: &str, options: &str) -> Result<Client, Error> {
        let host = self.host.display().to_string();
        let mut config = tokio_postgres::Config::new();
        config
            .host(&host)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name(application_name)
            .options(format!("-c synchronous_commit=local -c default_transaction_read_only=off {options}"))
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(password) = &self.password {
            config.password(password);
        }
        let port = self.port;
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls)).await;
        let (client, connection) =
            opened.map_err(|_| Error::TimedOut { host: host.clone(), port })?.map_err(|source| Error::Connect { host, port, source })?;
        // The task ends with the client; what goes wrong on the wire is reported by the client's next call.
        tokio::spawn(connection);
        Ok(client)
    }
}

//! Connections to the servers: opening them, keeping them for the next transaction, and the role look-ups that logins need.

pub(crate) mod connection;
pub(crate) mod pool;
pub(crate) mod roles;

use howdah_protocol::Epoch;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server's own FATAL or ERROR.
    #[error("{message}")]
    Server { code: String, message: String },
    #[error("{0}")]
    Auth(#[from] crate::auth::Error),
    #[error("the server asks for authentication method {0}, which is not SCRAM-SHA-256")]
    Method(u32),
    #[error("unexpected message from the server: {0}")]
    Protocol(&'static str),
    #[error("the server serves epoch {found:?}, not {expected}")]
    Epoch { expected: Epoch, found: Option<Epoch> },
    #[error("no server connection became free within {0:?}")]
    PoolFull(Duration),
    #[error("too many wait for a server connection")]
    QueueFull,
}

impl Error {
    /// Another attempt may succeed soon without anybody doing something.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Io(_) | Self::Timeout(_) | Self::Epoch { .. } | Self::Protocol(_) => true,
            // Starting up, shutting down, out of connection slots; and 28000 is a closed node's pg_hba.
            Self::Server { code, .. } => code.starts_with("57P") || code.starts_with("53") || code == "28000",
            Self::Auth(_) | Self::Method(_) | Self::PoolFull(_) | Self::QueueFull => false,
        }
    }
}

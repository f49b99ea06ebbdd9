//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: the server's side towards clients, the client's side towards servers.
//!
//! ```text
//!   client                     proxy                               Postgres
//!     | client-first   -->  server::start
//!     | <-- server-first        |
//!     | client-final   -->  AwaitClientFinal::finish
//!     | <-- server-final        |  ClientKey recovered
//!                               +--> client::start(Keys)  client-first -->
//!                                    AwaitServerFirst     <-- server-first
//!                                    AwaitServerFinal     client-final -->, <-- server-final
//! ```
//!
//! The proxy never learns a password. A login proves the ClientKey (it hashes to the verifier's StoredKey), and with it and the
//! verifier's ServerKey the proxy logs in to every server that holds the same verifier.
//!
//! Invariants:
//! - Pure: nonces come in as arguments, nothing is read or written. Each step consumes the one before it.
//! - A role that does not exist takes the same steps, with a salt that is always the same for its name, and fails at the end as a
//!   wrong password does.
//! - Secrets are compared in constant time and are never printed.
//! - No channel binding: `p` is refused, and SCRAM-SHA-256-PLUS must not be offered.
//!
//! SASLprep is not done: a password is taken as its bytes. For ASCII that is what PostgreSQL does; a password that normalization
//! (NFKC) would change is refused by a wrong proof, never accepted by mistake.

pub(crate) mod client;
mod keys;
mod message;
pub(crate) mod server;
mod verifier;

pub(crate) use client::Secret;
pub(crate) use keys::{ClientKey, ServerKey, StoredKey};
pub(crate) use message::Nonce;
pub(crate) use verifier::{BadVerifier, ITERATIONS_DEFAULT, MockSecret, Verifier};

/// The SASL mechanism's name on the wire.
pub(crate) const MECHANISM: &str = "SCRAM-SHA-256";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// Also for a role that does not exist, or that has no SCRAM verifier.
    #[error("password authentication failed")]
    WrongPassword,
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    #[error("SCRAM channel binding is not supported")]
    ChannelBinding,
    #[error("SCRAM authorization identity is not supported")]
    AuthorizationIdentity,
    #[error("SCRAM nonce of the other side is not an extension of ours")]
    Nonce,
    #[error("SCRAM iteration count {0} is out of bounds")]
    Iterations(u32),
    /// The server does not hold the verifier that it claims to hold.
    #[error("server's SCRAM signature is wrong")]
    ServerSignature,
    /// The server ended the exchange with `e=`.
    #[error("server refused the SCRAM exchange")]
    Refused,
}

impl Error {
    /// For the ErrorResponse to a client.
    pub(crate) fn sqlstate(self) -> &'static str {
        use howdah_protocol::sqlstate;
        match self {
            Self::WrongPassword | Self::Refused => sqlstate::INVALID_PASSWORD,
            Self::ChannelBinding | Self::AuthorizationIdentity => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::ServerSignature => sqlstate::INVALID_AUTHORIZATION,
            Self::Malformed(_) | Self::Nonce | Self::Iterations(_) => sqlstate::PROTOCOL_VIOLATION,
        }
    }
}

#[cfg(test)]
mod tests;

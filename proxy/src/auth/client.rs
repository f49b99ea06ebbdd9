//! The side that proves: the proxy towards a server.

use super::keys::{ClientKey, KEY_BYTES, SaltedPassword, ServerKey, equal};
use super::message::{attribute, decode, encode, text};
use super::server::auth_message;
use super::{Error, Nonce};
use std::fmt;

/// The GS2 header `n,,`: no channel binding, no other identity.
const GS2_HEADER: &str = "n,,";
/// A server that asks for more work than this is not one of ours. PBKDF2 runs on the caller's thread.
pub(crate) const ITERATIONS_MAX: u32 = 1_000_000;

/// What the proxy knows of a role.
#[derive(Clone)]
pub(crate) enum Secret {
    Password(String),
    /// Recovered in the client's own login. Good for servers that hold the same verifier.
    Keys {
        client_key: ClientKey,
        server_key: ServerKey,
    },
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Secret::Password(..)",
            Self::Keys { .. } => "Secret::Keys(..)",
        })
    }
}

impl From<super::server::Proven> for Secret {
    fn from(proven: super::server::Proven) -> Self {
        Self::Keys { client_key: proven.client_key, server_key: proven.server_key }
    }
}

/// The answer to client-first is awaited.
#[derive(Debug)]
pub(crate) struct AwaitServerFirst {
    secret: Secret,
    nonce: Nonce,
    client_first_bare: String,
}

/// The answer to client-final is awaited.
#[derive(Debug)]
pub(crate) struct AwaitServerFinal {
    signature: [u8; KEY_BYTES],
}

/// Gives client-first, for SASLInitialResponse. The role's name is left out: the server takes it from the startup packet.
pub(crate) fn start(secret: Secret, nonce: Nonce) -> (AwaitServerFirst, Vec<u8>) {
    let client_first_bare = format!("n=,r={}", nonce.as_str());
    let message = format!("{GS2_HEADER}{client_first_bare}").into_bytes();
    (AwaitServerFirst { secret, nonce, client_first_bare }, message)
}

impl AwaitServerFirst {
    /// Takes server-first (AuthenticationSASLContinue) and gives client-final (for SASLResponse).
    pub(crate) fn respond(self, server_first: &[u8]) -> Result<(AwaitServerFinal, Vec<u8>), Error> {
        let server_first = text(server_first)?;
        let (nonce, rest) = attribute(server_first, "r")?;
        let (salt, rest) = attribute(rest, "s")?;
        let (iterations, _extensions) = attribute(rest, "i")?;
        let extended = nonce.strip_prefix(self.nonce.as_str()).is_some_and(|servers| !servers.is_empty());
        if !extended {
            return Err(Error::Nonce);
        }
        let nonce = Nonce::parse(nonce)?;
        let salt = decode(salt, "s")?;
        let iterations: u32 = iterations.parse().map_err(|_| Error::Malformed("i"))?;
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(Error::Iterations(iterations));
        }

        let (client_key, server_key) = match self.secret {
            Secret::Keys { client_key, server_key } => (client_key, server_key),
            Secret::Password(password) => {
                let salted = SaltedPassword::new(password.as_bytes(), &salt, iterations);
                (salted.client_key(), salted.server_key())
            }
        };
        let without_proof = format!("c={},r={}", encode(GS2_HEADER.as_bytes()), nonce.as_str());
        let auth_message = auth_message(&self.client_first_bare, server_first, &without_proof);
        let proof = encode(&client_key.proof(&auth_message));
        let signature = server_key.signature(&auth_message);
        Ok((AwaitServerFinal { signature }, format!("{without_proof},p={proof}").into_bytes()))
    }
}

impl AwaitServerFinal {
    /// Takes server-final (AuthenticationSASLFinal): the server has proven that it holds the verifier.
    pub(crate) fn finish(self, server_final: &[u8]) -> Result<(), Error> {
        let message = text(server_final)?;
        if message.starts_with("e=") {
            return Err(Error::Refused);
        }
        let (signature, _extensions) = attribute(message, "v")?;
        let signature: [u8; KEY_BYTES] = decode(signature, "v")?.try_into().map_err(|_| Error::Malformed("v"))?;
        if equal(&signature, &self.signature) { Ok(()) } else { Err(Error::ServerSignature) }
    }
}

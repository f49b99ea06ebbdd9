//! What a server keeps of a password: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid.rolpassword`.

use super::keys::{KEY_BYTES, SaltedPassword, ServerKey, StoredKey, hmac};
use super::{MECHANISM, message};
use std::fmt;
use std::str::FromStr;

/// PostgreSQL's default.
pub(crate) const ITERATIONS_DEFAULT: u32 = 4096;
/// PostgreSQL's salts have 16 bytes; a longer one than this is no salt.
const SALT_BYTES_MAX: usize = 1024;
const MOCK_SALT_BYTES: usize = 16;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Box<[u8]>,
    pub(super) stored_key: StoredKey,
    pub(super) server_key: ServerKey,
}

/// Says what is wrong and never repeats the verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadVerifier {
    #[error("password verifier is not SCRAM-SHA-256 (is the password stored as md5? set password_encryption and set the password again)")]
    Mechanism,
    #[error("SCRAM verifier is not of the form SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>")]
    Form,
    #[error("SCRAM verifier has an invalid iteration count")]
    Iterations,
    #[error("SCRAM verifier has an invalid salt")]
    Salt,
    #[error("SCRAM verifier has an invalid key")]
    Key,
}

impl Verifier {
    /// The verifier of a password under this salt: PBKDF2, so milliseconds.
    pub(crate) fn from_password(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = SaltedPassword::new(password.as_bytes(), salt, iterations);
        Self {
            iterations: iterations.max(1),
            salt: salt.into(),
            stored_key: salted.client_key().stored_key(),
            server_key: salted.server_key(),
        }
    }

    /// For a role that does not exist: the same salt each time it is asked for, and keys that nobody has.
    pub(super) fn mock(secret: &MockSecret, user: &str) -> Self {
        let salt = hmac(&secret.0, &[b"salt", user.as_bytes()]);
        Self {
            iterations: ITERATIONS_DEFAULT,
            salt: salt[..MOCK_SALT_BYTES].into(),
            stored_key: StoredKey(hmac(&secret.0, &[b"stored", user.as_bytes()])),
            server_key: ServerKey(hmac(&secret.0, &[b"server", user.as_bytes()])),
        }
    }

    /// With the ClientKey of a login, what [`super::Secret::Keys`] needs.
    pub(crate) fn server_key(&self) -> &ServerKey {
        &self.server_key
    }
}

impl FromStr for Verifier {
    type Err = BadVerifier;

    fn from_str(text: &str) -> Result<Self, BadVerifier> {
        let rest = text.strip_prefix(MECHANISM).and_then(|rest| rest.strip_prefix('$')).ok_or(BadVerifier::Mechanism)?;
        let (password, keys) = rest.split_once('$').ok_or(BadVerifier::Form)?;
        let (iterations, salt) = password.split_once(':').ok_or(BadVerifier::Form)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(BadVerifier::Form)?;
        let iterations: u32 = iterations.parse().ok().filter(|count| *count > 0).ok_or(BadVerifier::Iterations)?;
        let salt = message::decode(salt, "salt").map_err(|_| BadVerifier::Salt)?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(BadVerifier::Salt);
        }
        Ok(Self { iterations, salt: salt.into(), stored_key: StoredKey(key(stored_key)?), server_key: ServerKey(key(server_key)?) })
    }
}

fn key(text: &str) -> Result<[u8; KEY_BYTES], BadVerifier> {
    let bytes = message::decode(text, "key").map_err(|_| BadVerifier::Key)?;
    bytes.try_into().map_err(|_| BadVerifier::Key)
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] = [&*self.salt, &self.stored_key.0, &self.server_key.0].map(message::encode);
        write!(f, "{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// Random, made once per process: whoever lacks it cannot tell a made-up salt from a stored one.
#[derive(Clone)]
pub(crate) struct MockSecret([u8; KEY_BYTES]);

impl MockSecret {
    pub(crate) fn new(random: [u8; 32]) -> Self {
        Self(random)
    }
}

impl fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MockSecret(..)")
    }
}

//! The text of SCRAM's messages: `key=value` pairs in a fixed order.

use super::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// No honest message comes near it; a longer one is refused before it is looked at.
pub(super) const MESSAGE_BYTES_MAX: usize = 4096;
/// What the server side asks for is 18 bytes in base64.
const NONCE_CHARS_MAX: usize = 512;

/// A random word that makes each exchange its own. Printable ASCII without a comma.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Nonce(String);

impl Nonce {
    /// As many bytes as PostgreSQL takes.
    pub(crate) const RANDOM_BYTES: usize = 18;

    pub(crate) fn new(random: [u8; Self::RANDOM_BYTES]) -> Self {
        Self(STANDARD.encode(random))
    }

    /// The other side's.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
        if text.is_empty() || text.len() > NONCE_CHARS_MAX || !printable {
            return Err(Error::Malformed("nonce"));
        }
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// This nonce with the other side's behind it.
    pub(super) fn followed_by(&self, other: &Self) -> Self {
        Self(format!("{}{}", self.0, other.0))
    }

    /// For the vectors of the RFC, whose nonces are texts.
    #[cfg(test)]
    pub(super) fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

pub(super) fn text(message: &[u8]) -> Result<&str, Error> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Error::Malformed("too long"));
    }
    std::str::from_utf8(message).map_err(|_| Error::Malformed("not UTF-8"))
}

/// Splits `key=value,rest`. The key is one letter.
pub(super) fn attribute<'a>(text: &'a str, key: &'static str) -> Result<(&'a str, &'a str), Error> {
    let value = text.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')).ok_or(Error::Malformed(key))?;
    Ok(value.split_once(',').unwrap_or((value, "")))
}

pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode(text: &str, what: &'static str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(text).map_err(|_| Error::Malformed(what))
}

//! The Postgres wire protocol, as bytes: framing, the messages that the proxy itself writes, and the few that it reads inside.
//!
//! Pure. A message is looked at where it lies in a buffer and is forwarded from there; nothing here builds a tree of values for
//! what only passes through.

pub(crate) mod buffer;
pub(crate) mod build;
pub(crate) mod frame;
pub(crate) mod read;
pub(crate) mod startup;

/// Transaction status of a `ReadyForQuery`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum TxStatus {
    #[default]
    Idle,
    Open,
    Failed,
}

impl TxStatus {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}

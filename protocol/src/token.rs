//! The session token: a vector of log positions, one per group.
//!
//! Text form: `h1:` then `group=index` pairs in group order, comma separated: `h1:0=4711,3=12`. The empty token is `h1:`.
//! The version stands first so that an application may store tokens across upgrades.

use crate::ids::{GroupId, LogIndex};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

const VERSION_PREFIX: &str = "h1:";
/// A token names at most this many groups; a longer text is refused before it is parsed.
pub const GROUPS_MAX: usize = 1024;

/// What a session has written or seen. Positions only go forward.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Token(BTreeMap<GroupId, LogIndex>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a Howdah token")]
pub struct BadToken(pub String);

impl Token {
    #[must_use]
    pub fn get(&self, group: GroupId) -> LogIndex {
        self.0.get(&group).copied().unwrap_or_default()
    }

    /// Raises the group's position to `index`; a lower one changes nothing.
    pub fn raise(&mut self, group: GroupId, index: LogIndex) {
        let position = self.0.entry(group).or_default();
        *position = index.max(*position);
    }

    /// Raises every position to the other token's.
    pub fn merge(&mut self, other: &Self) {
        for (group, index) in &other.0 {
            self.raise(*group, *index);
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSION_PREFIX)?;
        for (nth, (group, index)) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            write!(f, "{comma}{group}={index}")?;
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let bad = || BadToken(text.chars().take(64).collect());
        let pairs = text.strip_prefix(VERSION_PREFIX).ok_or_else(bad)?;
        let mut token = Self::default();
        for pair in pairs.split(',').filter(|pair| !pair.is_empty()) {
            let (group, index) = pair.split_once('=').ok_or_else(bad)?;
            token.raise(GroupId(group.parse().map_err(|_| bad())?), LogIndex(index.parse().map_err(|_| bad())?));
            if token.0.len() > GROUPS_MAX {
                return Err(bad());
            }
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_merging_only_goes_forward() {
        let mut token: Token = "h1:0=5,3=12".parse().expect("valid");
        assert_eq!(token.to_string(), "h1:0=5,3=12");
        token.merge(&"h1:0=4,1=7".parse().expect("valid"));
        assert_eq!(token.to_string(), "h1:0=5,1=7,3=12");
        assert_eq!(Token::default().to_string(), "h1:");
        assert_eq!("h1:".parse(), Ok(Token::default()));
    }

    #[test]
    fn strangers_are_refused() {
        for text in ["", "0=5", "h2:0=5", "h1:0", "h1:x=1", "h1:0=-1", "h1:0=99999999999999999999999"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}

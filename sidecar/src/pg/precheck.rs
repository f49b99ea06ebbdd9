//! What can be known of a Postgres before anything is written on this node. `schema::settle` looks again when the server runs.

use super::schema::{self, Error};
use super::server::{self, Server};
use crate::config::{Config, Mode};

/// Refuses programs that are too old, and a running server of somebody else that is unfit or belongs to another node.
pub async fn precheck(config: &Config) -> Result<(), Error> {
    match config.postgres.mode {
        Mode::Managed => {
            let said = Server::new(config).await?.version().await?;
            let problem = version(&said).map_or_else(|| Some(format!("`postgres --version` says \"{said}\"")), schema::too_old);
            problem.map_or(Ok(()), |problem| Err(Error::Unfit(vec![format!("- {problem}")])))
        }
        // One that does not run yet is looked at when it does.
        Mode::Attached => match Server::target(config).connect("howdah-precheck", "").await {
            Ok(client) => schema::examine(config, &client).await,
            Err(_) => Ok(()),
        },
    }
}

/// As `server_version_num`, of `postgres (PostgreSQL) 15.18 (Debian 15.18-0)`; 17beta1 and the like count as 17.0.
fn version(said: &str) -> Option<u32> {
    let mut numbers = said.split(") ").nth(1)?.split(|c: char| !c.is_ascii_digit());
    let major: u32 = numbers.next()?.parse().ok()?;
    let minor = said.split(") ").nth(1)?.split(' ').next()?.split_once('.').and_then(|(_, minor)| minor.parse().ok());
    Some(major * 10_000 + minor.unwrap_or(0))
}

impl From<server::Error> for Error {
    fn from(error: server::Error) -> Self {
        Self::Server(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(150_018));
        assert_eq!(version("postgres (PostgreSQL) 17beta1"), Some(170_000));
        assert_eq!(version("postgres (PostgreSQL) 9.6.24"), Some(90_000), "old enough");
        assert_eq!(version("no such thing"), None);
        assert!(schema::too_old(140_009).is_some_and(|text| text.contains("too old")));
        assert_eq!(schema::too_old(150_018), None);
    }
}

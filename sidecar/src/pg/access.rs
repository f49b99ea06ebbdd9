//! Who may connect: the part of the fence that Postgres itself keeps.
//!
//! A managed node has two files that only the sidecar writes: `pg_hba.conf`, and `howdah.conf` with the settings that change with the
//! role. Closed is the state in which Postgres starts, so a Postgres that comes back by itself serves nobody.
//!
//! A reload reaches the postmaster by a signal, some time later. Therefore opening and closing end with a probe: a TCP connection that
//! looks whether client roles are let as far as the password.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const PROBE_PAUSE: Duration = Duration::from_millis(1);

/// What client roles may do on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Closed,
    /// Transactions are read-only unless a session says otherwise; a stray write would wait at the gate for ever.
    Reads,
    Writes,
}

/// Writes both files, durably enough for their purpose: a torn file after a crash is rewritten before Postgres starts.
pub(crate) fn write_files(pg_data: &Path, access: Access, database: &str, superuser: &str) -> io::Result<()> {
    let read_only = if access == Access::Writes { "off" } else { "on" };
    replace(&pg_data.join("howdah.conf"), &format!("default_transaction_read_only = {read_only}\n"))?;
    replace(&pg_data.join("pg_hba.conf"), &hba(access, database, superuser))
}

/// An attached server's files are not ours. Its one database is closed by a connection limit of 0, which binds everybody but superusers.
pub(crate) async fn set_attached(session: &tokio_postgres::Client, access: Access, database: &str) -> Result<(), tokio_postgres::Error> {
    let limit = if access == Access::Closed { 0 } else { -1 };
    let read_only = if access == Access::Writes { "off" } else { "on" };
    let database = crate::pg::schema::quoted(database);
    session.batch_execute(&format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}")).await?;
    session.batch_execute(&format!("ALTER DATABASE {database} SET default_transaction_read_only = {read_only}")).await
}

fn hba(access: Access, database: &str, superuser: &str) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let (database, superuser) = (quoted(database), quoted(superuser));
    let mut text = format!(
        "# Written by howdah-sidecar; changes are lost.\n\
         # The socket directory can be entered by the server's user and root only.\n\
         local all {superuser} trust\n\
         local replication {superuser} trust\n"
    );
    if access != Access::Closed {
        text += &format!(
            "host all {superuser} all reject\n\
             host {database} all all scram-sha-256\n"
        );
    }
    text
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    if let Some(folder) = path.parent() {
        let owner = std::fs::metadata(folder)?;
        std::os::unix::fs::chown(&temporary, Some(std::os::unix::fs::MetadataExt::uid(&owner)), None)?;
    }
    std::fs::rename(temporary, path)
}

/// Waits until Postgres lets clients in (`open`), or keeps them out.
pub(crate) async fn wait_until(open: bool, address: SocketAddr, user: &str, database: &str) -> io::Result<()> {
    let deadline = Instant::now() + PROBE_TIMEOUT;
    loop {
        let answer = tokio::time::timeout_at(deadline, lets_in(address, user, database)).await;
        match answer {
            Ok(Ok(is_open)) if is_open == open => return Ok(()),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            _ if Instant::now() >= deadline => {
                let wanted = if open { "open" } else { "closed" };
                return Err(io::Error::other(format!("PostgreSQL at {address} is not {wanted} {PROBE_TIMEOUT:?} after the reload")));
            }
            _ => tokio::time::sleep(PROBE_PAUSE).await,
        }
    }
}

/// Whether a start-up packet is answered with a question for the password.
async fn lets_in(address: SocketAddr, user: &str, database: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let parameters = format!("user\0{user}\0database\0{database}\0\0");
    let length = u32::try_from(8 + parameters.len()).map_err(io::Error::other)?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.extend_from_slice(&196_608_u32.to_be_bytes());
    packet.extend_from_slice(parameters.as_bytes());
    stream.write_all(&packet).await?;
    Ok(stream.read_u8().await? == b'R')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_names_no_host_and_open_rejects_the_superuser_first() {
        assert!(!hba(Access::Closed, "app", "howdah").contains("host"));
        let open = hba(Access::Reads, "a\"b", "howdah");
        let lines: Vec<_> = open.lines().filter(|line| line.starts_with("host")).collect();
        assert_eq!(lines, ["host all \"howdah\" all reject", "host \"a\"\"b\" all all scram-sha-256"]);
    }
}

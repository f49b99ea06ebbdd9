//! The replication connection: what tokio-postgres does not have.
//!
//! ```text
//! Connection::open --command()*--> Connection --start()--> Stream: fill() / next() / status()
//! ```
//!
//! A [`Connection`] speaks the replication protocol's simple commands. [`Connection::start`] turns it into a [`Stream`], which carries
//! WAL data one way and positions the other, until one side goes away. Text values are asked for in one fixed form, whatever the server
//! or the role is configured to, so that every node reads them alike.
//!
//! Must never: report a position to the server that its caller did not name. A reported position releases COMMITs.

mod frames;
mod slot;
mod socket;
mod startup;
mod stream;

pub use slot::{ExportedSlot, confirmed_flush, create_slot, drop_slot, export_slot};
pub use stream::{Event, Stream};

use crate::pg::connect::Target;
use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use frames::Frame;
use howdah_protocol::Lsn;
use postgres_protocol::message::frontend;
use socket::{ReadHalf, WriteHalf};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Opening takes at most this long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How text values come, and no time-out of the role's or the server's configuration in the middle of it.
const OPTIONS: &str = "-c datestyle=ISO,YMD -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex -c timezone=UTC \
     -c lc_monetary=C -c search_path=pg_catalog -c synchronous_commit=local -c statement_timeout=0 -c lock_timeout=0";
/// Read at least this much at once, and as much as is there up to this.
const READ_BYTES: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach PostgreSQL at {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("replication connection: {0}")]
    Io(#[from] io::Error),
    #[error("PostgreSQL closed the replication connection")]
    Closed,
    #[error("PostgreSQL did not answer {what} within {limit:?}")]
    TimedOut { what: &'static str, limit: Duration },
    #[error("PostgreSQL: {severity}: {message} (SQLSTATE {code})")]
    Server { severity: String, code: String, message: String },
    #[error("PostgreSQL asks for {0} authentication, which the replication connection cannot do; use trust or scram-sha-256")]
    Authentication(&'static str),
    #[error("PostgreSQL asks for a password, and none is configured for the sidecar's role")]
    NoPassword,
    #[error("PostgreSQL sent {0} where the replication protocol has none")]
    Unexpected(String),
    #[error("a message of {bytes} bytes exceeds the {max} bytes that a change may have; store values of that size in parts")]
    TooLarge { bytes: usize, max: usize },
}

impl Error {
    /// The server's SQLSTATE, where it was the server that refused.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// A row of a simple command, as text.
pub type Row = Vec<Option<String>>;

#[derive(Debug)]
pub struct Connection {
    read: ReadHalf,
    write: WriteHalf,
    inbox: BytesMut,
    process_id: i32,
}

impl Connection {
    /// Opens a replication connection to the target's database. The server counts it as the synchronous standby `application_name`.
    pub async fn open(target: &Target, application_name: &str) -> Result<Self, Error> {
        let opening = async {
            let (read, write) = socket::connect(target).await?;
            let mut connection = Self { read, write, inbox: BytesMut::new(), process_id: 0 };
            startup::run(&mut connection, target, application_name).await?;
            Ok(connection)
        };
        let limit = OPEN_TIMEOUT;
        tokio::time::timeout(limit, opening).await.map_err(|_| Error::TimedOut { what: "a new replication connection", limit })?
    }

    /// The server process behind this connection, as in `pg_stat_replication.pid`.
    #[must_use]
    pub const fn process_id(&self) -> i32 {
        self.process_id
    }

    /// Runs one replication or SQL command, and answers its rows.
    pub async fn command(&mut self, sql: &str, what: &'static str, limit: Duration) -> Result<Vec<Row>, Error> {
        tokio::time::timeout(limit, self.run(sql)).await.map_err(|_| Error::TimedOut { what, limit })?
    }

    async fn run(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.send(|out| frontend::query(sql, out)).await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            let frame = self.receive().await?;
            match frame.tag {
                b'D' => rows.push(frames::data_row(&frame)?),
                b'E' => refused = Some(frames::server_error(&frame)),
                b'Z' => return refused.map_or(Ok(rows), Err),
                b'C' | b'I' | b'N' | b'S' | b'T' => {}
                other => return Err(frames::unexpected(other)),
            }
        }
    }

    /// Starts logical decoding of `slot` at `from`, or where the slot was confirmed if that is later.
    pub async fn start(self, slot: &str, publication: &str, from: Lsn) -> Result<Stream, Error> {
        self.start_as(slot, publication, from, "on").await
    }

    /// As [`Self::start`], and each transaction comes as a whole, once it has committed: of large ones nothing comes earlier.
    pub async fn start_whole(self, slot: &str, publication: &str, from: Lsn) -> Result<Stream, Error> {
        self.start_as(slot, publication, from, "off").await
    }

    async fn start_as(mut self, slot: &str, publication: &str, from: Lsn, streaming: &str) -> Result<Stream, Error> {
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '2', publication_names {}, messages 'true', streaming '{streaming}')",
            quote_identifier(slot),
            // The option's value is itself a list of identifiers.
            quote_literal(&quote_identifier(publication)),
        );
        let starting = async {
            self.send(|out| frontend::query(&sql, out)).await?;
            loop {
                let frame = self.receive().await?;
                match frame.tag {
                    b'W' => return Ok(()),
                    b'E' => return Err(frames::server_error(&frame)),
                    b'N' | b'S' => {}
                    other => return Err(frames::unexpected(other)),
                }
            }
        };
        let limit = OPEN_TIMEOUT;
        tokio::time::timeout(limit, starting).await.map_err(|_| Error::TimedOut { what: "the start of replication", limit })??;
        Ok(Stream::new(self))
    }

    /// Ends the connection in good order: the server then frees the slot at once.
    pub async fn close(mut self) {
        let _ = self
            .send(|out| {
                frontend::terminate(out);
                Ok(())
            })
            .await;
    }

    async fn send(&mut self, message: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Error> {
        let mut out = BytesMut::new();
        message(&mut out)?;
        Ok(self.write.write_all(&out).await?)
    }

    async fn receive(&mut self) -> Result<Frame, Error> {
        loop {
            if let Some(frame) = frames::next(&mut self.inbox)? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// One read of whatever is there. Cancelling it loses nothing.
    async fn fill(&mut self) -> Result<(), Error> {
        let spare = self.inbox.capacity() - self.inbox.len();
        let missing = frames::missing(&self.inbox);
        if spare < missing.max(READ_BYTES / 16) {
            // Takes the old memory again where nothing refers to it any more.
            self.inbox.reserve(missing.max(READ_BYTES));
        }
        match self.read.read_buf(&mut self.inbox).await? {
            0 => Err(Error::Closed),
            _ => Ok(()),
        }
    }
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn error_fields(body: &Bytes) -> Option<(String, String, String)> {
    // The parser wants the message with its header.
    let mut whole = BytesMut::with_capacity(body.len() + 5);
    bytes::BufMut::put_u8(&mut whole, b'E');
    bytes::BufMut::put_u32(&mut whole, u32::try_from(body.len() + 4).ok()?);
    whole.extend_from_slice(body);
    let Ok(Some(postgres_protocol::message::backend::Message::ErrorResponse(error))) =
        postgres_protocol::message::backend::Message::parse(&mut whole)
    else {
        return None;
    };
    let (mut severity, mut code, mut message) = (String::new(), String::new(), String::new());
    let mut fields = error.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'S' => severity = value(),
            b'C' => code = value(),
            b'M' => message = value(),
            _ => {}
        }
    }
    Some((severity, code, message))
}

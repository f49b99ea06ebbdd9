//! The connection while it streams: decoded changes in, positions out.

pub use super::frames::Event;

use super::{Connection, Error, frames};
use bytes::{Buf, BytesMut};
use howdah_protocol::Lsn;
use postgres_protocol::message::frontend;
use std::io;

/// Positions that the socket did not take yet. The server reads them even while it writes; if it does not, something is badly wrong.
const OUTBOX_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub struct Stream {
    connection: Connection,
    outbox: BytesMut,
}

impl Stream {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, outbox: BytesMut::new() }
    }

    #[must_use]
    pub const fn process_id(&self) -> i32 {
        self.connection.process_id
    }

    /// Waits until bytes are there and takes all of them, in one read. Cancelling it loses nothing.
    pub async fn fill(&mut self) -> Result<(), Error> {
        self.connection.fill().await
    }

    /// The next whole message of what [`Stream::fill`] took.
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            let Some(frame) = frames::next(&mut self.connection.inbox)? else { return Ok(None) };
            match frame.tag {
                b'd' => return frames::event(frame.body).map(Some),
                b'E' => return Err(frames::server_error(&frame)),
                b'c' => return Err(Error::Closed),
                b'N' | b'S' => {}
                other => return Err(frames::unexpected(other)),
            }
        }
    }

    /// Tells the server that everything up to `position` is safe, which releases the COMMITs that wait for it; 0/0 tells nothing but
    /// that we live. `reply`: ask it for a keepalive. Writes what the socket takes now; the rest is for [`Stream::flush`].
    pub fn status(&mut self, position: Lsn, reply: bool) -> Result<(), Error> {
        if self.outbox.len() > OUTBOX_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "PostgreSQL does not read the positions that it is sent").into());
        }
        frames::put_status(&mut self.outbox, position, reply);
        self.write_now()
    }

    /// Something is left for [`Stream::flush`].
    #[must_use]
    pub fn must_flush(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Waits until the socket takes more, and writes. Cancelling it loses nothing.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.connection.write.writable().await?;
        self.write_now()
    }

    /// Lets go in good order: the server frees the slot at once, not when it notices.
    pub fn close(mut self) {
        frontend::terminate(&mut self.outbox);
        // The socket closes anyhow, which says the same later.
        let _ = self.write_now();
    }

    fn write_now(&mut self) -> Result<(), Error> {
        while !self.outbox.is_empty() {
            match self.connection.write.try_write(&self.outbox) {
                Ok(written) => self.outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

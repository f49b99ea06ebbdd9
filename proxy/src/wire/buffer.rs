//! A read buffer in which messages are examined and forwarded where they lie.
//!
//! ```text
//!   0 ......... start ========= parsed --------- end ........ capacity
//!     free        kept (ready)         fresh           spare
//! ```
//!
//! For a server, `kept` is the span that is to be written to the client; for a client, what was handled but may have to be handled
//! again on another server. Invariant: `start <= parsed <= end <= bytes.len()`.

/// Room that is asked for when the buffer has none; one read of this size takes the answers of a whole pipeline.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;
/// An empty buffer that grew past this for one message gives the memory back.
const SHRINK_ABOVE_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    parsed: usize,
    end: usize,
}

impl Buffer {
    /// What was accepted and not yet released.
    pub(crate) fn kept(&self) -> &[u8] {
        &self.bytes[self.start..self.parsed]
    }

    /// What was read and not yet accepted or dropped.
    pub(crate) fn fresh(&self) -> &[u8] {
        &self.bytes[self.parsed..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Moves the first `len` fresh bytes to the kept ones.
    pub(crate) fn accept(&mut self, len: usize) {
        assert!(self.parsed + len <= self.end, "accepts only what was read");
        self.parsed += len;
    }

    /// Gives up the first `len` kept bytes.
    pub(crate) fn release(&mut self, len: usize) {
        assert!(self.start + len <= self.parsed, "releases only what was accepted");
        self.start += len;
        if self.start == self.end {
            self.start = 0;
            self.parsed = 0;
            self.end = 0;
            if self.bytes.len() > SHRINK_ABOVE_BYTES {
                self.bytes = Vec::new();
            }
        }
    }

    /// Gives up all kept bytes.
    pub(crate) fn release_kept(&mut self) {
        self.release(self.parsed - self.start);
    }

    /// Gives up the first `len` fresh bytes. Nothing may be kept: the span would have a hole.
    pub(crate) fn skip(&mut self, len: usize) {
        assert_eq!(self.start, self.parsed, "a hole in the kept span");
        self.accept(len);
        self.release(len);
    }

    /// Makes the kept bytes fresh again.
    pub(crate) fn rewind(&mut self) {
        self.parsed = self.start;
    }

    /// Free room of at least `want` bytes to read into; `filled` says how much of it was used.
    pub(crate) fn spare(&mut self, want: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < want {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.parsed -= self.start;
                self.start = 0;
            }
            if self.bytes.len() - self.end < want {
                self.bytes.resize((self.end + want).next_multiple_of(CHUNK_BYTES), 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    pub(crate) fn filled(&mut self, len: usize) {
        assert!(self.end + len <= self.bytes.len(), "a read cannot fill more than the room it was given");
        self.end += len;
    }

    #[cfg(test)]
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.spare(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_move_forward_and_rewind() {
        let mut buffer = Buffer::default();
        buffer.extend(b"abcdef");
        buffer.accept(2);
        assert_eq!((buffer.kept(), buffer.fresh()), (&b"ab"[..], &b"cdef"[..]));
        buffer.rewind();
        assert_eq!((buffer.kept(), buffer.fresh()), (&b""[..], &b"abcdef"[..]));
        buffer.skip(1);
        buffer.accept(5);
        buffer.release(2);
        assert_eq!((buffer.kept(), buffer.fresh()), (&b"def"[..], &b""[..]));
        buffer.release_kept();
        assert!(buffer.is_empty());
    }

    #[test]
    fn room_is_made_without_losing_what_is_held() {
        let mut buffer = Buffer::default();
        buffer.extend(&[7; CHUNK_BYTES]);
        buffer.accept(10);
        buffer.release(10);
        buffer.accept(1);
        buffer.extend(&[8; CHUNK_BYTES]);
        assert_eq!(buffer.kept(), &[7]);
        assert_eq!(buffer.fresh().len(), CHUNK_BYTES - 11 + CHUNK_BYTES);
        assert_eq!(buffer.fresh().last(), Some(&8));
    }

    #[test]
    fn memory_of_one_large_message_is_given_back() {
        let mut buffer = Buffer::default();
        buffer.extend(&vec![1; SHRINK_ABOVE_BYTES + 1]);
        buffer.skip(SHRINK_ABOVE_BYTES + 1);
        assert_eq!(buffer.bytes.len(), 0);
    }
}

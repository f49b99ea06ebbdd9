//! Message framing after the startup packet: a type byte, then a length that counts itself and the body.

/// Type byte and length of a message.
pub(crate) const HEADER_BYTES: usize = 5;

/// One message at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    /// Bytes of the whole message, header included.
    pub(crate) total: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("invalid message length {0}")]
    Length(i32),
    #[error("message of {bytes} bytes is larger than the limit of {max} bytes")]
    TooLarge { bytes: usize, max: usize },
}

/// The header at the front of `bytes`; `None` when it is not complete yet. `max` bounds the whole message.
pub(crate) fn header(bytes: &[u8], max: usize) -> Result<Option<Header>, Error> {
    let [kind, a, b, c, d, ..] = *bytes else { return Ok(None) };
    let length = i32::from_be_bytes([a, b, c, d]);
    let body = usize::try_from(length).ok().filter(|length| *length >= 4).ok_or(Error::Length(length))?;
    let total = body + 1;
    if total > max {
        return Err(Error::TooLarge { bytes: total, max });
    }
    Ok(Some(Header { kind, total }))
}

/// The first message of `bytes` with its body, once all of it is there.
pub(crate) fn message(bytes: &[u8], max: usize) -> Result<Option<(Header, &[u8])>, Error> {
    let Some(header) = header(bytes, max)? else { return Ok(None) };
    Ok(bytes.get(HEADER_BYTES..header.total).map(|body| (header, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_when_complete_and_nonsense_is_refused() {
        assert_eq!(header(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(header(b"S\0\0\0\x04", 100), Ok(Some(Header { kind: b'S', total: 5 })));
        assert_eq!(header(b"S\0\0\0\x03", 100), Err(Error::Length(3)));
        assert_eq!(header(b"S\xff\xff\xff\xff", 100), Err(Error::Length(-1)));
        assert_eq!(header(b"Q\0\0\0\x64", 100), Err(Error::TooLarge { bytes: 101, max: 100 }));
        assert_eq!(message(b"Q\0\0\0\x05", 100), Ok(None));
        assert_eq!(message(b"Q\0\0\0\x05\0S", 100).expect("valid").expect("complete").1, b"\0");
    }
}

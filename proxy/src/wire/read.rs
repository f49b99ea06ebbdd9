//! Looking inside the few messages whose body matters.

/// Splits a C string off the front.
pub(crate) fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// A C string that must be all of `bytes`.
pub(crate) fn whole_cstr(bytes: &[u8]) -> Option<&[u8]> {
    cstr(bytes).filter(|(_, rest)| rest.is_empty()).map(|(text, _)| text)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

/// Fields of an ErrorResponse or NoticeResponse that the proxy decides by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ErrorFields<'a> {
    /// Not localized: ERROR, FATAL, PANIC.
    pub(crate) severity: &'a [u8],
    pub(crate) code: &'a [u8],
    pub(crate) message: &'a [u8],
    /// The function of the server's source that reported it.
    pub(crate) routine: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    pub(crate) fn read(mut body: &'a [u8]) -> Self {
        let mut fields = Self::default();
        while let [kind, rest @ ..] = body
            && *kind != 0
        {
            let Some((text, rest)) = cstr(rest) else { break };
            match kind {
                b'V' => fields.severity = text,
                b'C' => fields.code = text,
                b'M' => fields.message = text,
                b'R' => fields.routine = text,
                _ => {}
            }
            body = rest;
        }
        fields
    }

    /// The server ends the connection after this.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(self.severity, b"FATAL" | b"PANIC")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.message).into_owned()
    }

    pub(crate) fn sqlstate(&self) -> String {
        String::from_utf8_lossy(self.code).into_owned()
    }
}

/// First column of a DataRow in text format; `None` for NULL or nonsense.
pub(crate) fn column(body: &[u8], nth: usize) -> Option<&[u8]> {
    let mut rest = body.get(2..)?;
    for _ in 0..nth {
        let length = u32_at(rest, 0)?;
        let skip = if length == u32::MAX { 0 } else { usize::try_from(length).ok()? };
        rest = rest.get(4 + skip..)?;
    }
    let length = usize::try_from(i32::from_be_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
    rest.get(4..4 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_fields_survive_a_cut_off_body() {
        let fields = ErrorFields::read(b"SFEHLER\0VERROR\0C25006\0Mno\0\0");
        assert_eq!((fields.severity, fields.code, fields.message), (&b"ERROR"[..], &b"25006"[..], &b"no"[..]));
        assert!(!fields.is_fatal());
        assert_eq!(ErrorFields::read(b"VFATAL\0C57").severity, b"FATAL");
    }

    #[test]
    fn columns_are_found_and_null_is_none() {
        let row = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x02bc";
        assert_eq!(column(row, 0), Some(&b"a"[..]));
        assert_eq!(column(row, 1), None);
        assert_eq!(column(row, 2), Some(&b"bc"[..]));
        assert_eq!(column(row, 3), None);
        assert_eq!(column(b"", 0), None);
    }
}

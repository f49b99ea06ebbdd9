//! The first packet of a connection, which has no type byte.

use super::read;

/// As in Postgres: a longer first packet is garbage or an attack.
pub(crate) const PACKET_BYTES_MAX: usize = 10_000;
/// Length field and protocol code.
pub(crate) const PACKET_BYTES_MIN: usize = 8;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS_ENCRYPTION: u32 = 80_877_104;
/// Parameters with this prefix are protocol options, not settings.
const OPTION_PREFIX: &str = "_pq_.";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Ssl,
    GssEncryption,
    Cancel {
        pid: u32,
        secret: u32,
    },
    Start {
        /// Minor version asked for; only 0 is spoken.
        minor: u16,
        /// Name and value as sent, without protocol options.
        parameters: Vec<(String, String)>,
        /// Protocol options; none is known.
        options: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("invalid length of startup packet")]
    Length,
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0")]
    Version { major: u32, minor: u32 },
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("startup parameter is not valid UTF-8")]
    Encoding,
    #[error("invalid length of cancel request")]
    CancelLength,
}

/// Length of the packet that begins with these four bytes.
pub(crate) fn length(first: [u8; 4]) -> Result<usize, Error> {
    let length = u32::from_be_bytes(first) as usize;
    if (PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&length) { Ok(length) } else { Err(Error::Length) }
}

/// Reads a packet; `body` is what follows the length.
pub(crate) fn read(body: &[u8]) -> Result<Packet, Error> {
    let code = read::u32_at(body, 0).ok_or(Error::Length)?;
    let rest = &body[4..];
    match code {
        SSL => Ok(Packet::Ssl),
        GSS_ENCRYPTION => Ok(Packet::GssEncryption),
        CANCEL => match (read::u32_at(rest, 0), read::u32_at(rest, 4), rest.len()) {
            (Some(pid), Some(secret), 8) => Ok(Packet::Cancel { pid, secret }),
            _ => Err(Error::CancelLength),
        },
        _ if code >> 16 == 3 => start(code, rest),
        _ => Err(Error::Version { major: code >> 16, minor: code & 0xffff }),
    }
}

fn start(code: u32, mut rest: &[u8]) -> Result<Packet, Error> {
    let mut parameters = Vec::new();
    let mut options = Vec::new();
    while rest != [0] {
        let (name, after) = read::cstr(rest).filter(|(name, _)| !name.is_empty()).ok_or(Error::Layout)?;
        let (value, after) = read::cstr(after).ok_or(Error::Layout)?;
        let name = std::str::from_utf8(name).map_err(|_| Error::Encoding)?;
        let value = std::str::from_utf8(value).map_err(|_| Error::Encoding)?;
        if name.starts_with(OPTION_PREFIX) {
            options.push(name.to_owned());
        } else {
            parameters.push((name.to_owned(), value.to_owned()));
        }
        rest = after;
    }
    let minor = u16::try_from(code & 0xffff).expect("masked to 16 bits");
    Ok(Packet::Start { minor, parameters, options })
}

/// Writes a startup packet for protocol 3.0.
pub(crate) fn write<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, 0, 3, 0, 0];
    for (name, value) in parameters {
        super::build::cstr(&mut out, name);
        super::build::cstr(&mut out, value);
    }
    out.push(0);
    finish(out)
}

pub(crate) fn write_cancel(pid: u32, secret: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&CANCEL.to_be_bytes());
    out.extend_from_slice(&pid.to_be_bytes());
    out.extend_from_slice(&secret.to_be_bytes());
    finish(out)
}

fn finish(mut out: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(out.len()).expect("startup parameters are bounded");
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_packet_is_read_again() {
        let packet = write([("user", "ann"), ("_pq_.x", "1"), ("database", "")]);
        assert_eq!(length([packet[0], packet[1], packet[2], packet[3]]), Ok(packet.len()));
        let expected = Packet::Start {
            minor: 0,
            parameters: vec![("user".into(), "ann".into()), ("database".into(), String::new())],
            options: vec!["_pq_.x".into()],
        };
        assert_eq!(read(&packet[4..]), Ok(expected));
        assert_eq!(read(&write_cancel(7, 9)[4..]), Ok(Packet::Cancel { pid: 7, secret: 9 }));
    }

    #[test]
    fn garbage_is_refused_by_name() {
        assert_eq!(length(*b"GET "), Err(Error::Length));
        assert_eq!(length([0, 0, 0, 7]), Err(Error::Length));
        assert_eq!(read(&[0, 2, 0, 0, 0]), Err(Error::Version { major: 2, minor: 0 }));
        assert_eq!(read(b"\0\x03\0\0user\0ann\0"), Err(Error::Layout));
        assert_eq!(read(b"\0\x03\0\0user\0ann"), Err(Error::Layout));
        assert_eq!(read(b"\0\x03\0\0\xff\0ann\0\0"), Err(Error::Encoding));
        assert_eq!(read(&[0x04, 0xd2, 0x16, 0x2e, 0]), Err(Error::CancelLength));
    }
}

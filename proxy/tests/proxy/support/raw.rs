//! A socket without a driver, for what a driver would not send.

use super::DEADLINE;
use std::io::{Read, Write};
use std::net::TcpStream;

pub struct Raw(pub TcpStream);

impl Raw {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        Self(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("written");
    }

    /// One message: its type and body.
    pub fn message(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).expect("a message");
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        self.0.read_exact(&mut body).expect("a body");
        (head[0], body)
    }

    /// Everything until the other side closes; fails when it does not.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the other side does not close: {error}"),
        }
        rest
    }
}

pub fn startup(code: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = code.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("short");
    [length.to_be_bytes().to_vec(), body].concat()
}

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short");
    [vec![kind], length.to_be_bytes().to_vec(), body.to_vec()].concat()
}

/// The value of one field of an ErrorResponse's body.
pub fn field(body: &[u8], kind: u8) -> String {
    let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&kind));
    String::from_utf8_lossy(&found.expect("the field")[1..]).into_owned()
}

/// Logins, which a driver would hide together with the socket.
impl Raw {
    /// Logs in and reads up to the first ReadyForQuery.
    pub async fn log_in(proxy: &super::proxy::Proxy) -> Self {
        Self::log_in_with(proxy, &[]).await
    }

    pub async fn log_in_with(proxy: &super::proxy::Proxy, parameters: &[(&str, &str)]) -> Self {
        use super::postgres::{DATABASE, PASSWORD, USER};
        use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
        let mut raw = Self::connect(proxy.port);
        let own = [("user", USER), ("database", DATABASE)];
        raw.send(&startup(3 << 16, &[&own[..], parameters].concat()));
        assert_eq!(raw.message().0, b'R');
        let mut scram = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        let length = u32::try_from(first.len()).expect("short").to_be_bytes();
        raw.send(&message(b'p', &[SCRAM_SHA_256.as_bytes(), b"\0", &length, &first].concat()));
        scram.update(&raw.message().1[4..]).expect("server-first");
        raw.send(&message(b'p', scram.message()));
        scram.finish(&raw.message().1[4..]).expect("server-final");
        loop {
            let (kind, body) = raw.message();
            assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body));
            if kind == b'Z' {
                return raw;
            }
        }
    }

    /// The messages up to ReadyForQuery, by type.
    pub fn until_ready(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut messages = Vec::new();
        loop {
            let message = self.message();
            let ready = message.0 == b'Z';
            messages.push(message);
            if ready {
                return messages;
            }
        }
    }

    /// The types of the messages up to ReadyForQuery.
    pub fn kinds(&mut self) -> String {
        self.until_ready().iter().map(|(kind, _)| char::from(*kind)).collect()
    }
}

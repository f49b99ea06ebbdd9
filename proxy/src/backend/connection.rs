//! One server connection: login as the client's role, and the check that the server is in the life that its sidecar announced.

use super::Error;
use crate::auth::{self, Secret, client as scram};
use crate::clock::{self, Millis};
use crate::core::params::ServerParameters;
use crate::core::server::ServerState;
use crate::core::view::Serving;
use crate::wire::buffer::{Buffer, CHUNK_BYTES};
use crate::wire::frame::{self, HEADER_BYTES};
use crate::wire::read::{self, ErrorFields};
use crate::wire::{build, startup};
use howdah_protocol::Epoch;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the proxy reads completely of a server outside of relaying: logins, look-ups.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);

/// What to open.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    /// host:port.
    pub(crate) address: &'a str,
    pub(crate) role: &'a str,
    pub(crate) secret: &'a Secret,
    pub(crate) database: &'a str,
    pub(crate) parameters: &'a Arc<ServerParameters>,
    pub(crate) serving: Serving,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) input: Buffer,
    pub(crate) state: ServerState,
    pub(crate) serving: Serving,
    pub(crate) peer: SocketAddr,
    /// For cancel requests.
    pub(crate) pid: u32,
    pub(crate) secret: u32,
    pub(crate) parameters: Arc<ServerParameters>,
    /// ParameterStatus of the login, by name.
    pub(crate) reported: Vec<(String, String)>,
    pub(crate) idle_since: Millis,
}

/// Opens a connection and checks the serving epoch, all within `limit`.
pub(crate) async fn open(target: Target<'_>, limit: Duration) -> Result<Connection, Error> {
    tokio::time::timeout(limit, login(target)).await.map_err(|_| Error::Timeout(limit))?
}

async fn login(target: Target<'_>) -> Result<Connection, Error> {
    let stream = TcpStream::connect(target.address).await?;
    crate::net::tune(&stream)?;
    let mut connection = Connection {
        peer: stream.peer_addr()?,
        stream,
        input: Buffer::default(),
        state: ServerState::new(!target.serving.leads),
        serving: target.serving,
        pid: 0,
        secret: 0,
        parameters: Arc::clone(target.parameters),
        reported: Vec::new(),
        idle_since: clock::now(),
    };
    let options = target.parameters.options_text(!target.serving.leads);
    let own = [("user", target.role), ("database", target.database), ("options", &options)];
    let pairs = target.parameters.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    connection.stream.write_all(&startup::write(own.into_iter().chain(pairs))).await?;
    connection.authenticate(target.secret.clone()).await?;
    connection.await_ready().await?;
    connection.check_epoch().await?;
    Ok(connection)
}

impl Connection {
    async fn authenticate(&mut self, secret: Secret) -> Result<(), Error> {
        let (await_first, client_first) = scram::start(secret, auth::Nonce::new(rand::random()));
        let data = match self.authentication().await? {
            (0, _) => return Ok(()),
            (10, data) => data,
            (other, _) => return Err(Error::Method(other)),
        };
        if !data.split(|byte| *byte == 0).any(|name| name == auth::MECHANISM.as_bytes()) {
            return Err(Error::Method(10));
        }
        let mut out = Vec::new();
        build::message(&mut out, b'p', |out| {
            build::cstr(out, auth::MECHANISM);
            out.extend_from_slice(&u32::try_from(client_first.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(&client_first);
        });
        self.stream.write_all(&out).await?;
        let (11, server_first) = self.authentication().await? else { return Err(Error::Protocol("no SASLContinue")) };
        let (await_final, client_final) = await_first.respond(&server_first)?;
        out.clear();
        build::message(&mut out, b'p', |out| out.extend_from_slice(&client_final));
        self.stream.write_all(&out).await?;
        let (12, server_final) = self.authentication().await? else { return Err(Error::Protocol("no SASLFinal")) };
        await_final.finish(&server_final)?;
        match self.authentication().await? {
            (0, _) => Ok(()),
            _ => Err(Error::Protocol("no AuthenticationOk")),
        }
    }

    async fn authentication(&mut self) -> Result<(u32, Vec<u8>), Error> {
        loop {
            match self.message().await? {
                (b'R', body) => {
                    let code = read::u32_at(&body, 0).ok_or(Error::Protocol("short authentication message"))?;
                    return Ok((code, body[4..].to_vec()));
                }
                (b'N', _) => {}
                _ => return Err(Error::Protocol("not an authentication message")),
            }
        }
    }

    async fn await_ready(&mut self) -> Result<(), Error> {
        loop {
            match self.message().await? {
                (b'Z', _) => return Ok(()),
                (b'S', body) => {
                    if let Some((name, rest)) = read::cstr(&body)
                        && let Some(value) = read::whole_cstr(rest)
                    {
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        self.reported.push((text(name), text(value)));
                    }
                }
                (b'K', body) => {
                    self.pid = read::u32_at(&body, 0).ok_or(Error::Protocol("short key data"))?;
                    self.secret = read::u32_at(&body, 4).ok_or(Error::Protocol("short key data"))?;
                }
                _ => {}
            }
        }
    }

    /// A server that recovered from a crash on its own has forgotten its epoch, and may show commits that the group never decided.
    async fn check_epoch(&mut self) -> Result<(), Error> {
        let expected = self.serving.epoch;
        let found = match self.query("SELECT howdah.serving_epoch()").await {
            Ok(found) => found.and_then(|row| row.first().cloned().flatten()).and_then(|text| text.parse().ok()).map(Epoch),
            Err(error) => return Err(error),
        };
        if found == Some(expected) { Ok(()) } else { Err(Error::Epoch { expected, found }) }
    }

    /// Runs a text of the proxy's own and gives the first row, in text format.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Option<Vec<Option<String>>>, Error> {
        let mut out = Vec::new();
        build::query(&mut out, sql);
        self.stream.write_all(&out).await?;
        let mut row = None;
        let mut failure = None;
        loop {
            match self.try_message().await? {
                (b'D', body) if row.is_none() => row = Some(columns(&body)),
                (b'E', body) => {
                    let fields = ErrorFields::read(&body);
                    let error = Error::Server { code: fields.sqlstate(), message: fields.text() };
                    if fields.is_fatal() {
                        return Err(error);
                    }
                    failure = Some(error);
                }
                (b'Z', _) => return failure.map_or(Ok(row), Err),
                _ => {}
            }
        }
    }

    /// Brings the session settings to those of the session that is to use it.
    pub(crate) async fn apply_settings(&mut self, settings: &crate::core::vars::Settings) -> Result<(), Error> {
        let Some(sql) = crate::core::vars::difference(&self.state.settings, settings) else { return Ok(()) };
        // A simple query takes the unnamed statement away.
        self.state.unnamed = None;
        tokio::time::timeout(SETTINGS_TIMEOUT, self.query(&sql)).await.map_err(|_| Error::Timeout(SETTINGS_TIMEOUT))??;
        self.state.settings = Arc::clone(settings);
        Ok(())
    }

    /// The next message; an ErrorResponse is an error.
    async fn message(&mut self) -> Result<(u8, Vec<u8>), Error> {
        let (kind, body) = self.try_message().await?;
        if kind == b'E' {
            let fields = ErrorFields::read(&body);
            return Err(Error::Server { code: fields.sqlstate(), message: fields.text() });
        }
        Ok((kind, body))
    }

    async fn try_message(&mut self) -> Result<(u8, Vec<u8>), Error> {
        loop {
            let found = frame::message(self.input.fresh(), MESSAGE_BYTES_MAX).map_err(|_| Error::Protocol("bad message length"))?;
            if let Some((header, body)) = found {
                let message = (header.kind, body.to_vec());
                self.input.skip(header.total);
                return Ok(message);
            }
            let len = self.stream.read(self.input.spare(HEADER_BYTES.max(CHUNK_BYTES))).await?;
            if len == 0 {
                return Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            self.input.filled(len);
        }
    }

    /// False once the server closed or said something that nobody asked for. Costs no system call while nothing came.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if self.stream.poll_read_ready(&mut context).is_pending() {
            return true;
        }
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

fn columns(body: &[u8]) -> Vec<Option<String>> {
    let count = body.get(..2).map_or(0, |count| usize::from(u16::from_be_bytes([count[0], count[1]])));
    (0..count).map(|nth| read::column(body, nth).map(|value| String::from_utf8_lossy(value).into_owned())).collect()
}

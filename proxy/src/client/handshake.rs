//! From the first byte to the proven identity.

use super::Worker;
use crate::auth::{self, Secret, Verifier, server as scram};
use crate::clock;
use crate::core::params::{self, Startup};
use crate::wire::build::{self, Report};
use crate::wire::frame;
use crate::wire::startup::{self, Packet};
use howdah_protocol::settings::PROXY_ROLE;
use howdah_protocol::sqlstate;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest message of a login.
const MESSAGE_BYTES_MAX: usize = 10_000;
/// SSLRequest and GSSENCRequest, each refused once or twice.
const ENCRYPTION_REQUESTS_MAX: usize = 4;
const AUTHENTICATION_SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// What a new connection turned out to be.
#[derive(Debug)]
pub(crate) enum Hello {
    Cancel { pid: u32, secret: u32 },
    Client(Box<Startup>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The client is gone, or was never one.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The client is told.
    #[error("{}", .0.message)]
    Refused(Report),
}

impl From<Report> for Error {
    fn from(report: Report) -> Self {
        Self::Refused(report)
    }
}

fn violation(error: impl std::fmt::Display) -> Error {
    Error::Refused(Report::new(sqlstate::PROTOCOL_VIOLATION, error.to_string()))
}

/// What is left of the time that a client has for its part of the login. What it has to wait for does not count.
#[derive(Debug)]
pub(crate) struct Allowance {
    whole: Duration,
    left: Duration,
}

impl Allowance {
    pub(crate) const fn new(whole: Duration) -> Self {
        Self { whole, left: whole }
    }

    /// One step of the client's.
    pub(crate) async fn within<T>(&mut self, step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let since = clock::now();
        let done = tokio::time::timeout(self.left, step).await;
        self.left = self.left.saturating_sub(clock::now().since(since));
        done.unwrap_or_else(|_| Err(violation(format!("login took longer than {} ms", self.whole.as_millis()))))
    }
}

/// Reads startup packets until one says what the connection is for.
pub(crate) async fn hello(stream: &mut TcpStream) -> Result<Hello, Error> {
    for _ in 0..ENCRYPTION_REQUESTS_MAX {
        let mut first = [0; 4];
        stream.read_exact(&mut first).await?;
        let length = startup::length(first).map_err(violation)?;
        let mut body = vec![0; length - first.len()];
        stream.read_exact(&mut body).await?;
        match startup::read(&body) {
            Ok(Packet::Ssl | Packet::GssEncryption) => stream.write_all(b"N").await?,
            Ok(Packet::Cancel { pid, secret }) => return Ok(Hello::Cancel { pid, secret }),
            Ok(Packet::Start { minor, parameters, options }) => {
                if minor > 0 || !options.is_empty() {
                    let mut out = Vec::new();
                    build::negotiate_version(&mut out, &options);
                    stream.write_all(&out).await?;
                }
                return Ok(Hello::Client(Box::new(params::read(parameters)?)));
            }
            Err(error @ startup::Error::Version { .. }) => {
                return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, error.to_string()).into());
            }
            Err(error) => return Err(violation(error)),
        }
    }
    Err(violation("too many encryption requests"))
}

/// SCRAM-SHA-256. Gives what opens server connections as this role.
pub(crate) async fn authenticate(
    stream: &mut TcpStream,
    worker: &Worker,
    startup: &Startup,
    allowance: &mut Allowance,
) -> Result<Secret, Error> {
    let user = startup.user.as_str();
    let wrong = || Report::new(sqlstate::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""));
    let mut out = Vec::new();
    build::authentication(&mut out, AUTHENTICATION_SASL, format!("{}\0\0", auth::MECHANISM).as_bytes());
    let initial = allowance.within(exchange(stream, &out)).await?;
    let client_first = sasl_initial(&initial)?;
    let nonce = auth::Nonce::new(rand::random());
    let known = look_up(worker, user, false).await?;
    let login = |verifier| scram::start(user, verifier, &worker.mock, &nonce, client_first).map_err(|error| refused(user, error));
    let (waiting, server_first) = login(known.clone())?;
    out.clear();
    build::authentication(&mut out, SASL_CONTINUE, &server_first);
    let client_final = allowance.within(exchange(stream, &out)).await?;
    let (proven, server_final) = match waiting.finish(&client_final) {
        Ok(proven) => proven,
        Err(auth::Error::WrongPassword) => {
            worker.metrics.logins_failed_total.add(1);
            // Perhaps the password was changed a moment ago: the next attempt meets the new verifier.
            look_up(worker, user, true).await?;
            return Err(wrong().into());
        }
        Err(error) => return Err(refused(user, error)),
    };
    out.clear();
    build::authentication(&mut out, SASL_FINAL, &server_final);
    allowance.within(async { Ok(stream.write_all(&out).await?) }).await?;
    Ok(Secret::Keys { client_key: proven.client_key, server_key: proven.server_key })
}

/// A connection, a login and a question on a busy machine, whatever a statement may wait.
const LOOK_UP_MIN: Duration = Duration::from_secs(2);

/// The role's verifier. It is waited for as long as a statement waits for a server: any that is open can be asked.
async fn look_up(worker: &Worker, user: &str, anew: bool) -> Result<Option<Verifier>, Error> {
    if user == PROXY_ROLE {
        // The proxy's own role reads verifiers; nobody else logs in as it.
        return Ok(None);
    }
    let since = clock::now();
    worker.roles.look_up(user, anew, worker.config.queue().max(LOOK_UP_MIN)).await.ok_or_else(|| {
        let waited = clock::now().since(since).as_millis();
        let text = format!("cannot log in: no server is open to look up the role: waited {waited} ms");
        Report::new(sqlstate::CANNOT_CONNECT_NOW, text).hint("Try again later.").into()
    })
}

fn refused(user: &str, error: auth::Error) -> Error {
    let message = match error {
        auth::Error::WrongPassword | auth::Error::Refused => format!("password authentication failed for user \"{user}\""),
        other => other.to_string(),
    };
    Report::new(error.sqlstate(), message).into()
}

/// Says something, and reads the answer.
async fn exchange(stream: &mut TcpStream, out: &[u8]) -> Result<Vec<u8>, Error> {
    stream.write_all(out).await?;
    password_message(stream).await
}

async fn password_message(stream: &mut TcpStream) -> Result<Vec<u8>, Error> {
    let mut head = [0; frame::HEADER_BYTES];
    stream.read_exact(&mut head).await?;
    let header = frame::header(&head, MESSAGE_BYTES_MAX).map_err(violation)?;
    let header = header.filter(|header| header.kind == b'p').ok_or_else(|| violation("expected SASL response"))?;
    let mut body = vec![0; header.total - frame::HEADER_BYTES];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// client-first of a SASLInitialResponse.
fn sasl_initial(body: &[u8]) -> Result<&[u8], Error> {
    let (mechanism, rest) = crate::wire::read::cstr(body).ok_or_else(|| violation("malformed SASL response"))?;
    if mechanism != auth::MECHANISM.as_bytes() {
        return Err(violation("client selected an invalid SASL authentication mechanism"));
    }
    match crate::wire::read::u32_at(rest, 0) {
        Some(length) if length as usize == rest.len() - 4 => Ok(&rest[4..]),
        _ => Err(violation("malformed SASL response")),
    }
}

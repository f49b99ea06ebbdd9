//! The little HTTP that the proxy asks of sidecars.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

const ANSWER_BYTES_MAX: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer, or the head of a stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("connect to {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("{address}: no answer in time")]
    Timeout { address: String },
    #[error("{address}: {source}")]
    Http { address: String, source: hyper::Error },
    #[error("{address}: {status}")]
    Status { address: String, status: StatusCode },
    #[error("{address}: unreadable answer: {problem}")]
    Answer { address: String, problem: String },
}

/// Asks one address again and again over one connection.
#[derive(Debug, Default)]
pub(crate) struct Client {
    sender: Option<(String, hyper::client::conn::http1::SendRequest<Empty<Bytes>>)>,
}

impl Client {
    /// GET, with the JSON of the answer.
    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&mut self, address: &str, path: &str) -> Result<T, Error> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(address, path)).await;
        let answer = asked.unwrap_or_else(|_| Err(Error::Timeout { address: address.to_owned() }));
        if answer.is_err() {
            self.sender = None;
        }
        let problem = |error: serde_json::Error| Error::Answer { address: address.to_owned(), problem: error.to_string() };
        serde_json::from_slice(&answer?).map_err(problem)
    }

    async fn ask(&mut self, address: &str, path: &str) -> Result<Bytes, Error> {
        let known = self.sender.take().filter(|(known, sender)| known == address && !sender.is_closed());
        let (address, mut sender) = match known {
            Some(known) => known,
            None => (address.to_owned(), connect(address).await?),
        };
        let response = send(&mut sender, &address, path).await?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Error::Answer { address: address.clone(), problem: error.to_string() })?.to_bytes();
        self.sender = Some((address, sender));
        Ok(body)
    }
}

/// GET, with the body as it comes.
pub(crate) async fn open(address: &str, path: &str) -> Result<Incoming, Error> {
    let mut sender = connect(address).await?;
    let sent = tokio::time::timeout(ANSWER_TIMEOUT, send(&mut sender, address, path)).await;
    Ok(sent.map_err(|_| Error::Timeout { address: address.to_owned() })??.into_body())
}

async fn connect(address: &str) -> Result<hyper::client::conn::http1::SendRequest<Empty<Bytes>>, Error> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected
        .map_err(|_| Error::Timeout { address: address.to_owned() })?
        .and_then(|stream| crate::net::tune(&stream).map(|()| stream))
        .map_err(|source| Error::Connect { address: address.to_owned(), source })?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|source| Error::Http { address: address.to_owned(), source })?;
    // It ends with the sender and the body; its error is theirs.
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(
    sender: &mut hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    address: &str,
    path: &str,
) -> Result<hyper::Response<Incoming>, Error> {
    let answer = |problem: String| Error::Answer { address: address.to_owned(), problem };
    let request = Request::get(path).header("host", address).body(Empty::new()).map_err(|error| answer(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|source| Error::Http { address: address.to_owned(), source })?;
    if response.status() != StatusCode::OK {
        return Err(Error::Status { address: address.to_owned(), status: response.status() });
    }
    Ok(response)
}

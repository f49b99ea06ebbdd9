//! A small client for other nodes' admin API: one connection per call.

use super::SECRET_HEADER;
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::http::request::Builder;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// The kernel tries again after 1, 3, 7, 15 and 31 seconds: a node that was out of reach for five would be found after seven, or fifteen.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Parts of a request that wait for the network.
const CONVERSATION_LINES_MAX: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach {address}: {source}")]
    Reach { address: String, source: std::io::Error },
    #[error("{address}: {source}")]
    Http { address: String, source: hyper::Error },
    #[error("{address} answered {status}: {body}")]
    Refused { address: String, status: u16, body: String },
    #[error("{address} answered something else than expected: {what}")]
    Garbled { address: String, what: String },
}

/// Sends a GET and gives the answer once its head is there; its body is still to be read. The caller bounds the time.
pub async fn get(address: &str, path: &str, secret: Option<&str>) -> Result<Response<Incoming>, Error> {
    send(address, Request::get(path), secret, Bytes::new()).await
}

/// As [`get`], a POST.
pub async fn post(address: &str, path: &str, secret: &str, body: Bytes) -> Result<Response<Incoming>, Error> {
    send(address, Request::post(path), Some(secret), body).await
}

/// A POST whose body is sent bit by bit while the answer comes: what is sent to the channel goes out, and the request ends with it.
pub async fn converse(address: &str, path: &str, secret: &str) -> Result<(mpsc::Sender<Bytes>, Response<Incoming>), Error> {
    let (said, say) = mpsc::channel(CONVERSATION_LINES_MAX);
    let body = stream::unfold(say, |mut say: mpsc::Receiver<Bytes>| async move {
        let bytes = say.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), say))
    });
    let response = exchange(address, Request::post(path), Some(secret), StreamBody::new(Box::pin(body))).await?;
    Ok((said, response))
}

async fn send(address: &str, request: Builder, secret: Option<&str>, body: Bytes) -> Result<Response<Incoming>, Error> {
    exchange(address, request, secret, Full::new(body)).await
}

async fn exchange<B>(address: &str, request: Builder, secret: Option<&str>, body: B) -> Result<Response<Incoming>, Error>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let reach = |source| Error::Reach { address: address.to_owned(), source };
    let connecting = tokio::time::timeout(CONNECT_WAIT_MAX, TcpStream::connect(address));
    let stream = connecting.await.unwrap_or_else(|late| Err(late.into())).map_err(reach)?;
    let http = |source| Error::Http { address: address.to_owned(), source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    tokio::spawn(connection);
    let mut request = request.header("host", address);
    if let Some(secret) = secret {
        request = request.header(SECRET_HEADER, secret);
    }
    let garbled = |what: String| Error::Garbled { address: address.to_owned(), what };
    let request = request.body(body).map_err(|error| garbled(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| garbled(error.to_string()))?;
    Err(Error::Refused { address: address.to_owned(), status, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
}

/// Sends a GET and reads the JSON that it answers. The caller bounds the time.
pub async fn get_json<T: DeserializeOwned>(address: &str, path: &str) -> Result<T, Error> {
    let response = get(address, path, None).await?;
    let garbled = |what: String| Error::Garbled { address: address.to_owned(), what };
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| garbled(error.to_string()))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| garbled(error.to_string()))
}

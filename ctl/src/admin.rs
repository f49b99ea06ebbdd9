//! A small client of the admin API of sidecars and proxies: one connection per call, every call with a time-out and a bounded answer.

pub mod verify;

use bytes::Bytes;
use howdah_protocol::admin::{
    AddMember, Checksums, Committed, MemberStep, Members, NodeStatus, Problem, RemoveMember, Switchover, SwitchoverRequest,
};
use howdah_protocol::{LogIndex, NodeId};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;

/// Header that carries the cluster's secret on calls that change something.
pub const SECRET_HEADER: &str = "x-howdah-secret";
/// A status or probe answers from memory.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// A checksum waits up to 10 s for its index and then reads every table.
pub const CHECKSUM_TIMEOUT: Duration = Duration::from_secs(300);
/// The sidecar itself gives up earlier and says why.
pub const SWITCHOVER_TIMEOUT: Duration = Duration::from_secs(30);
/// A change of the membership is decided by a majority, for which the sidecar waits up to 30 s; so it does for a hand-over.
pub const MEMBER_TIMEOUT: Duration = Duration::from_secs(35);
const ANSWER_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("{address}{path}: no answer within {} ms", .after.as_millis())]
    TimedOut { address: String, path: String, after: Duration },
    #[error("{address}{path}: {source}")]
    Http { address: String, path: String, source: hyper::Error },
    #[error("{address}{path}: not an answer of Howdah's admin API: {what}")]
    Strange { address: String, path: String, what: String },
    /// The other side understood and said no.
    #[error("{}{}", .problem.error, .problem.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default())]
    Refused { status: StatusCode, problem: Problem },
}

pub async fn status(address: &str) -> Result<NodeStatus, Error> {
    get(address, "/v1/status", STATUS_TIMEOUT).await
}

pub async fn committed(address: &str) -> Result<Committed, Error> {
    get(address, "/v1/committed", STATUS_TIMEOUT).await
}

pub async fn checksum(address: &str, secret: &str, index: LogIndex) -> Result<Checksums, Error> {
    let path = format!("/v1/checksum?index={index}");
    let call = Call { address, path: &path, method: Method::GET, secret: Some(secret), body: Vec::new(), timeout: CHECKSUM_TIMEOUT };
    call.json().await
}

/// Asks the leader at `address` to hand over.
pub async fn switchover(address: &str, secret: &str, to: Option<NodeId>) -> Result<Switchover, Error> {
    let body = serde_json::to_vec(&SwitchoverRequest { to }).expect("plain data serialises");
    let call = Call { address, path: "/v1/switchover", method: Method::POST, secret: Some(secret), body, timeout: SWITCHOVER_TIMEOUT };
    call.json().await
}

pub async fn members(address: &str) -> Result<Members, Error> {
    get(address, "/v1/members", STATUS_TIMEOUT).await
}

/// Asks the leader at `address` for the next step of an addition.
pub async fn add_member(address: &str, secret: &str, new: &AddMember) -> Result<MemberStep, Error> {
    let body = serde_json::to_vec(new).expect("plain data serialises");
    let call = Call { address, path: "/v1/members/add", method: Method::POST, secret: Some(secret), body, timeout: MEMBER_TIMEOUT };
    call.json().await
}

/// Asks the leader at `address` for the next step of a removal.
pub async fn remove_member(address: &str, secret: &str, node: NodeId) -> Result<MemberStep, Error> {
    let body = serde_json::to_vec(&RemoveMember { node }).expect("plain data serialises");
    let call = Call { address, path: "/v1/members/remove", method: Method::POST, secret: Some(secret), body, timeout: MEMBER_TIMEOUT };
    call.json().await
}

/// `GET /metrics`: Prometheus text.
pub async fn metrics(address: &str) -> Result<String, Error> {
    let call = Call { address, path: "/metrics", method: Method::GET, secret: None, body: Vec::new(), timeout: STATUS_TIMEOUT };
    call.bytes().await.map(|(_, body)| String::from_utf8_lossy(&body).into_owned())
}

/// `GET /readyz` says 200.
pub async fn ready(address: &str) -> bool {
    let call = Call { address, path: "/readyz", method: Method::GET, secret: None, body: Vec::new(), timeout: STATUS_TIMEOUT };
    matches!(call.bytes().await, Ok((status, _)) if status.is_success())
}

async fn get<T: DeserializeOwned>(address: &str, path: &str, timeout: Duration) -> Result<T, Error> {
    Call { address, path, method: Method::GET, secret: None, body: Vec::new(), timeout }.json().await
}

struct Call<'a> {
    address: &'a str,
    path: &'a str,
    method: Method,
    secret: Option<&'a str>,
    body: Vec<u8>,
    timeout: Duration,
}

impl Call<'_> {
    async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let (address, path) = (self.address, self.path);
        let strange = |what: String| Error::Strange { address: address.to_owned(), path: path.to_owned(), what };
        let (status, body) = self.bytes().await?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| strange(error.to_string()));
        }
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(Error::Refused { status, problem }),
            Err(_) => Err(strange(format!("status {status}"))),
        }
    }

    async fn bytes(self) -> Result<(StatusCode, Bytes), Error> {
        let (address, path, after) = (self.address.to_owned(), self.path.to_owned(), self.timeout);
        match tokio::time::timeout(after, self.exchange()).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { address, path, after }),
        }
    }

    async fn exchange(self) -> Result<(StatusCode, Bytes), Error> {
        let Self { address, path, method, secret, body, .. } = self;
        let http = |source| Error::Http { address: address.to_owned(), path: path.to_owned(), source };
        let strange = |what: String| Error::Strange { address: address.to_owned(), path: path.to_owned(), what };
        let stream = TcpStream::connect(address).await.map_err(|source| Error::Connect { address: address.to_owned(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        // Ends by itself: when the sender is dropped at the end of this function, or when the peer hangs up.
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", address);
        if let Some(secret) = secret {
            request = request.header(SECRET_HEADER, secret);
        }
        let request = request
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| strange(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| strange(error.to_string()))?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one request with `answer` and gives back what was asked.
    async fn answering(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let served = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("accept");
            let mut request = vec![0; 4096];
            let len = socket.read(&mut request).await.expect("read");
            socket.write_all(answer.as_bytes()).await.expect("write");
            String::from_utf8_lossy(&request[..len]).into_owned()
        });
        (address, served)
    }

    #[tokio::test]
    async fn a_switchover_shows_the_secret_and_a_refusal_keeps_its_hint() {
        let body = r#"{"error":"node 2 lags","hint":"wait"}"#;
        let answer = format!("HTTP/1.1 409 Conflict\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (address, served) = answering(answer.leak()).await;
        let error = switchover(&address, "s3cret", Some(NodeId(2))).await.expect_err("refused");
        assert_eq!(error.to_string(), "node 2 lags\nhint: wait");
        let request = served.await.expect("served");
        assert!(request.starts_with("POST /v1/switchover"), "{request}");
        assert!(request.contains("x-howdah-secret: s3cret"), "{request}");
    }

    #[tokio::test]
    async fn a_stranger_and_a_dead_port_are_told_apart() {
        let (address, _served) = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        assert!(matches!(status(&address).await, Err(Error::Strange { .. })));
        let free = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address").to_string();
        assert!(matches!(status(&free).await, Err(Error::Connect { .. })));
    }
}

//! `POST /v1/verify`: an answer that comes line by line for as long as the comparison takes.

use super::{Error, SECRET_HEADER};
use bytes::{Bytes, BytesMut};
use howdah_protocol::admin::Problem;
use howdah_protocol::verify::{VerifyEvent, VerifyProgress, VerifyReport, VerifyRequest};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// The leader says something several times a second.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const LINE_BYTES_MAX: usize = 64 << 20;
const PROBLEM_BYTES_MAX: usize = 1 << 20;
const PATH: &str = "/v1/verify";

/// Asks the leader at `address`; `progress` hears how far it is.
pub async fn verify(
    address: &str,
    secret: &str,
    request: VerifyRequest,
    mut progress: impl FnMut(&VerifyProgress),
) -> Result<VerifyReport, Error> {
    let strange = |what: String| Error::Strange { address: address.to_owned(), path: PATH.to_owned(), what };
    let late = |_| Error::TimedOut { address: address.to_owned(), path: PATH.to_owned(), after: SILENCE_MAX };
    let http = |source| Error::Http { address: address.to_owned(), path: PATH.to_owned(), source };
    let connected = tokio::time::timeout(SILENCE_MAX, TcpStream::connect(address)).await.map_err(late)?;
    let stream = connected.map_err(|source| Error::Connect { address: address.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends by itself when the sender and the answer are dropped, or when the peer hangs up.
    tokio::spawn(connection);
    let body = serde_json::to_vec(&request).expect("plain data serialises");
    let request = Request::post(PATH).header("host", address).header(SECRET_HEADER, secret).body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| strange(error.to_string()))?;
    let response = tokio::time::timeout(SILENCE_MAX, sender.send_request(request)).await.map_err(late)?.map_err(http)?;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let body = Limited::new(body, PROBLEM_BYTES_MAX).collect().await.map_err(|error| strange(error.to_string()))?;
        let problem = serde_json::from_slice(&body.to_bytes()).map_err(|_| strange(format!("status {status}")))?;
        return Err(Error::Refused { status, problem });
    }
    let mut buffer = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(SILENCE_MAX, body.frame()).await.map_err(late)?;
        let frame = frame.ok_or_else(|| strange("it ended before its report".to_owned()))?.map_err(http)?;
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            match serde_json::from_slice(&buffer.split_to(end + 1)).map_err(|error| strange(error.to_string()))? {
                VerifyEvent::Progress(now) => progress(&now),
                VerifyEvent::Report(report) => return Ok(*report),
                VerifyEvent::Failed(problem) => return Err(failed(problem)),
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            return Err(strange("a line is too long".to_owned()));
        }
    }
}

fn failed(problem: Problem) -> Error {
    Error::Refused { status: StatusCode::INTERNAL_SERVER_ERROR, problem }
}

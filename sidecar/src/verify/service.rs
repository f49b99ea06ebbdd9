//! `POST /v1/verify`: progress as lines of JSON, and in the end the report. It ends when nobody listens any more.

use super::conversation::line;
use super::run::Permit;
use super::{Error, Verifier};
use crate::admin::{Body, problem};
use bytes::Bytes;
use futures::stream;
use howdah_protocol::admin::Problem;
use howdah_protocol::verify::{VerifyEvent, VerifyProgress, VerifyRequest};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use std::io;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub(crate) const PATH: &str = "/v1/verify";
const REQUEST_BYTES_MAX: usize = 1 << 16;
/// Lines that wait for the network.
const LINES_MAX: usize = 4;
/// Also a sign of life, and how it is noticed that nobody listens.
const TELL_EVERY: Duration = Duration::from_millis(250);

impl Verifier {
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await;
        let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let parsed = if bytes.is_empty() { Ok(VerifyRequest::default()) } else { serde_json::from_slice(&bytes) };
        let Ok(request) = parsed else {
            return problem(StatusCode::BAD_REQUEST, "the body is not {\"repair\": true or false}", None);
        };
        let permit = match self.permit() {
            Ok(permit) => permit,
            Err(error) => return problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), Some(hint(&error))),
        };
        let (lines, receive) = mpsc::channel(LINES_MAX);
        let verifier = self.clone();
        tokio::spawn(async move {
            let last = verifier.run_telling(permit, &request, &lines).await;
            // Nobody may be there to hear it.
            drop(lines.send(line(&last)).await);
        });
        let lines = stream::unfold(receive, |mut receive: mpsc::Receiver<Bytes>| async move {
            let bytes = receive.recv().await?;
            Some((Ok::<_, io::Error>(Frame::data(bytes)), receive))
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }

    async fn run_telling(&self, permit: Permit, request: &VerifyRequest, lines: &mpsc::Sender<Bytes>) -> VerifyEvent {
        let progress = watch::Sender::new(VerifyProgress::default());
        let tell = async {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                let event = VerifyEvent::Progress(progress.borrow().clone());
                if lines.send(line(&event)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            ended = Box::pin(self.run(permit, request, false, &progress)) => match ended {
                Ok(report) => VerifyEvent::Report(Box::new(report)),
                Err(error) => VerifyEvent::Failed(Problem { error: error.to_string(), hint: Some(hint(&error).to_owned()) }),
            },
            () = tell => VerifyEvent::Failed(Problem { error: "nobody listens".to_owned(), hint: None }),
        }
    }
}

const fn hint(error: &Error) -> &'static str {
    match error {
        Error::NotLeader => "ask the leader",
        Error::Busy => "wait for it to end: `howdahctl status` shows when",
        Error::Snapshot(_) => "end long transactions on the leader (pg_stat_activity), then try again",
        _ => "try again; the sidecars' logs say more",
    }
}

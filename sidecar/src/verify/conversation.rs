//! Questions and answers as lines of JSON over one HTTP call: the request's body asks, the response's body answers.

use super::{Answer, Error, HOLD_MAX, LINE_BYTES_MAX, Question, SILENCE_MAX};
use crate::admin::client;
use crate::core::coalesce::Cut;
use bytes::{Bytes, BytesMut};
use howdah_protocol::{LogIndex, NodeId};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("questions and answers are plain data");
    line.push(b'\n');
    line.into()
}

/// Takes a body apart.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// `None` at the end. Safe to drop and call again.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|error| Error::Broken(error.to_string()));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES_MAX {
                return Err(Error::Broken("a line is too long".to_owned()));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| Error::Broken(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// A node that attends, as the leader speaks to it. It lets go of everything when this is dropped.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) node: NodeId,
    pub(super) address: String,
    questions: mpsc::Sender<Bytes>,
    answers: Lines,
}

impl Remote {
    /// Returns when its apply stands still.
    pub(super) async fn open(address: &str, secret: &str) -> Result<Self, Error> {
        let called = tokio::time::timeout(SILENCE_MAX, client::converse(address, super::ATTEND_PATH, secret)).await;
        let (questions, response) = called.map_err(|_| Error::Broken("no answer".to_owned()))??;
        let mut remote = Self { node: NodeId(0), address: address.to_owned(), questions, answers: Lines::new(response.into_body()) };
        match remote.answer().await? {
            Answer::Held { node } => Ok(Self { node, ..remote }),
            Answer::Failed(why) => Err(Error::Broken(why)),
            _ => Err(Error::Strange),
        }
    }

    pub(super) async fn advance(&mut self, cut: Cut) -> Result<LogIndex, Error> {
        let question = Question::At { instance: cut.instance, lsn: cut.lsn };
        match tokio::time::timeout(HOLD_MAX, self.ask(&question)).await {
            Ok(Ok(Answer::Ready { index })) => Ok(index),
            Ok(Ok(_)) => Err(Error::Strange),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Node { node: self.node, why: "does not reach the place in the log in time".to_owned() }),
        }
    }

    /// The answer; a failure of the node is an error.
    pub(super) async fn ask(&mut self, question: &Question) -> Result<Answer, Error> {
        let gone = |_| Error::Node { node: self.node, why: "has ended the conversation".to_owned() };
        self.questions.send(line(question)).await.map_err(gone)?;
        match self.answer().await {
            Ok(Answer::Failed(why)) => Err(Error::Node { node: self.node, why }),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Error::Node { node: self.node, why: error.to_string() }),
        }
    }

    async fn answer(&mut self) -> Result<Answer, Error> {
        loop {
            match tokio::time::timeout(SILENCE_MAX, self.answers.next()).await {
                Ok(Ok(Some(Answer::Working))) => {}
                Ok(Ok(Some(answer))) => return Ok(answer),
                Ok(Ok(None)) => return Err(Error::Broken("the node has hung up".to_owned())),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::Broken(format!("nothing came for {SILENCE_MAX:?}"))),
            }
        }
    }
}

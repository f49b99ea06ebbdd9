//! A node's side of a comparison: it stands still, shows what it has at a cut, mends itself where it is told to, and notes the verdict.

use super::conversation::{Lines, line};
use super::examiner::Examiner;
use super::{Answer, Error, HOLD_MAX, PULSE, Question, SILENCE_MAX, cut, patch};
use crate::admin::{Body, problem};
use crate::apply::Hold;
use crate::config::Config;
use crate::pg::connect::Target;
use crate::raft;
use crate::status::Board;
use bytes::Bytes;
use futures::stream;
use howdah_protocol::admin::Role;
use howdah_protocol::{InstanceId, Lsn, NodeId};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The leader reads its own tables meanwhile, which may take long. That it is gone is noticed by the log.
const QUESTION_WAIT: Duration = Duration::from_secs(6 * 3600);
/// Answers that wait for the network.
const ANSWERS_MAX: usize = 4;

/// Serves comparisons on this node.
#[derive(Debug, Clone)]
pub struct Attendant {
    config: Arc<Config>,
    target: Target,
    raft: raft::Handle,
    board: Board,
}

/// One conversation.
struct Seat<'a> {
    node: &'a Attendant,
    leader: NodeId,
    /// From the beginning to the snapshot.
    hold: Option<Hold>,
    examiner: Option<Examiner>,
}

impl Attendant {
    #[must_use]
    pub fn new(config: &Config, target: Target, raft: raft::Handle, board: Board) -> Self {
        Self { config: Arc::new(config.clone()), target, raft, board }
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let refused = |why: &str| problem(StatusCode::SERVICE_UNAVAILABLE, why, Some("try again when it follows"));
        let (role, detail) = {
            let stage = self.board.stage.borrow();
            (stage.role, stage.detail.clone())
        };
        if role != Role::Follower {
            return refused(&format!("this node cannot be compared now: {role}, {detail}"));
        }
        let Some(leader) = self.raft.role().borrow().leader else { return refused("this node knows no leader") };
        let Some(holder) = self.board.holder.borrow().clone() else { return refused("this node applies nothing yet") };
        let hold = match holder.hold(Instant::now() + SILENCE_MAX).await {
            Ok(hold) => hold,
            Err(error) => return refused(&error.to_string()),
        };
        let (answers, receive) = mpsc::channel(ANSWERS_MAX);
        let node = self.clone();
        tokio::spawn(async move {
            let sitting = Seat { node: &node, leader, hold: Some(hold), examiner: None };
            if let Err(error) = sitting.run(Lines::new(request.into_body()), &answers).await {
                tracing::warn!(%error, "a comparison with the leader ended early");
                // The last word; where nobody takes it, it is known already.
                drop(answers.try_send(line(&Answer::Failed(error.to_string()))));
            }
        });
        let lines = stream::unfold(receive, |mut receive: mpsc::Receiver<Bytes>| async move {
            let bytes = receive.recv().await?;
            Some((Ok::<_, io::Error>(Frame::data(bytes)), receive))
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

impl Seat<'_> {
    async fn run(mut self, mut questions: Lines, answers: &mpsc::Sender<Bytes>) -> Result<(), Error> {
        let (mut role, leader) = (self.node.raft.role(), self.leader);
        let another = async move {
            // The log has ended: so has this process, soon.
            drop(role.wait_for(|role| role.leader != Some(leader)).await);
        };
        let talk = async {
            say(answers, &Answer::Held { node: self.node.config.node }).await?;
            loop {
                let wait = if self.hold.is_some() { HOLD_MAX } else { QUESTION_WAIT };
                let question = tokio::time::timeout(wait, questions.next()).await;
                let Some(question) = question.map_err(|_| Error::Broken(format!("no question for {wait:?}")))?? else { return Ok(()) };
                let answer = working(answers, Box::pin(self.answer(question))).await?;
                say(answers, &answer).await?;
            }
        };
        tokio::select! {
            ended = talk => ended,
            () = another => Err(Error::Broken("the leader changed".to_owned())),
        }
    }

    async fn answer(&mut self, question: Question) -> Result<Answer, Error> {
        match question {
            Question::At { instance, lsn } => self.advance(instance, lsn).await,
            Question::Repair { tables } => {
                // A snapshot would be in the way of nothing, but is of no more use.
                self.examiner = None;
                let node = self.node;
                let Some(holder) = node.board.holder.borrow().clone() else { return Err(Error::Strange) };
                patch::run(&node.config, &node.raft, &holder, self.leader, &tables).await
            }
            Question::Verdict(verified) => {
                self.node.board.verified(verified);
                Ok(Answer::Done)
            }
            question => self.examiner.as_ref().ok_or(Error::Strange)?.answer(&question).await,
        }
    }

    async fn advance(&mut self, instance: InstanceId, lsn: Lsn) -> Result<Answer, Error> {
        let mut hold = self.hold.take().ok_or(Error::Strange)?;
        let index = hold.advance(cut(instance, lsn), Instant::now() + HOLD_MAX).await?;
        self.examiner = Some(Examiner::now(&self.node.target).await?);
        drop(hold);
        Ok(Answer::Ready { index })
    }
}

/// Says now and then that there is work, until it is done.
async fn working<T>(answers: &mpsc::Sender<Bytes>, work: impl Future<Output = Result<T, Error>> + Unpin) -> Result<T, Error> {
    let mut work = work;
    loop {
        match tokio::time::timeout(PULSE, &mut work).await {
            Ok(done) => return done,
            Err(_) => say(answers, &Answer::Working).await?,
        }
    }
}

async fn say(answers: &mpsc::Sender<Bytes>, answer: &Answer) -> Result<(), Error> {
    match tokio::time::timeout(SILENCE_MAX, answers.send(line(answer))).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Error::Broken("nobody takes the answers".to_owned())),
    }
}

//! Bytes between a client and its server connection, both owned by this one task.
//!
//! `next` waits and decides nothing: it moves bytes between sockets and buffers, and says what came. What it means is decided by the
//! session, which is pure. Per unit that is one read and one write on either side.

use super::connection::{Connection, End, shutting_down};
use super::link::{Attached, Link};
use super::outcome::InDoubt;
use crate::backend::pool::Lease;
use crate::clock;
use crate::core::session::{Answer, Loss, Session, Stop};
use crate::wire::TxStatus;
use crate::wire::buffer::{Buffer, CHUNK_BYTES};
use howdah_protocol::LogIndex;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The client's bytes that are read ahead while its unit is answered.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;
/// What is kept in the server's buffer joins other bytes for the client up to this size, to leave in one write.
const JOIN_BYTES_MAX: usize = 32 * 1024;

/// How the use of a server connection ended, for the session that lives on.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// The unit runs again, on whatever connection.
    Again,
    /// The unit runs again, on the leader.
    OnLeader,
}

#[derive(Debug)]
enum Event {
    Client,
    ClientGone,
    Server,
    ServerGone(Option<String>),
    /// A cancel settled, or the proxy drains.
    Signal,
}

/// What happens after an event.
enum Step {
    Go,
    Stop(Outcome),
    Lost(Option<String>),
}

struct Relay<'a> {
    connection: &'a mut Connection,
    lease: Box<Lease>,
    /// Of `server_out`, written already.
    sent: usize,
    /// Something of this unit reached the server's socket.
    unit_sent: bool,
    /// Bytes to read from the server at least, for the next message.
    want: usize,
    /// A cancel is on its way: nothing new may reach the server.
    blocked: bool,
    /// The client's bytes cannot be handled now.
    input_waits: bool,
    /// Counted as pinned.
    pinned: bool,
    /// A unit has run on this connection: what comes next was not looked at when the connection was chosen.
    used: bool,
    /// The group's log had this position when the connection was taken, so whatever is committed on it lies behind.
    log_index: LogIndex,
}

/// Runs units on this connection until the session needs it no longer.
pub(super) async fn run(connection: &mut Connection, lease: Box<Lease>) -> Result<Outcome, End> {
    let server = &lease.connection;
    connection.link().attach(Attached { serving: server.serving, peer: server.peer, pid: server.pid, secret: server.secret });
    // The view may have changed since the connection was chosen, and whoever cuts may have looked before it was attached.
    let view = connection.routes.view();
    if !view.is_current(server.serving) {
        connection.link().cut_if_superseded(&view, clock::now(), connection.worker.config.queue());
    }
    connection.server_out.clear();
    let log_index = view.node(server.serving.node).map(|node| node.status.committed_index).unwrap_or_default();
    let mut relay = Relay {
        connection,
        lease,
        sent: 0,
        unit_sent: false,
        want: 1,
        blocked: false,
        input_waits: false,
        pinned: false,
        used: false,
        log_index,
    };
    let mut step = relay.client_bytes().await;
    loop {
        match step {
            Ok(Step::Go) => {}
            Ok(Step::Stop(outcome)) => return Ok(outcome_of(relay, outcome).await),
            Ok(Step::Lost(detail)) => return relay.lost(detail.as_deref()).await,
            Err(end) => return Err(relay.leave(end)),
        }
        step = match relay.next().await {
            Event::Client => relay.client_bytes().await,
            Event::Server => match relay.server_bytes() {
                // What the client sent ahead has its turn now.
                Ok(Step::Go) if relay.input_waits && !relay.connection.session.awaits_answer() => relay.client_bytes().await,
                step => step,
            },
            Event::ServerGone(detail) => Ok(Step::Lost(detail)),
            Event::ClientGone => Err(End::Gone),
            Event::Signal => relay.signal().await,
        };
    }
}

/// Gives the connection back. What is kept for the client in its buffer goes with the session.
async fn outcome_of(relay: Relay<'_>, outcome: Outcome) -> Outcome {
    let Relay { connection, mut lease, .. } = relay;
    connection.session.take_over(&mut lease.connection.input);
    match outcome {
        Outcome::Done => connection.input.release_kept(),
        Outcome::Again | Outcome::OnLeader => connection.session.rewind(&mut connection.input),
    }
    connection.give_back(lease).await;
    outcome
}

impl Relay<'_> {
    /// The session ends: what the server said last still belongs to the client.
    fn leave(&mut self, end: End) -> End {
        let connection = &mut *self.connection;
        connection.session.take_over(&mut self.lease.connection.input);
        connection.link().detach();
        end
    }

    /// Translates what the client sent.
    async fn client_bytes(&mut self) -> Result<Step, End> {
        loop {
            if self.connection.link().is_cancelling() {
                self.blocked = true;
                return Ok(Step::Go);
            }
            // A pipeline that is flushed and not ended may go on long after its beginning.
            let more = self.used || self.unit_sent;
            if more && self.connection.session.may_run() && !self.connection.input.fresh().is_empty() {
                let serving = self.lease.connection.serving;
                if !self.connection.await_lease(serving).await {
                    return Ok(Step::Lost(Some("it has no majority of its group behind it, or leads no more".to_owned())));
                }
            }
            let Connection { session, input, worker, server_out, .. } = &mut *self.connection;
            let fresh_unit = !session.is_busy();
            let server = &mut self.lease.connection;
            let stop = session.translate(Some(&mut server.state), input, server_out, &worker.tools)?;
            if fresh_unit && session.is_busy() {
                self.unit_sent = false;
            }
            session.drain_replies(Some(&mut server.input));
            if !session.keeps_input(self.unit_sent) {
                input.release_kept();
            }
            self.input_waits = !matches!(stop, Stop::Input);
            let uncancellable = session.is_uncancellable();
            self.blocked = !self.connection.link().guard(uncancellable);
            match stop {
                Stop::Terminate => return Err(End::Gone),
                Stop::Token => self.connection.resolve_token().await.map_err(End::Report)?,
                // Answered without the server, as SHOW howdah.token is: on to the next unit.
                Stop::UnitEnd if !self.connection.session.is_busy() => {}
                Stop::Input | Stop::UnitEnd | Stop::Full => break,
            }
        }
        if self.connection.session.can_detach() { Ok(Step::Stop(Outcome::Done)) } else { Ok(Step::Go) }
    }

    fn server_bytes(&mut self) -> Result<Step, End> {
        let Connection { session, worker, .. } = &mut *self.connection;
        let server = &mut self.lease.connection;
        match session.answer(&mut server.state, &mut server.input, &worker.tools) {
            Answer::More(want) => {
                self.want = want;
                Ok(Step::Go)
            }
            Answer::UnitEnd => {
                self.want = 1;
                self.unit_end()
            }
            Answer::RefusedAsWrite => Ok(Step::Stop(Outcome::OnLeader)),
            Answer::Fatal { code, message } => Ok(Step::Lost(Some(format!("{message} ({code})")))),
            Answer::Broken(problem) => {
                tracing::error!(problem, "a server connection is out of step");
                Ok(Step::Lost(Some(problem.to_owned())))
            }
        }
    }

    fn unit_end(&mut self) -> Result<Step, End> {
        self.used = true;
        let link = self.connection.link();
        link.guard(false);
        self.connection.session.positions.saw = Some(self.lease.connection.serving);
        if self.connection.session.can_detach() {
            return Ok(Step::Stop(Outcome::Done));
        }
        if !self.pinned && !self.connection.session.pins.is_empty() {
            self.pinned = true;
            self.connection.worker.metrics.pinned_sessions_total.add(1);
        }
        self.connection.input.release_kept();
        if self.connection.link().is_draining() && self.connection.session.status == TxStatus::Idle {
            return Err(End::Report(shutting_down()));
        }
        Ok(Step::Go)
    }

    async fn signal(&mut self) -> Result<Step, End> {
        let session = &self.connection.session;
        let link = self.connection.link();
        if link.is_cut() {
            return Ok(Step::Lost(Some(
                "another node leads, the node was opened anew, or it has had no majority behind it for long".to_owned(),
            )));
        }
        if link.is_draining() && !session.is_busy() && session.status == TxStatus::Idle {
            return Err(End::Report(shutting_down()));
        }
        if self.blocked && !link.is_cancelling() {
            return self.client_bytes().await;
        }
        Ok(Step::Go)
    }

    /// The server connection is gone. A commit that may have been under way is looked up in the log, while the client waits.
    async fn lost(mut self, detail: Option<&str>) -> Result<Outcome, End> {
        let Connection { session, input, registered, worker, .. } = &mut *self.connection;
        registered.link.detach();
        match session.lose(self.unit_sent, &mut self.lease.connection.input, detail) {
            Loss::Again => {
                session.rewind(input);
                return Ok(Outcome::Again);
            }
            Loss::Told => {}
            Loss::End(report) => return Err(self.leave(End::Report(report))),
            Loss::Ask(xid) => {
                let in_doubt = InDoubt { serving: self.lease.connection.serving, xid, after: self.log_index };
                let Relay { connection, lease, .. } = self;
                // A backend that lives on must see that nobody waits for it.
                drop(lease);
                let fate = connection.fate(in_doubt).await;
                connection.session.settle(fate, detail);
                connection.worker.metrics.transactions_lost_total.add(1);
                connection.input.release_kept();
                return Ok(Outcome::Done);
            }
        }
        worker.metrics.transactions_lost_total.add(1);
        input.release_kept();
        Ok(Outcome::Done)
    }

    /// Moves bytes until something is to be decided.
    async fn next(&mut self) -> Event {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let Connection { session, stream, input, registered, server_out, .. } = &mut *self.connection;
        let link: &Link = &registered.link;
        let server = &mut self.lease.connection;
        link.register(context.waker());
        let settled = self.blocked && !link.is_cancelling();
        let leave = link.is_draining() && !session.is_busy() && session.status == TxStatus::Idle;
        if settled || leave || link.is_cut() {
            return Poll::Ready(Event::Signal);
        }
        let flushed = match poll_flush(stream, session, Some(&mut server.input), context) {
            Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientGone),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if !self.blocked && self.sent < server_out.len() {
            match poll_send(&mut server.stream, server_out, &mut self.sent, &mut self.unit_sent, context) {
                Poll::Ready(Err(error)) => return Poll::Ready(Event::ServerGone(Some(error.to_string()))),
                Poll::Ready(Ok(())) if self.input_waits && !session.awaits_answer() => return Poll::Ready(Event::Client),
                Poll::Ready(Ok(())) => {
                    if !session.keeps_input(true) {
                        input.release_kept();
                    }
                }
                Poll::Pending => {}
            }
        }
        if flushed {
            match poll_read(&mut server.stream, &mut server.input, self.want, context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Event::ServerGone(None)),
                Poll::Ready(Ok(_)) => return Poll::Ready(Event::Server),
                Poll::Ready(Err(error)) => return Poll::Ready(Event::ServerGone(Some(error.to_string()))),
                Poll::Pending => {}
            }
        }
        if server_out.is_empty() && (!session.awaits_answer() || input.fresh().len() < READ_AHEAD_BYTES_MAX) {
            match ready!(poll_read(stream, input, 1, context)) {
                Ok(0) | Err(_) => return Poll::Ready(Event::ClientGone),
                Ok(_) => return Poll::Ready(Event::Client),
            }
        }
        Poll::Pending
    }
}

/// Reads once; 0 is the end.
fn poll_read(stream: &mut TcpStream, buffer: &mut Buffer, want: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut spare = ReadBuf::new(buffer.spare(want.max(CHUNK_BYTES / 2)));
    ready!(Pin::new(stream).poll_read(context, &mut spare))?;
    let len = spare.filled().len();
    buffer.filled(len);
    Poll::Ready(Ok(len))
}

fn poll_send(
    stream: &mut TcpStream,
    out: &mut Vec<u8>,
    sent: &mut usize,
    unit_sent: &mut bool,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *sent < out.len() {
        *sent += ready!(Pin::new(&mut *stream).poll_write(context, &out[*sent..]))?;
        *unit_sent = true;
    }
    out.clear();
    *sent = 0;
    Poll::Ready(Ok(()))
}

/// Writes what the client may have now. Ready when nothing of it is left.
pub(super) fn poll_flush(
    stream: &mut TcpStream,
    session: &mut Session,
    mut kept: Option<&mut Buffer>,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let ready_len = session.releasable();
        let held = session.is_held();
        if ready_len > 0 {
            if let Some(buffer) = kept.as_deref_mut().filter(|buffer| !held && buffer.kept().len() <= JOIN_BYTES_MAX) {
                session.take_over(buffer);
            }
            let len = session.releasable();
            let written = ready!(Pin::new(&mut *stream).poll_write(context, &session.out[..len]))?;
            session.written(written);
            continue;
        }
        match kept.as_deref_mut().filter(|buffer| !held && !buffer.kept().is_empty()) {
            Some(buffer) => {
                let written = ready!(Pin::new(&mut *stream).poll_write(context, buffer.kept()))?;
                buffer.release(written);
            }
            None => return Poll::Ready(Ok(())),
        }
    }
}

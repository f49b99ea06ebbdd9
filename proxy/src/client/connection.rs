//! One client connection, from accept to close. The task that runs this owns the client's socket and, while a unit or transaction
//! needs one, a server connection; nothing stands between the two.

use super::goodbye;
use super::handshake::{self, Allowance, Hello};
use super::link::{Link, Registered};
use super::{Worker, relay};
use crate::auth::Secret;
use crate::backend::pool::{Lease, Pool};
use crate::core::params::{ServerParameters, Startup};
use crate::core::session::{Demand, Need, Plan, Session, Violation};
use crate::wire::buffer::{Buffer, CHUNK_BYTES};
use crate::wire::build::{self, Report};
use crate::wire::{TxStatus, frame};
use howdah_protocol::{NodeId, sqlstate};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// How a connection came to its end. The last words to the client are said by [`serve`].
#[derive(Debug)]
pub(super) enum End {
    /// The client said goodbye, or is gone.
    Gone,
    Report(Report),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        let code = match violation {
            Violation::Frame(frame::Error::TooLarge { .. }) | Violation::TooMany(_) => sqlstate::PROGRAM_LIMIT_EXCEEDED,
            _ => sqlstate::PROTOCOL_VIOLATION,
        };
        let report = Report::new(code, violation.to_string());
        Self::Report(match violation {
            Violation::Frame(frame::Error::TooLarge { .. }) => {
                report.hint("Send less at once, or raise message_bytes_max in the proxy's configuration.")
            }
            _ => report,
        })
    }
}

/// A logged-in client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) worker: Arc<Worker>,
    pub(super) stream: TcpStream,
    pub(super) input: Buffer,
    pub(super) session: Session,
    pub(super) role: Arc<str>,
    pub(super) secret: Secret,
    pub(super) parameters: Arc<ServerParameters>,
    pub(super) routes: crate::routing::Routes,
    pub(super) registered: Registered,
    /// The session's pools, one per node that it used.
    pub(super) known_pools: Vec<(NodeId, Arc<Pool>)>,
    /// Spreads reads over followers.
    pub(super) spin: u64,
    /// Translated messages for the server.
    pub(super) server_out: Vec<u8>,
}

/// Serves one client until it is gone.
pub(crate) async fn serve(worker: Arc<Worker>, mut stream: TcpStream, full: bool) {
    let (startup, secret) = match open(&worker, &mut stream, full).await {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(handshake::Error::Io(error)) => return tracing::debug!(%error, "a connection ended before its login"),
        Err(handshake::Error::Refused(report)) => {
            if report.code == sqlstate::PROTOCOL_VIOLATION {
                worker.metrics.protocol_violations_total.add(1);
            }
            return goodbye::say(&mut stream, &[], &report, std::future::pending()).await;
        }
    };
    let mut connection = Connection::new(worker, stream, *startup, secret);
    let metrics = Arc::clone(&connection.worker.metrics);
    metrics.clients.add(1);
    let end = match connection.greet().await {
        Ok(()) => {
            metrics.clients_total.add(1);
            connection.run().await
        }
        Err(end) => end,
    };
    if let End::Report(report) = end {
        if report.code == sqlstate::PROTOCOL_VIOLATION {
            metrics.protocol_violations_total.add(1);
        }
        connection.part(&report).await;
    }
    metrics.clients.sub(1);
}

/// Everything up to the proven identity. None for a cancel request, which is done with.
async fn open(worker: &Worker, stream: &mut TcpStream, full: bool) -> Result<Option<(Box<Startup>, Secret)>, handshake::Error> {
    crate::net::tune(stream)?;
    let mut allowance = Allowance::new(worker.config.handshake());
    let startup = match allowance.within(handshake::hello(stream)).await? {
        Hello::Client(startup) => startup,
        Hello::Cancel { pid, secret } => {
            worker.registry.cancel(pid, secret, &worker.metrics).await;
            return Ok(None);
        }
    };
    if full {
        worker.metrics.clients_refused_total.add(1);
        return Err(Report::new(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
            .hint("Raise clients_max in the proxy's configuration, or connect less.")
            .into());
    }
    let secret = handshake::authenticate(stream, worker, &startup, &mut allowance).await?;
    if startup.database != worker.config.database {
        let report = Report::new(sqlstate::INVALID_CATALOG_NAME, format!("database \"{}\" does not exist", startup.database));
        return Err(report.hint(format!("This proxy serves the database \"{}\" only.", worker.config.database)).into());
    }
    Ok(Some((startup, secret)))
}

impl Connection {
    fn new(worker: Arc<Worker>, stream: TcpStream, startup: Startup, secret: Secret) -> Self {
        Self {
            session: Session::new(&startup, worker.config.message_bytes_max),
            stream,
            input: Buffer::default(),
            role: startup.user.into(),
            secret,
            parameters: Arc::new(startup.server),
            routes: worker.routes.clone(),
            registered: worker.registry.register(),
            known_pools: Vec::new(),
            spin: rand::random(),
            server_out: Vec::new(),
            worker,
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.registered.link
    }

    /// Answers the login with what a server reports for these startup parameters.
    async fn greet(&mut self) -> Result<(), End> {
        let reported = match self.worker.greeting(&self.role, &self.parameters) {
            Some((parameters, known)) => {
                self.parameters = parameters;
                known
            }
            None => self.ask_greeting().await.map_err(End::Report)?,
        };
        let mut out = Vec::new();
        build::authentication(&mut out, 0, &[]);
        for (name, value) in reported.iter() {
            build::parameter_status(&mut out, name, value);
        }
        build::backend_key(&mut out, self.link().pid, self.link().secret);
        build::ready(&mut out, TxStatus::Idle);
        self.stream.write_all(&out).await?;
        Ok(())
    }

    async fn ask_greeting(&mut self) -> Result<Arc<Vec<(String, String)>>, Report> {
        let lease = self.acquire_any().await?;
        let mut reported = lease.connection.reported.clone();
        if lease.connection.state.read_only {
            for (name, value) in &mut reported {
                if name == "default_transaction_read_only" {
                    "off".clone_into(value);
                }
            }
        }
        lease.give_back();
        let reported = Arc::new(reported);
        self.worker.remember_greeting(&self.role, &self.parameters, &reported);
        Ok(reported)
    }

    /// Unit after unit, until the end.
    async fn run(&mut self) -> End {
        loop {
            match self.idle().await {
                Ok(demand) => {
                    if let Err(end) = self.unit(demand).await {
                        return end;
                    }
                }
                Err(end) => return end,
            }
        }
    }

    /// Waits for the next unit while no server connection is attached.
    async fn idle(&mut self) -> Result<Demand, End> {
        loop {
            match self.session.plan(self.input.fresh(), &self.worker.tools)? {
                Plan::Unit(demand) => return Ok(demand),
                Plan::Terminate => return Err(End::Gone),
                Plan::Ignore(len) => self.input.skip(len),
                Plan::Incomplete => self.read_idle().await?,
            }
        }
    }

    /// Reads from the client; meanwhile what is left for it is written.
    async fn read_idle(&mut self) -> Result<(), End> {
        let Self { stream, session, input, registered, .. } = self;
        let link = &registered.link;
        let len = std::future::poll_fn(|context| {
            link.register(context.waker());
            if link.is_draining() && input.is_empty() {
                return Poll::Ready(Err(End::Report(shutting_down())));
            }
            if let Poll::Ready(Err(error)) = relay::poll_flush(stream, session, None, context) {
                return Poll::Ready(Err(error.into()));
            }
            let mut spare = ReadBuf::new(input.spare(CHUNK_BYTES));
            match Pin::new(&mut *stream).poll_read(context, &mut spare) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(spare.filled().len())),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        if len == 0 {
            return Err(End::Gone);
        }
        self.input.filled(len);
        Ok(())
    }

    async fn unit(&mut self, demand: Demand) -> Result<(), End> {
        if demand.token {
            self.resolve_token().await.map_err(End::Report)?;
        }
        let Some(mut need) = demand.server else { return self.local_unit().await };
        loop {
            let lease = match self.acquire(need).await {
                Ok(lease) => lease,
                Err(report) => return self.refuse_unit(&report),
            };
            match relay::run(self, lease).await? {
                relay::Outcome::Done => return Ok(()),
                relay::Outcome::Again => self.worker.metrics.retries_lost_total.add(1),
                relay::Outcome::OnLeader => {
                    self.worker.metrics.retries_leader_total.add(1);
                    need = Need::Leader("leader: a follower refused the statement as a write");
                }
            }
        }
    }

    async fn local_unit(&mut self) -> Result<(), End> {
        self.worker.metrics.units_local_total.add(1);
        self.session.translate(None, &mut self.input, &mut Vec::new(), &self.worker.tools)?;
        self.session.drain_replies(None);
        self.input.release_kept();
        Ok(())
    }

    /// No server for the unit: the client is told, and the session lives on.
    fn refuse_unit(&mut self, report: &Report) -> Result<(), End> {
        self.session.refuse_unit(report, &mut self.input, &self.worker.tools)?;
        Ok(())
    }

    /// Gives the client what is left for it, and tells it why it ends. It stays registered, so it counts among the clients until it is gone;
    /// but the proxy's own end does not wait for it.
    async fn part(&mut self, report: &Report) {
        (self.input, self.server_out) = (Buffer::default(), Vec::new());
        let rest = &self.session.out[..self.session.releasable()];
        goodbye::say(&mut self.stream, rest, report, self.registered.link.drained()).await;
    }

    /// The lease is over: the connection goes to the next who needs one, unless it must not be used again.
    pub(super) async fn give_back(&mut self, mut lease: Box<Lease>) {
        let link = Arc::clone(self.link());
        link.detach();
        if link.is_cancelling() {
            settle(&link).await;
        }
        let spent = lease.connection.state.spent || link.is_tainted() || link.is_cut() || !lease.connection.input.is_empty();
        if spent || !self.routes.view().is_current(lease.connection.serving) {
            return;
        }
        lease.connection.state.settings = Arc::clone(self.session.vars.settings());
        lease.give_back();
    }
}

/// Waits until no cancel is on its way.
pub(super) async fn settle(link: &Link) {
    std::future::poll_fn(|context| {
        link.register(context.waker());
        if link.is_cancelling() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

pub(super) fn shutting_down() -> Report {
    Report::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
        .hint("The proxy is shutting down. Connect again.")
}

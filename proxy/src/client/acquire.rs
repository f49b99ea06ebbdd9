//! From "this unit needs a read" or "this unit needs the leader" to a server connection, waiting where that helps, never for ever.

use super::connection::Connection;
use crate::backend::connection::{self as server, Target};
use crate::backend::pool::{Lease, Pool, Taken};
use crate::backend::{self};
use crate::clock::{self, Millis};
use crate::core::replica::{self, Choice};
use crate::core::session::Need;
use crate::core::view::{Node, Serving};
use crate::metrics::Metrics;
use crate::wire::build::Report;
use howdah_protocol::{Consistency, NodeId, Replication, sqlstate};
use std::sync::Arc;
use std::time::Duration;

/// A node that could not be reached is tried again after this, or when the view changes.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What there is to do before the next attempt.
enum Next {
    Use {
        serving: Serving,
        why: &'static str,
    },
    /// No leader, or nothing that satisfies the session: look again when the view changes.
    Wait,
}

/// The bounds of one unit's wait.
struct Patience {
    since: Millis,
    /// The read went without a follower long enough.
    leader_only: bool,
    /// In the metrics.
    counted: bool,
    /// The leader was there, but not under a lease.
    unleased: bool,
    /// Nodes that could not be reached, counted.
    failures: u32,
    last_error: Option<backend::Error>,
}

impl Connection {
    /// A server connection for a unit, brought to the session's settings.
    pub(super) async fn acquire(&mut self, need: Need) -> Result<Box<Lease>, Report> {
        // A commit that waits for a majority would wait on the leader for as long as there is none; here the wait has an end. One that does
        // not wait for it runs.
        let leased = match need {
            Need::Leader(_) => self.session.vars.replication() == Replication::Sync,
            Need::Read(mode) => mode == Consistency::Linearizable,
        };
        self.acquire_where(need, leased).await
    }

    async fn acquire_where(&mut self, need: Need, leased: bool) -> Result<Box<Lease>, Report> {
        let mut patience = Patience::new();
        loop {
            let next = match need {
                Need::Leader(why) if leased => self.leased_leader(why, &mut patience),
                Need::Read(_) if leased => self.leased_leader("leader: linearizable", &mut patience),
                Need::Leader(why) => self.leader(why),
                Need::Read(mode) => self.read_target(mode, &mut patience).await,
            };
            match next {
                Next::Use { serving, why } => match self.lease(serving).await {
                    Ok(mut lease) => {
                        match lease.connection.apply_settings(self.session.vars.settings()).await {
                            // The pool may have been waited for: time in which another node was elected.
                            Ok(()) if leased && !self.routes.view().is_leased(serving, clock::now()) => {
                                self.give_back(lease).await;
                                patience.lacks_lease(&self.worker.metrics);
                            }
                            Ok(()) => {
                                self.attached(serving, why);
                                return Ok(lease);
                            }
                            // The server refused a setting that another took: nothing to wait for.
                            Err(backend::Error::Server { code, message }) if !code.starts_with("57P") => {
                                return Err(Report::new(code, message));
                            }
                            Err(error) => patience.failed(error),
                        }
                    }
                    Err(error) if error.is_transient() => patience.failed(error),
                    Err(error) => return Err(permanent(error)),
                },
                Next::Wait if !patience.counted => {
                    patience.counted = true;
                    self.worker.metrics.leader_waits_total.add(1);
                }
                Next::Wait => {}
            }
            self.pause(&patience).await?;
        }
    }

    /// A server connection of any node, to learn what servers say.
    pub(super) async fn acquire_any(&mut self) -> Result<Box<Lease>, Report> {
        let now = clock::now();
        let has_leader = self.routes.view().leader(now).is_some();
        self.acquire_where(if has_leader { Need::Leader("leader: login") } else { Need::Read(Consistency::Eventual) }, false).await
    }

    fn attached(&mut self, serving: Serving, why: &'static str) {
        self.session.served_by = Some(serving);
        self.session.route = why;
        self.session.positions.saw = Some(serving);
        let metrics = &self.worker.metrics;
        if serving.leads { metrics.units_leader_total.add(1) } else { metrics.units_follower_total.add(1) }
    }

    fn leader(&mut self, why: &'static str) -> Next {
        let view = self.routes.view();
        view.leader(clock::now()).map_or(Next::Wait, |node| using(node, why))
    }

    /// The leader, while nobody else can lead.
    fn leased_leader(&mut self, why: &'static str, patience: &mut Patience) -> Next {
        let now = clock::now();
        let view = self.routes.view();
        let Some(node) = view.leader(now) else { return Next::Wait };
        if node.serving().is_some_and(|serving| view.is_leased(serving, now)) {
            return using(node, why);
        }
        patience.lacks_lease(&self.worker.metrics);
        Next::Wait
    }

    /// Waits, between two units on a leader's connection, until nobody else can lead. False when this connection is of no more use.
    pub(super) async fn await_lease(&mut self, serving: Serving) -> bool {
        let since = clock::now();
        let vars = &self.session.vars;
        let leased = serving.leads && (vars.consistency() == Consistency::Linearizable || vars.replication() == Replication::Sync);
        if !leased || self.routes.view().is_leased(serving, since) {
            return true;
        }
        self.worker.metrics.lease_waits_total.add(1);
        loop {
            let left = self.worker.config.queue().saturating_sub(clock::now().since(since));
            let view = self.routes.view();
            if left.is_zero() || self.link().is_cut() || view.has_ceased(serving) {
                return false;
            }
            if view.is_leased(serving, clock::now()) {
                return true;
            }
            self.routes.changed(left.min(RETRY_PAUSE)).await;
        }
    }

    /// Where a read of this mode goes now.
    async fn read_target(&mut self, mode: Consistency, patience: &mut Patience) -> Next {
        // Every other attempt, so that an unreachable follower does not hold up a read that the leader can serve.
        if patience.leader_only || patience.failures % 2 == 1 {
            return self.leader("leader: no follower in time");
        }
        loop {
            let view = self.routes.view();
            let now = clock::now();
            self.spin = next_random(self.spin);
            let pools = &self.known_pools;
            let busy = |node| pools.iter().find(|(known, _)| *known == node).map_or(0, |(_, pool)| pool.busy());
            match replica::choose(&view, mode, &self.session.positions, now, self.spin >> 33, busy) {
                Choice::Leader(why) => return self.leader(why),
                Choice::Follower(id, why) => return view.node(id).map_or(Next::Wait, |node| using(node, why)),
                Choice::AskCommitted => {
                    if !self.ask_committed().await {
                        return Next::Wait;
                    }
                }
                Choice::AskSeen(saw) => {
                    if !self.ask_committed().await && !self.ask_seen(saw).await {
                        return Next::Wait;
                    }
                }
                Choice::Wait => {
                    let left = self.worker.config.wait().saturating_sub(now.since(patience.since));
                    if left.is_zero() {
                        patience.leader_only = true;
                        return self.leader("leader: no follower in time");
                    }
                    self.worker.metrics.follower_waits_total.add(1);
                    self.routes.changed(left).await;
                }
            }
        }
    }

    /// Raises the session's token to the leader's committed index.
    async fn ask_committed(&mut self) -> bool {
        let Some(committed) = self.worker.positions.committed().await else { return false };
        self.session.positions.covered(committed.group, committed.index);
        true
    }

    /// Without a leader: what the node that the session read from can have shown. A node that was opened anew does not know.
    async fn ask_seen(&mut self, saw: Serving) -> bool {
        let view = self.routes.view();
        if saw.leads || !view.is_current(saw) {
            return false;
        }
        let Some(index) = self.worker.positions.shown_by(&mut self.routes, saw.node).await else { return false };
        self.session.positions.saw_at_most(view.group(), index);
        true
    }

    /// Makes the session's token cover what it wrote and saw.
    pub(super) async fn resolve_token(&mut self) -> Result<(), Report> {
        let patience = Patience::new();
        while self.session.positions.is_open() {
            if self.ask_committed().await {
                break;
            }
            // Without a leader: what was only seen can be told by the node that showed it.
            let saw = self.session.positions.saw;
            match saw {
                Some(saw) if !self.session.positions.wrote && self.ask_seen(saw).await => break,
                _ => self.pause(&patience).await?,
            }
        }
        Ok(())
    }

    /// Waits for a change of the view, or a little; an error once the unit has waited long enough.
    async fn pause(&mut self, patience: &Patience) -> Result<(), Report> {
        let left = self.worker.config.queue().saturating_sub(clock::now().since(patience.since));
        if left.is_zero() {
            self.worker.metrics.leader_wait_timeouts_total.add(1);
            return Err(self.give_up(patience));
        }
        self.routes.changed(left.min(RETRY_PAUSE)).await;
        Ok(())
    }

    fn give_up(&mut self, patience: &Patience) -> Report {
        let waited = self.worker.config.queue_ms;
        let has_leader = self.routes.view().leader(clock::now()).is_some();
        let report = if has_leader && patience.unleased {
            Report::new(sqlstate::CANNOT_CONNECT_NOW, format!("the leader has no majority behind it: waited {waited} ms"))
        } else if has_leader {
            Report::new(sqlstate::CANNOT_CONNECT_NOW, format!("no server connection after waiting {waited} ms"))
        } else {
            Report::new(sqlstate::CANNOT_CONNECT_NOW, format!("the group has no leader: waited {waited} ms"))
        };
        let report = match &patience.last_error {
            Some(error) => report.detail(format!("Last attempt: {error}.")),
            None => report,
        };
        report.hint("Nothing was run. Try again later.")
    }

    /// A pooled or new connection to this node.
    async fn lease(&mut self, serving: Serving) -> Result<Box<Lease>, backend::Error> {
        let pool = self.pool(serving.node);
        match pool.take_idle(&self.parameters, serving) {
            Some(lease) => Ok(lease),
            None => self.open_while_current(pool, serving).await,
        }
    }

    /// The session's pool at this node.
    fn pool(&mut self, node: NodeId) -> Arc<Pool> {
        if let Some((_, pool)) = self.known_pools.iter().find(|(known, _)| *known == node) {
            return Arc::clone(pool);
        }
        let pool = self.worker.pools.get(&self.role, node);
        self.known_pools.push((node, Arc::clone(&pool)));
        pool
    }

    /// Waits for a connection, or opens one. Given up when the node stops serving as it does: its host may be gone without a word.
    async fn open_while_current(&mut self, pool: Arc<Pool>, serving: Serving) -> Result<Box<Lease>, backend::Error> {
        let mut routes = self.routes.clone();
        tokio::select! {
            biased;
            opened = self.open(pool, serving) => opened,
            () = routes.until_gone(serving) => Err(backend::Error::Protocol("the node stopped serving")),
        }
    }

    async fn open(&self, pool: Arc<Pool>, serving: Serving) -> Result<Box<Lease>, backend::Error> {
        let config = &self.worker.config;
        let permit = match pool.take(&self.parameters, serving, config.queue()).await? {
            Taken::Lease(lease) => return Ok(lease),
            Taken::Permit(permit) => permit,
        };
        let view = self.routes.clone().view();
        let node = view.node(serving.node).ok_or(backend::Error::Protocol("the node is gone"))?;
        let address = node.status.sql_address.as_str();
        let target =
            Target { address, role: &self.role, secret: &self.secret, database: &config.database, parameters: &self.parameters, serving };
        match server::open(target, config.connect()).await {
            Ok(connection) => {
                self.worker.metrics.server_connections_total.add(1);
                Ok(permit.lease(connection))
            }
            Err(error) => {
                tracing::debug!(%error, address, "cannot open a server connection");
                self.worker.metrics.server_connect_errors_total.add(1);
                let mismatch = matches!(error, backend::Error::Epoch { .. });
                self.worker.metrics.server_epoch_mismatches_total.add(u64::from(mismatch));
                Err(error)
            }
        }
    }
}

/// A step of Knuth's MMIX generator; its high bits are good enough to spread reads.
fn next_random(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

impl Patience {
    fn new() -> Self {
        Self { since: clock::now(), leader_only: false, counted: false, unleased: false, failures: 0, last_error: None }
    }

    fn failed(&mut self, error: backend::Error) {
        self.failures += 1;
        self.last_error = Some(error);
    }

    fn lacks_lease(&mut self, metrics: &Metrics) {
        if !self.unleased {
            self.unleased = true;
            metrics.lease_waits_total.add(1);
        }
    }
}

fn using(node: &Node, why: &'static str) -> Next {
    match node.serving() {
        Some(serving) => Next::Use { serving, why },
        None => Next::Wait,
    }
}

fn permanent(error: backend::Error) -> Report {
    match error {
        backend::Error::Server { code, message } => Report::new(code, message),
        error @ (backend::Error::PoolFull(_) | backend::Error::QueueFull) => {
            Report::new(sqlstate::TOO_MANY_CONNECTIONS, error.to_string()).hint("Raise pool_size in the proxy's configuration.")
        }
        backend::Error::Auth(_) => Report::new(sqlstate::INVALID_PASSWORD, "the server refused this session's password")
            .detail("It was changed since this session logged in, or differs between the nodes.")
            .hint("Connect again."),
        other => Report::new(sqlstate::CONNECTION_FAILURE, other.to_string()),
    }
}

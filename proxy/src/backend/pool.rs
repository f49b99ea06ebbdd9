//! Server connections of one worker that wait for their next transaction, per role and node.
//!
//! ```text
//!   take: a matching idle connection, else leave to open one, else a place in the queue
//!   give back: to the first in the queue, else to the idle ones (last in, first out)
//! ```
//!
//! Invariants: `open` counts idle connections, leases, and leaves to open one; it never exceeds `size_max`. A connection is
//! given out only to a session of equal startup parameters, while the node serves as it did when the connection was opened.

use super::Error;
use super::connection::Connection;
use crate::clock::{self, Millis};
use crate::core::params::ServerParameters;
use crate::core::view::{Serving, View};
use crate::metrics::Metrics;
use howdah_protocol::NodeId;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Sessions that wait for a connection of one pool.
const WAITERS_MAX: usize = 10_000;
/// Pools are forgotten when they are empty; more than this many roles times nodes are not expected at one time.
const POOLS_SOFT_MAX: usize = 1024;

type ByRoleAndNode = HashMap<(Arc<str>, NodeId), Arc<Pool>>;

/// All pools of one worker.
#[derive(Debug)]
pub(crate) struct Pools {
    pools: Mutex<ByRoleAndNode>,
    size_max: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    /// Leases and leaves, for the choice between followers.
    busy: AtomicUsize,
    size_max: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    /// Without their permits: `open` counts them.
    #[expect(clippy::vec_box, reason = "a lease is handed on in its box")]
    idle: Vec<Box<Lease>>,
    open: usize,
    /// What they are handed frees itself when nobody takes it.
    waiters: VecDeque<oneshot::Sender<Taken>>,
}

/// Leave to have one connection of the pool open.
#[derive(Debug)]
pub(crate) struct Permit {
    /// None once it went to an idle connection or to a waiter.
    pool: Option<Arc<Pool>>,
}

/// A connection in use. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) connection: Connection,
    permit: Permit,
}

#[derive(Debug)]
pub(crate) enum Taken {
    Lease(Box<Lease>),
    /// Open one.
    Permit(Permit),
}

impl Pools {
    pub(crate) fn new(size_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { pools: Mutex::default(), size_max, metrics }
    }

    pub(crate) fn get(&self, role: &Arc<str>, node: NodeId) -> Arc<Pool> {
        let mut pools = self.lock();
        if pools.len() >= POOLS_SOFT_MAX {
            pools.retain(|_, pool| Arc::strong_count(pool) > 1 || pool.lock().open > 0);
        }
        let pool = pools.entry((Arc::clone(role), node)).or_insert_with(|| {
            Arc::new(Pool {
                state: Mutex::default(),
                busy: AtomicUsize::new(0),
                size_max: self.size_max,
                metrics: Arc::clone(&self.metrics),
            })
        });
        Arc::clone(pool)
    }

    /// Closes idle connections that are too old, or whose node does not serve as it did.
    pub(crate) fn sweep(&self, view: &View, now: Millis, idle_max: Duration) {
        let pools: Vec<_> = self.lock().values().cloned().collect();
        for pool in pools {
            let closed: Vec<_> = {
                let mut state = pool.lock();
                let gone = |lease: &mut Box<Lease>| {
                    let one = &mut lease.connection;
                    now.since(one.idle_since) > idle_max || !view.is_current(one.serving) || !one.is_quiet()
                };
                state.idle.extract_if(.., gone).collect()
            };
            for connection in closed {
                drop(connection);
                pool.busy.fetch_add(1, Ordering::Relaxed);
                drop(Permit { pool: Some(Arc::clone(&pool)) });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByRoleAndNode> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Takes a connection or leave to open one, waiting at most `limit`.
    pub(crate) async fn take(
        self: &Arc<Self>,
        parameters: &Arc<ServerParameters>,
        serving: Serving,
        limit: Duration,
    ) -> Result<Taken, Error> {
        if let Some(lease) = self.take_idle(parameters, serving) {
            return Ok(Taken::Lease(lease));
        }
        let receiver = match self.try_open()? {
            Ok(permit) => return Ok(Taken::Permit(permit)),
            Err(receiver) => receiver,
        };
        self.metrics.pool_waits_total.add(1);
        match tokio::time::timeout(limit, receiver).await {
            Ok(Ok(Taken::Lease(lease))) if !matches(&lease.connection, parameters, serving) => {
                let Lease { connection, permit } = *lease;
                drop(connection);
                Ok(Taken::Permit(permit))
            }
            Ok(Ok(taken)) => Ok(taken),
            _ => Err(Error::PoolFull(limit)),
        }
    }

    /// An idle connection, where there is one that fits.
    pub(crate) fn take_idle(self: &Arc<Self>, parameters: &Arc<ServerParameters>, serving: Serving) -> Option<Box<Lease>> {
        let mut state = self.lock();
        while let Some(at) = state.idle.iter().rposition(|one| matches(&one.connection, parameters, serving)) {
            let mut lease = state.idle.swap_remove(at);
            if lease.connection.is_quiet() {
                lease.permit = self.permit();
                return Some(lease);
            }
            self.metrics.server_connections.sub(1);
            state.open -= 1;
        }
        None
    }

    fn permit(self: &Arc<Self>) -> Permit {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Permit { pool: Some(Arc::clone(self)) }
    }

    /// Leave to open a connection, or a place in the queue.
    fn try_open(self: &Arc<Self>) -> Result<Result<Permit, oneshot::Receiver<Taken>>, Error> {
        let mut state = self.lock();
        if state.open >= self.size_max
            && let Some(connection) = state.idle.pop()
        {
            // Of other startup parameters, or of an earlier life of the node.
            drop(connection);
            self.metrics.server_connections.sub(1);
            state.open -= 1;
        }
        if state.open < self.size_max {
            state.open += 1;
            self.metrics.server_connections.add(1);
            return Ok(Ok(self.permit()));
        }
        state.waiters.retain(|waiter| !waiter.is_closed());
        if state.waiters.len() >= WAITERS_MAX {
            return Err(Error::QueueFull);
        }
        let (sender, receiver) = oneshot::channel();
        state.waiters.push_back(sender);
        Ok(Err(receiver))
    }

    fn put(&self, mut lease: Box<Lease>) {
        lease.connection.idle_since = clock::now();
        let mut state = self.lock();
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(Taken::Lease(lease)) {
                Ok(()) => return,
                Err(Taken::Lease(returned)) => lease = returned,
                Err(Taken::Permit(_)) => return,
            }
        }
        self.busy.fetch_sub(1, Ordering::Relaxed);
        // From here on the idle connection counts as open.
        lease.permit.pool = None;
        state.idle.push(lease);
    }

    /// One connection less: the first in the queue may open another.
    fn leave(self: Arc<Self>) {
        let mut state = self.lock();
        let mut permit = Permit { pool: Some(Arc::clone(&self)) };
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(Taken::Permit(permit)) {
                Ok(()) => return,
                Err(Taken::Permit(returned)) => permit = returned,
                Err(Taken::Lease(_)) => return,
            }
        }
        permit.pool = None;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        state.open -= 1;
        self.metrics.server_connections.sub(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn matches(connection: &Connection, parameters: &Arc<ServerParameters>, serving: Serving) -> bool {
    connection.serving == serving && (Arc::ptr_eq(&connection.parameters, parameters) || connection.parameters == *parameters)
}

impl Permit {
    pub(crate) fn lease(self, connection: Connection) -> Box<Lease> {
        Box::new(Lease { connection, permit: self })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.leave();
        }
    }
}

impl Lease {
    /// The connection may serve another session.
    pub(crate) fn give_back(self: Box<Self>) {
        if let Some(pool) = self.permit.pool.clone() {
            pool.put(self);
        }
    }
}

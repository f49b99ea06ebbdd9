//! What others may do to a session: cancel what it runs, cut its server connection, ask it to leave.
//!
//! The commit gate makes cancelling dangerous: the end of a COMMIT's wait by cancel shows a commit that the group has not decided. So
//! a cancel request is forwarded only while the session says that nothing of that kind is in flight, and the session sends nothing new
//! and does not give the server connection away while a cancel is on its way. Both sides decide under one lock.

use crate::clock::{self, Millis};
use crate::core::view::{Serving, View};
use crate::metrics::Metrics;
use crate::wire::startup;
use futures::task::AtomicWaker;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The server has to close the cancel connection in this time; after it the server connection is not used again.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Cancels of one session at one time; more are dropped.
const CANCELS_MAX: u32 = 4;

/// The server connection that a session uses now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attached {
    pub(crate) serving: Serving,
    pub(crate) peer: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) secret: u32,
}

#[derive(Debug, Default)]
struct Guarded {
    attached: Option<Attached>,
    /// Since when something is in flight whose wait must not be cut short.
    uncancellable: Option<Millis>,
}

/// One session, as others see it.
#[derive(Debug)]
pub(crate) struct Link {
    /// What the client was given for its cancel requests.
    pub(crate) pid: u32,
    pub(crate) secret: u32,
    guarded: Mutex<Guarded>,
    /// Cancels on their way to the server.
    cancels: AtomicU32,
    /// A cancel did not settle in time.
    tainted: AtomicBool,
    drain: AtomicBool,
    cut: AtomicBool,
    waker: AtomicWaker,
}

impl Link {
    fn new(pid: u32, secret: u32) -> Self {
        Self {
            pid,
            secret,
            guarded: Mutex::default(),
            cancels: AtomicU32::new(0),
            tainted: AtomicBool::new(false),
            drain: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the session's task when something here changes.
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    pub(crate) fn attach(&self, attached: Attached) {
        self.cut.store(false, Ordering::Relaxed);
        self.tainted.store(false, Ordering::Relaxed);
        *self.lock() = Guarded { attached: Some(attached), uncancellable: None };
    }

    /// From now on no cancel reaches the server connection; one may still be on its way.
    pub(crate) fn detach(&self) {
        *self.lock() = Guarded::default();
    }

    /// Says whether what is in flight may be cancelled. Returns false while a cancel is on its way.
    pub(crate) fn guard(&self, uncancellable: bool) -> bool {
        let mut guarded = self.lock();
        guarded.uncancellable = if uncancellable { guarded.uncancellable.or_else(|| Some(clock::now())) } else { None };
        drop(guarded);
        !self.is_cancelling()
    }

    pub(crate) fn is_cancelling(&self) -> bool {
        self.cancels.load(Ordering::Acquire) > 0
    }

    /// The server connection must not be used again.
    pub(crate) fn is_tainted(&self) -> bool {
        self.tainted.load(Ordering::Acquire)
    }

    /// The server connection is of a node that serves otherwise now.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.load(Ordering::Acquire)
    }

    /// Waits until the session is asked to leave.
    pub(crate) async fn drained(&self) {
        std::future::poll_fn(|context| {
            self.register(context.waker());
            if self.is_draining() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Asks the session to leave when it is idle.
    fn drain(&self) {
        self.drain.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// A commit that waits for a majority that does not come back is given up after `limit`: what became of it is then asked, and told.
    pub(crate) fn cut_if_superseded(&self, view: &View, now: Millis, limit: Duration) {
        let superseded = {
            let guarded = self.lock();
            let waits = guarded.uncancellable.is_some_and(|since| now.since(since) > limit);
            guarded.attached.is_some_and(|attached| {
                view.is_superseded(attached.serving, now) || waits && view.is_without_lease(attached.serving, now, limit)
            })
        };
        if superseded {
            self.cut.store(true, Ordering::Release);
            self.waker.wake();
        }
    }

    /// Forwards a cancel request and waits until it settled. False where it was dropped.
    async fn cancel(&self) -> bool {
        let attached = {
            let guarded = self.lock();
            let allowed = guarded.uncancellable.is_none() && self.cancels.load(Ordering::Acquire) < CANCELS_MAX;
            let Some(attached) = guarded.attached.filter(|_| allowed) else { return false };
            self.cancels.fetch_add(1, Ordering::AcqRel);
            attached
        };
        let sent = tokio::time::timeout(SETTLE_TIMEOUT, send_cancel(attached)).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.tainted.store(true, Ordering::Release);
        }
        self.cancels.fetch_sub(1, Ordering::AcqRel);
        self.waker.wake();
        true
    }
}

/// The server closes the connection once it has sent the signal.
async fn send_cancel(attached: Attached) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(attached.peer).await?;
    stream.write_all(&startup::write_cancel(attached.pid, attached.secret)).await?;
    let mut rest = [0; 16];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// All sessions, by what they were given for cancel requests.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    links: Mutex<HashMap<u32, Arc<Link>>>,
}

/// A session's entry; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) link: Arc<Link>,
    registry: Arc<Registry>,
}

impl Registry {
    pub(crate) fn register(self: &Arc<Self>) -> Registered {
        let mut links = self.lock();
        let pid = loop {
            // Positive, since drivers take it for a signed number.
            let pid = rand::random::<u32>() >> 1;
            if pid != 0 && !links.contains_key(&pid) {
                break pid;
            }
        };
        let link = Arc::new(Link::new(pid, rand::random()));
        links.insert(pid, Arc::clone(&link));
        Registered { link, registry: Arc::clone(self) }
    }

    pub(crate) async fn cancel(&self, pid: u32, secret: u32, metrics: &Metrics) {
        let link = self.lock().get(&pid).filter(|link| link.secret == secret).cloned();
        let forwarded = match link {
            Some(link) => link.cancel().await,
            None => false,
        };
        if forwarded {
            metrics.cancels_forwarded_total.add(1);
        } else {
            metrics.cancels_dropped_total.add(1);
        }
    }

    pub(crate) fn drain(&self) {
        self.lock().values().for_each(|link| link.drain());
    }

    pub(crate) fn cut_superseded(&self, view: &View, now: Millis, limit: Duration) {
        self.lock().values().for_each(|link| link.cut_if_superseded(view, now, limit));
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.link.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::view::tests::{status, view};
    use howdah_protocol::admin::Role;
    use howdah_protocol::{Epoch, NodeId};
    use tokio::net::TcpListener;

    fn attached(peer: SocketAddr) -> Attached {
        Attached { serving: Serving { node: NodeId(1), epoch: Epoch(1), leads: true }, peer, pid: 7, secret: 9 }
    }

    #[tokio::test]
    async fn a_cancel_is_forwarded_once_allowed_and_settles_at_the_end_of_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let registry = Arc::new(Registry::default());
        let registered = registry.register();
        let link = Arc::clone(&registered.link);
        link.attach(attached(listener.local_addr().expect("address")));

        assert!(link.guard(true));
        assert!(!link.cancel().await, "a commit is in flight");
        assert!(link.guard(false));
        let task = tokio::spawn({
            let link = Arc::clone(&link);
            async move { link.cancel().await }
        });
        let (mut server, _) = listener.accept().await.expect("cancel connection");
        let mut packet = [0; 16];
        server.read_exact(&mut packet).await.expect("cancel packet");
        assert_eq!(packet[..], startup::write_cancel(7, 9)[..]);
        assert!(link.is_cancelling() && !link.guard(true), "not settled yet");
        drop(server);
        assert!(task.await.expect("no panic"));
        assert!(link.guard(true) && !link.is_tainted());
    }

    #[tokio::test]
    async fn strangers_and_detached_sessions_cancel_nothing() {
        let registry = Arc::new(Registry::default());
        let metrics = Metrics::default();
        let registered = registry.register();
        let (pid, secret) = (registered.link.pid, registered.link.secret);
        registry.cancel(pid, secret.wrapping_add(1), &metrics).await;
        registry.cancel(pid, secret, &metrics).await;
        drop(registered);
        registry.cancel(pid, secret, &metrics).await;
        assert_eq!(metrics.cancels_dropped_total.get(), 3);
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn only_a_commit_that_waits_for_long_without_a_majority_is_given_up() {
        let view = view(vec![status(1, Role::Leader, 3, 9)]);
        let serving = Serving { node: NodeId(1), epoch: Epoch(101), leads: true };
        let limit = Duration::from_millis(100);
        let cut = |uncancellable, after: u64| {
            let link = Link::new(1, 2);
            link.attach(Attached { serving, ..attached(SocketAddr::from(([127, 0, 0, 1], 1))) });
            link.guard(uncancellable);
            let since = clock::now();
            link.cut_if_superseded(&view, Millis(since.0 + after), limit);
            link.is_cut()
        };
        assert!(cut(true, 200));
        assert!(!cut(true, 50), "not long yet");
        assert!(!cut(false, 200), "nothing waits");
    }
}

//! The running proxy: one thread that follows the group, accepts and administers, and worker threads that serve clients.
//!
//! A client stays on its worker. Each worker has a runtime and pools of its own, so that a query crosses no thread.

use crate::auth::MockSecret;
use crate::backend::roles::Roles;
use crate::client::connection::serve;
use crate::client::link::Registry;
use crate::client::{Shared, Worker};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::routing::Routes;
use crate::routing::positions::Positions;
use crate::{admin, clock};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Connections that wait to be taken by a worker.
const HANDOVER_MAX: usize = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections beyond `clients_max` that are still logging in, or are told that there are too many.
const LOGINS_MAX: usize = 1000;
/// What servers say at the start of a connection is asked again after this.
const GREETINGS_KEPT: Duration = Duration::from_secs(60);
/// Between looks at whether all clients have left.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address} (key {key}): {problem}{}", if_in_use(.problem))]
    Listen { key: &'static str, address: SocketAddr, problem: std::io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("cannot wait for signals: {0}")]
    Signal(std::io::Error),
}

fn if_in_use(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::AddrInUse { "; another process uses this port: stop it, or choose another" } else { "" }
}

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Where an address cannot be listened on, or the system refuses threads or signals.
pub fn run(config: Config) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    runtime.block_on(main(Arc::new(config)))
}

async fn main(config: Arc<Config>) -> Result<(), Error> {
    let listener = listen("listen", config.listen).await?;
    let admin_listener = listen("admin_listen", config.admin_listen).await?;
    let metrics = Arc::new(Metrics::default());
    let routes = Routes::start(&config.sidecars);
    let shared = Shared {
        registry: Arc::default(),
        roles: Roles::start(routes.clone(), config.database.clone(), config.proxy_password.clone(), config.connect()),
        positions: Positions::start(routes.clone(), Arc::clone(&metrics)),
        routes: routes.clone(),
        cache: Arc::default(),
        mock: Arc::new(MockSecret::new(rand::random())),
        metrics: Arc::clone(&metrics),
        config: Arc::clone(&config),
    };
    let draining = Arc::new(AtomicBool::new(false));
    tokio::spawn(admin::serve(admin_listener, admin::State { routes: routes.clone(), metrics, draining: Arc::clone(&draining) }));
    tokio::spawn(watch_topology(routes, Arc::clone(&shared.registry), config.queue()));
    let workers: Vec<_> = (0..config.workers.get()).map(|nth| start_worker(nth, shared.clone())).collect::<Result<_, _>>()?;
    let stop = stop_signal()?;
    tracing::info!(listen = %config.listen, admin = %config.admin_listen, workers = workers.len(), "howdah-proxy is ready");
    tokio::select! {
        () = accept(listener, &workers, &shared) => {}
        () = stop => {}
    }
    draining.store(true, Ordering::Relaxed);
    drain(&shared.registry, config.drain()).await;
    Ok(())
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|problem| Error::Listen { key, address, problem })
}

fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Idle clients leave at once, busy ones when they are done, all after the limit.
async fn drain(registry: &Registry, limit: Duration) {
    tracing::info!(clients = registry.len(), "draining");
    registry.drain();
    let since = clock::now();
    while registry.len() > 0 && clock::now().since(since) < limit {
        tokio::time::sleep(DRAIN_PAUSE).await;
        // Who logged in meanwhile is asked as well.
        registry.drain();
    }
    tracing::info!(clients = registry.len(), "stopped");
}

/// Cuts what runs on nodes that serve otherwise now, or waits there for longer than `limit` for a majority that is gone.
async fn watch_topology(mut routes: Routes, registry: Arc<Registry>, limit: Duration) {
    let mut seen = routes.view().topology;
    let mut swept = clock::now();
    loop {
        routes.changed(SWEEP_INTERVAL).await;
        let (view, now) = (routes.view(), clock::now());
        // By time as well: silence is no change.
        if view.topology != seen || now.since(swept) >= SWEEP_INTERVAL {
            (seen, swept) = (view.topology, now);
            registry.cut_superseded(&view, now, limit);
        }
    }
}

#[derive(Debug)]
struct WorkerHandle {
    connections: mpsc::Sender<(std::net::TcpStream, bool)>,
    clients: Arc<AtomicUsize>,
}

/// Hands each new connection to the worker with the fewest clients.
async fn accept(listener: TcpListener, workers: &[WorkerHandle], shared: &Shared) {
    loop {
        let stream = match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: those who leave make room.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let full = shared.registry.len() >= shared.config.clients_max.get();
        let open: usize = workers.iter().map(|worker| worker.clients.load(Ordering::Relaxed)).sum();
        if open >= shared.config.clients_max.get() + LOGINS_MAX {
            shared.metrics.clients_refused_total.add(1);
            continue;
        }
        let Some(worker) = workers.iter().min_by_key(|worker| worker.clients.load(Ordering::Relaxed)) else { return };
        worker.clients.fetch_add(1, Ordering::Relaxed);
        if worker.connections.try_send((stream, full)).is_err() {
            worker.clients.fetch_sub(1, Ordering::Relaxed);
            shared.metrics.clients_refused_total.add(1);
        }
    }
}

fn start_worker(nth: usize, shared: Shared) -> Result<WorkerHandle, Error> {
    let (connections, receiver) = mpsc::channel(HANDOVER_MAX);
    let clients = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let counted = Arc::clone(&clients);
    std::thread::Builder::new()
        .name(format!("worker-{nth}"))
        .spawn(move || runtime.block_on(work(Arc::new(Worker::new(shared)), receiver, counted)))
        .map_err(Error::Thread)?;
    Ok(WorkerHandle { connections, clients })
}

async fn work(worker: Arc<Worker>, mut connections: mpsc::Receiver<(std::net::TcpStream, bool)>, clients: Arc<AtomicUsize>) {
    tokio::spawn(keep_house(Arc::clone(&worker)));
    while let Some((stream, full)) = connections.recv().await {
        let (worker, clients) = (Arc::clone(&worker), Arc::clone(&clients));
        tokio::spawn(async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(worker, stream, full).await,
                Err(error) => tracing::warn!(%error, "cannot take a connection"),
            }
            clients.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Closes idle server connections that are old, or whose node serves otherwise now.
async fn keep_house(worker: Arc<Worker>) {
    let mut routes = worker.routes.clone();
    let mut seen = routes.view().topology;
    let (mut swept, mut greeted) = (clock::now(), clock::now());
    loop {
        routes.changed(SWEEP_INTERVAL).await;
        let (view, now) = (routes.view(), clock::now());
        let moved = view.topology != seen;
        if moved || now.since(swept) >= SWEEP_INTERVAL {
            (seen, swept) = (view.topology, now);
            worker.pools.sweep(&view, now, worker.config.idle_server());
        }
        if moved || now.since(greeted) >= GREETINGS_KEPT {
            greeted = now;
            worker.forget_greetings();
        }
    }
}

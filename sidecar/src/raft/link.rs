//! Connections to one peer, kept up all the time.
//!
//! Two of them: one carries the append stream, the other votes, heartbeats and everything small, so that a heartbeat is never behind a
//! large append. Keeping the second one open also when nothing is sent is what makes a peer's death visible: the kernel closes a dead
//! process's sockets at once, and the other end reads it.

use super::server::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub(crate) const CONNECT_WAIT_MAX: Duration = Duration::from_millis(1000);
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(10);
/// A peer that came back must be watched again soon: until then its death goes unnoticed here.
const RECONNECT_WAIT_MAX: Duration = Duration::from_millis(100);
/// A half-open connection is given up after these; who leads does not depend on it.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_WAIT_MAX: Duration = Duration::from_secs(3);
/// How much of a stream may be under way before the receiver has read it. Both directions, client and server.
pub(crate) const STREAM_WINDOW_LEN: u32 = 8 << 20;
pub(crate) const CONNECTION_WINDOW_LEN: u32 = 16 << 20;
pub(crate) const H2_FRAME_LEN_MAX: u32 = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Append,
    Control,
}

/// The control connection to this peer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Down {
    pub(crate) node: u64,
}

/// One connection that is opened again whenever it ends.
#[derive(Debug)]
pub(crate) struct Link {
    sender: watch::Receiver<Option<SendRequest<Body>>>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(crate) fn new(node: u64, addr: String, purpose: Purpose, down: mpsc::Sender<Down>) -> Self {
        let (publish, sender) = watch::channel(None);
        let task = tokio::spawn(async move {
            let mut wait = RECONNECT_WAIT_MIN;
            loop {
                match connect(&addr).await {
                    Ok((requests, connection)) => {
                        wait = RECONNECT_WAIT_MIN;
                        publish.send_replace(Some(requests));
                        let ended = connection.await;
                        publish.send_replace(None);
                        tracing::debug!(node, ?purpose, ?ended, "connection to a peer has ended");
                        if purpose == Purpose::Control {
                            // A full queue holds news of this peer already.
                            let _ = down.try_send(Down { node });
                        }
                    }
                    Err(error) => tracing::trace!(node, %error, "cannot connect to a peer"),
                }
                sleep(wait).await;
                wait = (wait * 2).min(RECONNECT_WAIT_MAX);
            }
        });
        Self { sender, task }
    }

    /// The open connection; waits for one, but not longer than `wait`.
    pub(crate) async fn sender(&self, wait: Duration) -> Option<SendRequest<Body>> {
        let mut watch = self.sender.clone();
        let open = timeout(wait, watch.wait_for(Option::is_some)).await.ok()?.ok()?;
        open.clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.sender.borrow().is_some()
    }
}

type Connection = std::pin::Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

async fn connect(addr: &str) -> io::Result<(SendRequest<Body>, Connection)> {
    let stream = timeout(CONNECT_WAIT_MAX, TcpStream::connect(addr)).await??;
    stream.set_nodelay(true)?;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_LEN)
        .initial_connection_window_size(CONNECTION_WINDOW_LEN)
        .max_frame_size(H2_FRAME_LEN_MAX)
        .max_send_buf_size(STREAM_WINDOW_LEN as usize)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_WAIT_MAX)
        .keep_alive_while_idle(true);
    let (sender, connection) = timeout(CONNECT_WAIT_MAX, builder.handshake(TokioIo::new(stream))).await?.map_err(io::Error::other)?;
    Ok((sender, Box::pin(connection)))
}

/// Both connections to one peer.
#[derive(Debug)]
pub(crate) struct PeerLinks {
    pub(crate) node: u64,
    pub(crate) addr: String,
    pub(crate) append: Link,
    pub(crate) control: Link,
}

impl PeerLinks {
    pub(crate) fn new(node: u64, addr: String, down: mpsc::Sender<Down>) -> Arc<Self> {
        let append = Link::new(node, addr.clone(), Purpose::Append, down.clone());
        let control = Link::new(node, addr.clone(), Purpose::Control, down);
        Arc::new(Self { node, addr, append, control })
    }

    pub(crate) fn link(&self, purpose: Purpose) -> &Link {
        match purpose {
            Purpose::Append => &self.append,
            Purpose::Control => &self.control,
        }
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

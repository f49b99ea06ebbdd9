//! Follows the sidecars' status streams and keeps the view that sessions route by.
//!
//! ```text
//!   sidecar --NDJSON--> follow(place) --\
//!   sidecar --NDJSON--> follow(place) ---+--> View (replaced on every change, watched by whoever waits)
//!   sidecar --NDJSON--> follow(place) --/       |
//!   leader  <--------- leases::follow ----------'
//! ```
//!
//! The configured sidecars are followed always. Members that are not among them are found by asking the leader (`members`).

pub(crate) mod http;
mod leases;
mod members;
pub(crate) mod positions;

use crate::clock;
use crate::core::view::{SILENCE_MAX, Serving, View};
use howdah_protocol::admin::NodeStatus;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A status line is about 500 bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Between looks at a node that somebody waits for, when nothing changes.
const WATCH: Duration = Duration::from_millis(500);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("status stream: {0}")]
    Body(#[from] hyper::Error),
    #[error("status stream ended")]
    Ended,
    #[error("status stream was silent for {0:?}")]
    Silent(Duration),
    #[error("status line is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("status line: {0}")]
    Json(#[from] serde_json::Error),
}

/// The current view, and a wait for the next.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    receiver: watch::Receiver<Arc<View>>,
    cached: Arc<View>,
}

impl Routes {
    /// Starts to follow the sidecars.
    pub(crate) fn start(sidecars: &[String]) -> Self {
        let (sender, routes) = Self::fixed(View::new(sidecars.len()));
        let sender = Arc::new(sender);
        tokio::spawn(leases::follow(routes.clone(), Arc::clone(&sender)));
        for (place, address) in sidecars.iter().enumerate() {
            tokio::spawn(follow(place, address.clone(), Arc::clone(&sender)));
        }
        tokio::spawn(members::discover(sidecars.to_vec(), sender));
        routes
    }

    /// A view that the caller changes.
    pub(crate) fn fixed(view: View) -> (watch::Sender<Arc<View>>, Self) {
        let cached = Arc::new(view);
        let (sender, receiver) = watch::channel(Arc::clone(&cached));
        (sender, Self { receiver, cached })
    }

    /// The view now.
    pub(crate) fn view(&mut self) -> Arc<View> {
        if self.receiver.has_changed().unwrap_or(false) {
            self.cached = Arc::clone(&self.receiver.borrow_and_update());
        }
        Arc::clone(&self.cached)
    }

    /// Waits until the view is as wanted, at most for `limit`.
    pub(crate) async fn until(&mut self, limit: Duration, wanted: impl Fn(&View) -> bool) {
        // Whichever came first: the caller looks again.
        let _ = tokio::time::timeout(limit, self.receiver.wait_for(|view| wanted(view))).await;
        self.cached = Arc::clone(&self.receiver.borrow_and_update());
    }

    /// Waits until the node stops serving as it does, or has not been heard of for too long.
    pub(crate) async fn until_gone(&mut self, serving: Serving) {
        loop {
            self.changed(WATCH).await;
            let view = self.view();
            if !view.is_current(serving) || view.node(serving.node).is_none_or(|node| !node.is_fresh(clock::now())) {
                return;
            }
        }
    }

    /// Waits until the view is another than [`Self::view`] gave last, at most for `limit`.
    pub(crate) async fn changed(&mut self, limit: Duration) {
        // A time-out is as good an answer as a change: the caller looks again.
        let _ = tokio::time::timeout(limit, self.receiver.changed()).await;
        self.cached = Arc::clone(&self.receiver.borrow_and_update());
    }
}

/// Keeps one sidecar's part of the view up to date, for ever.
async fn follow(place: usize, address: String, sender: Arc<watch::Sender<Arc<View>>>) {
    let mut pause = RETRY_FIRST;
    loop {
        let before = clock::now();
        let Err(error) = read(place, &address, &sender).await;
        if sender.borrow().is_connected(place) {
            tracing::warn!(sidecar = address, %error, "lost the sidecar");
        } else {
            tracing::debug!(sidecar = address, %error, "cannot follow the sidecar");
        }
        sender.send_modify(|view| Arc::make_mut(view).lost(place));
        // Whoever was there for a while is worth an immediate attempt.
        pause = if clock::now().since(before) > RETRY_MAX { RETRY_FIRST } else { (pause * 2).min(RETRY_MAX) };
        tokio::time::sleep(pause).await;
        if sender.is_closed() {
            return;
        }
    }
}

async fn read(place: usize, address: &str, sender: &watch::Sender<Arc<View>>) -> Result<std::convert::Infallible, Error> {
    let mut body = http::open(address, "/v1/status/stream").await?;
    let mut line = Vec::new();
    loop {
        let frame = tokio::time::timeout(SILENCE_MAX, body.frame()).await.map_err(|_| Error::Silent(SILENCE_MAX))?;
        let Ok(data) = frame.ok_or(Error::Ended)??.into_data() else { continue };
        line.extend_from_slice(&data);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let status: Option<NodeStatus> = match line[..end].trim_ascii() {
                [] => None,
                text => Some(serde_json::from_slice(text)?),
            };
            line.drain(..=end);
            if let Some(status) = status {
                sender.send_modify(|view| Arc::make_mut(view).heard(place, status, clock::now()));
            }
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(Error::LineTooLong);
        }
    }
}

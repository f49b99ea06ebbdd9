//! Asks the leader for its lease, again and again.
//!
//! Not a part of the status stream: what is pushed may lie in a buffer for any time before it is read. Here the time counts from the
//! question, so a silent, slow or stopped sidecar, network or proxy can only make a lease shorter.

use super::Routes;
use super::http::Client;
use crate::clock;
use crate::core::view::{Serving, View};
use howdah_protocol::admin::Lease;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A fraction of the lease (400 ms by default, of which a heartbeat or two are gone), so that an answer may be late, or lost, and nobody
/// waits.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// An answer that comes later is hardly worth anything.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(300);

/// Keeps the view's lease up to date, until nobody looks at the view any more.
pub(super) async fn follow(mut routes: Routes, sender: Arc<watch::Sender<Arc<View>>>) {
    let mut client = Client::default();
    while !sender.is_closed() {
        let leader = routes.view().lessor(clock::now()).map(|(node, serving)| (serving, node.status.admin_address.clone()));
        if let Some((serving, address)) = &leader {
            let asked = clock::now();
            let answer = tokio::select! {
                answer = client.get::<Lease>(address, "/v1/lease") => Some(answer),
                // Its time is up, or there is another leader, for whose lease everybody waits.
                () = routes.until(ANSWER_WAIT_MAX, |view| leading(view) != Some(*serving)) => None,
            };
            match answer {
                Some(Ok(lease)) if lease.epoch == Some(serving.epoch) => {
                    sender.send_modify(|view| Arc::make_mut(view).lease(*serving, asked, lease.left_ms));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => tracing::debug!(%error, "no lease"),
                None => client = Client::default(),
            }
        }
        let leader = leader.map(|(serving, _)| serving);
        routes.until(ASK_EVERY, |view| leading(view) != leader).await;
    }
}

fn leading(view: &View) -> Option<Serving> {
    view.lessor(clock::now()).map(|(_, serving)| serving)
}

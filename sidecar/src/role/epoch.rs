//! The serving epoch: an advisory lock whose key carries a number that is new at each opening.
//!
//! `howdah.serving_epoch()` reads it. Postgres forgets it when it crashes, and the server drops it when the sidecar dies, so a proxy that
//! checks it never uses a server that nobody vouches for.

use super::Error;
use crate::pg::connect::Target;
use howdah_protocol::Epoch;
use std::time::Duration;
use tokio_postgres::Client;

/// High 16 bits of the lock's key: "HD". `schema.sql` knows it as 18500.
const KEY_PREFIX: u64 = 0x4844;
const EPOCH_BITS: u32 = 48;
/// How often it is looked whether the session still stands. A look is a load of a flag.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct ServingEpoch {
    epoch: Epoch,
    session: Client,
}

impl ServingEpoch {
    pub(super) async fn begin(target: &Target) -> Result<Self, Error> {
        Self::begin_as(target, Self::fresh()).await
    }

    /// A number that no opening has had.
    pub(super) fn fresh() -> Epoch {
        Epoch((rand::random::<u64>() >> (64 - EPOCH_BITS)).max(1))
    }

    pub(super) async fn begin_as(target: &Target, epoch: Epoch) -> Result<Self, Error> {
        let session = target.connect("howdah-epoch", "-c idle_session_timeout=0").await?;
        let key = (KEY_PREFIX << EPOCH_BITS | epoch.0).cast_signed();
        session.execute("SELECT pg_advisory_lock($1)", &[&key]).await?;
        Ok(Self { epoch, session })
    }

    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// Resolves when the server has dropped the session, and the epoch with it; never where none is held.
pub(super) async fn lost(epoch: Option<&ServingEpoch>) {
    let Some(epoch) = epoch else { return std::future::pending().await };
    while !epoch.session.is_closed() {
        tokio::time::sleep(POLL).await;
    }
}

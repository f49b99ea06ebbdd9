//! The copying itself, on the joining node: workers take one piece after the other until none is left.

use super::background::Background;
use super::meter::{Meter, PieceMeter};
use super::plan::Plan;
use super::sink::Error;
use super::{CHUNK_TIMEOUT, OPTIONS};
use crate::admin::client;
use crate::pg::connect::Target;
use bytes::Bytes;
use futures::SinkExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// What the workers share.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) plan: Plan,
    /// Major version of the PostgreSQL here.
    pub(super) version: u32,
    /// The admin address of the node that gives them.
    pub(super) giver: String,
    pub(super) secret: String,
    pub(super) target: Target,
    pub(super) meter: Arc<Meter>,
}

impl Copying {
    /// Copies everything. The first failure ends the others; so does dropping the future.
    pub(super) async fn run(self, background: &Background) -> Result<(), Error> {
        let (copying, next) = (Arc::new(self), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..copying.plan.connections.clamp(1, copying.plan.pieces.len().max(1)) {
            workers.spawn_on(work(copying.clone(), next.clone()), background.handle());
        }
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|error| Error::Broken(error.to_string()))??;
        }
        Ok(())
    }

    async fn copy(&self, client: &Client, at: usize) -> Result<(), Error> {
        let piece = &self.plan.pieces[at];
        let table = &self.plan.tables[piece.table];
        let form = table.form(self.plan.version == self.version);
        let path = format!("/v1/seed/rows?id={}&piece={at}&form={}", self.plan.id, form.as_str());
        let mut body = get(&self.giver, &path, &self.secret).await?;
        let failed = |source| Error::Rows { table: format!("{}.{}", table.schema, table.name), source };
        let mut copy = pin!(client.copy_in::<_, Bytes>(&table.copy_in(form)).await.map_err(failed)?);
        let mut meter = PieceMeter::new(&self.meter, piece.bytes);
        while let Some(chunk) = next_chunk(&mut body).await? {
            meter.came(chunk.len());
            copy.send(chunk).await.map_err(failed)?;
        }
        meter.done(copy.finish().await.map_err(failed)?);
        Ok(())
    }
}

async fn work(copying: Arc<Copying>, next: Arc<AtomicUsize>) -> Result<(), Error> {
    let options = format!("{OPTIONS} -c session_replication_role=replica -c synchronous_commit=off");
    let client = copying.target.connect("howdah-seed", &options).await?;
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= copying.plan.pieces.len() {
            return Ok(());
        }
        copying.copy(&client, at).await?;
    }
}

pub(super) async fn get(giver: &str, path: &str, secret: &str) -> Result<Incoming, Error> {
    let response = tokio::time::timeout(CHUNK_TIMEOUT, client::get(giver, path, Some(secret))).await;
    Ok(response.map_err(|_| Error::Broken(format!("{giver} does not answer")))??.into_body())
}

/// The next part; none at the end of a whole body.
pub(super) async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = tokio::time::timeout(CHUNK_TIMEOUT, Pin::new(&mut *body).frame())
            .await
            .map_err(|_| Error::Broken(format!("nothing came for {CHUNK_TIMEOUT:?}")))?;
        let Some(frame) = frame else { return Ok(None) };
        if let Ok(data) = frame.map_err(|error| Error::Broken(error.to_string()))?.into_data() {
            return Ok(Some(data));
        }
    }
}

//! A plan becomes one local transaction.
//!
//! Order of things: BEGIN, the steps, the position, COMMIT, all sent without waiting for answers. A failure makes Postgres void the rest, COMMIT
//! included, so either all of it is there or nothing.

use super::params::Param;
use super::session::{Rows, Session};
use super::sql::{self, Shape};
use super::{Error, Log, LogError, ddl, progress};
use crate::core::coalesce::{Coalescer, Mode, OpenTransaction, Part, Plan, Relations, Step, Table, Updates, replay_chunk};
use crate::core::pgoutput::{Tuple, Value};
use bytes::Bytes;
use howdah_protocol::LogIndex;
use std::sync::Arc;

/// Row messages of a large transaction that are held in memory at once.
const CHUNK_BYTES_MAX: usize = 8 << 20;

/// Sends the whole transaction. Its outcome is that of the session's pipeline once drained.
pub(super) async fn send<L: Log>(session: &mut Session, log: &L, plan: &Plan, mode: Mode, relations: &mut Relations) -> Result<(), Error> {
    session.command("BEGIN").await?;
    for part in &plan.parts {
        match part {
            Part::Steps(list) => steps(session, list).await?,
            Part::Chunks { xid, transaction, without } => {
                let fresh = || Coalescer::without(mode, without.clone());
                chunks(session, log, *xid, transaction, fresh, relations).await?;
            }
        }
    }
    position(session, plan.last, progress::encode(&plan.state)).await?;
    session.command("COMMIT").await
}

/// Sends the position alone, as a transaction of its own.
pub(super) async fn position(session: &mut Session, index: LogIndex, state: String) -> Result<(), Error> {
    let index = i64::try_from(index.0).map_err(|_| Error::Progress(format!("position {index} does not fit a bigint")))?;
    session.progress(index, state).await
}

/// The chunks are read again from the log, so that a transaction of any size takes bounded memory. `relations` are the planner's: tables are
/// known to the session's statements by the number that they got there.
async fn chunks<L: Log>(
    session: &mut Session,
    log: &L,
    xid: u32,
    transaction: &OpenTransaction,
    fresh: impl Fn() -> Coalescer,
    relations: &mut Relations,
) -> Result<(), Error> {
    let (mut coalescer, mut held) = (fresh(), 0);
    for index in &transaction.entries {
        let Some((_, Some(payload))) = log.read(*index, 1).await?.into_iter().find(|(at, _)| at == index) else {
            return Err(LogError::Failed(format!("entry {index} holds no rows, but a chunk of transaction {xid} was there")).into());
        };
        replay_chunk(xid, &transaction.void, &payload, relations, &mut coalescer)?;
        held += payload.len();
        if held >= CHUNK_BYTES_MAX {
            steps(session, &std::mem::replace(&mut coalescer, fresh()).finish()).await?;
            session.pipeline.drain().await?;
            held = 0;
        }
    }
    steps(session, &coalescer.finish()).await
}

pub(super) async fn steps(session: &mut Session, steps: &[Step]) -> Result<(), Error> {
    for step in steps {
        match step {
            Step::Net { table, deletes, updates, upserts } => net(session, table, deletes, updates, upserts).await?,
            Step::Append { table, rows } => insert(session, table, Shape::Insert, rows).await?,
            Step::Rekey { table, old, new } => rekey(session, table, old, new).await?,
            Step::Match { table, old, new } => match_one(session, table, old, new.as_ref()).await?,
            Step::Truncate { tables, restart_identity } => truncate(session, tables, *restart_identity).await?,
            Step::Logical { content } => ddl::execute(session, content).await?,
        }
    }
    Ok(())
}

async fn net(
    session: &mut Session,
    table: &Arc<Table>,
    deletes: &[Vec<Bytes>],
    updates: &[Updates],
    upserts: &[Tuple],
) -> Result<(), Error> {
    let local = session.local(table).await?;
    if !deletes.is_empty() {
        let key = |(i, at): (usize, &usize)| Param::column(&local.columns[*at].form, deletes.iter().map(|key| Some(&key[i])));
        let params = table.key.iter().enumerate().map(key).collect::<Result<_, _>>()?;
        session.send(table, Shape::Delete, params, Rows::Any).await?;
    }
    for Updates { columns, rows } in updates {
        let set: Vec<usize> = columns.iter().copied().filter(|at| !local.columns[*at].generated).collect();
        if !set.is_empty() {
            let params = columns_of(session, table, table.key.iter().chain(&set), rows).await?;
            session.send(table, Shape::Update { set }, params, Rows::Found(rows.len() as u64)).await?;
        }
    }
    if upserts.is_empty() {
        return Ok(());
    }
    if local.arbiter && !local.replaces(table) {
        return insert(session, table, Shape::Upsert, upserts).await;
    }
    // No index to name, or no way to update every column: what is there goes first.
    let params = columns_of(session, table, table.key.iter(), upserts).await?;
    session.send(table, Shape::Delete, params, Rows::Any).await?;
    insert(session, table, Shape::Insert, upserts).await
}

async fn insert(session: &mut Session, table: &Arc<Table>, shape: Shape, rows: &[Tuple]) -> Result<(), Error> {
    let local = session.local(table).await?;
    let written = sql::written(&local);
    if written.is_empty() {
        for _ in rows {
            session.text(format!("INSERT INTO {} DEFAULT VALUES", local.name)).await?;
        }
        return Ok(());
    }
    let params = columns_of(session, table, written.iter(), rows).await?;
    session.send(table, shape, params, Rows::Any).await
}

async fn rekey(session: &mut Session, table: &Arc<Table>, old: &Tuple, new: &Tuple) -> Result<(), Error> {
    let set = set_of(session, table, new).await?;
    let params = table.key.iter().map(|at| Param::text(&old[*at])).chain(set.iter().map(|at| Param::text(&new[*at]))).collect();
    session.send(table, Shape::Rekey { set }, params, Rows::Found(1)).await
}

async fn match_one(session: &mut Session, table: &Arc<Table>, old: &Tuple, new: Option<&Tuple>) -> Result<(), Error> {
    let mut set = None;
    if let Some(new) = new {
        set = Some(set_of(session, table, new).await?);
    }
    if set.as_ref().is_some_and(Vec::is_empty) {
        return Ok(());
    }
    let nulls = old.iter().map(|value| *value == Value::Null).collect();
    let values = set.iter().flatten().filter_map(|at| new.map(|new| Param::text(&new[*at])));
    let params = old.iter().filter(|value| **value != Value::Null).map(Param::text).chain(values).collect();
    session.send(table, Shape::Match { nulls, set }, params, Rows::Found(1)).await
}

async fn set_of(session: &mut Session, table: &Arc<Table>, new: &Tuple) -> Result<Vec<usize>, Error> {
    let local = session.local(table).await?;
    Ok((0..new.len()).filter(|at| new[*at] != Value::Unchanged && !local.columns[*at].generated).collect())
}

async fn columns_of<'a>(
    session: &mut Session,
    table: &Arc<Table>,
    columns: impl Iterator<Item = &'a usize> + Send,
    rows: &[Tuple],
) -> Result<Vec<Param>, Error> {
    let local = session.local(table).await?;
    let column = |at: &usize| {
        let values = rows.iter().map(|row| match &row[*at] {
            Value::Text(text) => Some(text),
            Value::Null | Value::Unchanged | Value::Binary(_) => None,
        });
        Param::column(&local.columns[*at].form, values)
    };
    columns.map(column).collect()
}

/// CASCADE adds nothing: the leader could truncate only with everything that refers to these tables. But it names leaf partitions, and a
/// reference from their partitioned parent would stop the follower.
async fn truncate(session: &mut Session, tables: &[Arc<Table>], restart_identity: bool) -> Result<(), Error> {
    if tables.is_empty() {
        return Ok(());
    }
    let mut names = Vec::with_capacity(tables.len());
    for table in tables {
        names.push(format!("ONLY {}", session.local(table).await?.name));
    }
    let identity = if restart_identity { "RESTART" } else { "CONTINUE" };
    session.text(format!("TRUNCATE {} {identity} IDENTITY CASCADE", names.join(", "))).await
}

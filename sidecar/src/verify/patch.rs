//! Brings rows of this node back to the leader's: at one place of the log, in one transaction.
//!
//! 1. Apply stands still, wherever it is.
//! 2. The leader's rows of the keys are fetched, with the place in the log that they are from, which lies behind.
//! 3. Apply goes on to that place, and stands still.
//! 4. One transaction: the keys are deleted, the leader's rows are put in.
//!
//! A failure before 4 has changed nothing but the position; one in 4 is rolled back. Rows that meet a divergent row that was not asked for,
//! by another unique constraint, make 4 fail: comparing again finds that row.

use super::{Answer, Error, HOLD_MAX};
use crate::apply::{Holder, Patch, fetch};
use crate::config::Config;
use crate::core::coalesce::{Step, TableId};
use crate::core::divergence::Touched;
use crate::pg::schema::quoted;
use crate::raft;
use crate::repair::{self, Ask, AskTable, STATEMENT_ROWS_MAX};
use bytes::Bytes;
use howdah_protocol::NodeId;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Numbers for the tables of a repair, which no table of the log has.
const TABLE_IDS_FROM: usize = 1 << 48;

pub(super) async fn run(
    config: &Config,
    raft: &raft::Handle,
    holder: &Holder,
    leader: NodeId,
    tables: &[AskTable],
) -> Result<Answer, Error> {
    let member = raft.members().into_iter().find(|member| member.node == leader);
    let address = member.map(|member| member.admin_addr).ok_or(Error::NotLeader)?;
    let touched: Vec<Touched> = tables.iter().enumerate().map(|(nth, table)| touched(nth, table)).collect();
    let keys: usize = touched.iter().map(|touched| touched.keys.len()).sum();
    let deadline = Instant::now() + HOLD_MAX;
    let late = |_| Error::Broken(format!("the leader's rows did not come within {HOLD_MAX:?}"));
    let mut hold = holder.hold(deadline).await?;
    let ask = Ask { tables: tables.to_vec() };
    let fetched = timeout_at(deadline, repair::fetch(config, raft, &address, &ask)).await.map_err(late)??;
    let index = hold.advance(fetched.cut, deadline).await?;
    let steps = deletes(&touched).chain(fetched.steps).collect();
    let statements = tables.iter().filter(|table| table.key.is_empty()).flat_map(deletes_by_hash).collect();
    let patch = Patch { statements, steps };
    // The transaction may take its time: a promotion takes the hold away all the same, by ending the conversation.
    hold.patch(patch, Instant::now() + HOLD_MAX).await?;
    drop(hold);
    tracing::warn!(keys, rows = fetched.rows, %index, "rows that differed were set to the leader's");
    Ok(Answer::Repaired { keys: keys as u64 })
}

fn touched(nth: usize, asked: &AskTable) -> Touched {
    // Only the key's columns matter for taking rows away.
    let table = fetch::table(TableId(TABLE_IDS_FROM + nth), &asked.schema, &asked.table, asked.key.clone(), &asked.key);
    let keys = asked.keys.iter().map(|key| key.iter().map(|value| Bytes::from(value.clone())).collect()).collect();
    Touched { table: Arc::new(table), keys, encoded: HashSet::new() }
}

fn deletes(touched: &[Touched]) -> impl Iterator<Item = Step> {
    let keyed = touched.iter().filter(|touched| !touched.table.key.is_empty());
    keyed.flat_map(|touched| {
        let step = |keys: &[Vec<Bytes>]| Step::Net {
            table: Arc::clone(&touched.table),
            deletes: keys.to_vec(),
            updates: Vec::new(),
            upserts: Vec::new(),
        };
        touched.keys.chunks(STATEMENT_ROWS_MAX).map(step).collect::<Vec<_>>()
    })
}

/// All rows of each hash go, however many are equal: the leader's come with all of theirs. The hashes are numbers, and are read as such.
fn deletes_by_hash(asked: &AskTable) -> Vec<String> {
    let (schema, table, hash) = (quoted(&asked.schema), quoted(&asked.table), fetch::row_hash(&asked.columns));
    let hashes: Vec<i64> = asked.keys.iter().filter_map(|key| key.first()?.parse().ok()).collect();
    let statement = |hashes: &[i64]| {
        let hashes = hashes.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        format!("DELETE FROM ONLY {schema}.{table} AS t WHERE {hash} = ANY ('{{{hashes}}}'::pg_catalog.int8[])")
    };
    hashes.chunks(STATEMENT_ROWS_MAX).map(statement).collect()
}

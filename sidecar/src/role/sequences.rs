//! Sequences: logical decoding does not carry them, so the leader tells the log how far they are, and a new leader raises its own.
//!
//! A mark lies `AHEAD` values beyond the sequence, so that what is handed out between two looks is below it. A sequence that runs faster
//! than that is caught by the second rule: a new leader also raises each sequence past the largest value in the column that owns it.

use super::Error;
use super::lead::marks_entry;
use crate::pg::connect::Target;
use crate::pg::schema::quoted;
use crate::raft::Proposer;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::Client;

/// Values between a sequence and its mark, at most.
const AHEAD: i64 = 10_000;
/// A sequence with a small range gives up at most this part of it to a mark.
const RANGE_PART: i64 = 1_000;

/// A session of this node's own that holds a lock meanwhile ends with the attempt, and the next one gets on.
const OPTIONS: &str = "-c lock_timeout=5s";

/// A sequence of this node.
struct Sequence {
    oid: u32,
    name: String,
    increment: i64,
    min: i64,
    max: i64,
    /// The value handed out last; none where it never was used.
    last: Option<i64>,
    owner: Option<(String, String)>,
}

impl Sequence {
    /// The distance of a mark.
    fn ahead(&self) -> i64 {
        let part = self.max.saturating_sub(self.min) / RANGE_PART;
        AHEAD.saturating_mul(self.increment).min(part).max(self.increment)
    }
}

async fn list(client: &Client) -> Result<Vec<Sequence>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT c.oid, format('%I.%I', n.nspname, c.relname), s.seqincrement, s.seqmin, s.seqmax, pg_sequence_last_value(c.oid),
                    CASE WHEN t.oid IS NOT NULL THEN format('%I.%I', tn.nspname, t.relname) END, a.attname
             FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
                LEFT JOIN pg_class t ON t.oid = d.refobjid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
                LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
             WHERE c.relpersistence = 'p' AND n.nspname <> 'howdah'",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Sequence {
            oid: row.get(0),
            name: row.get(1),
            increment: row.get(2),
            min: row.get(3),
            max: row.get(4),
            last: row.get(5),
            owner: row.get::<_, Option<String>>(7).map(|column| (row.get(6), column)),
        })
        .collect())
}

/// Raises every sequence of this node past its mark and past the largest value of the column that owns it.
pub(super) async fn raise(target: &Target, marks: &BTreeMap<String, i64>) -> Result<(), Error> {
    let client = target.connect("howdah-sequences", OPTIONS).await?;
    for sequence in list(&client).await? {
        let stored = match &sequence.owner {
            Some((table, column)) => {
                let furthest = if sequence.increment > 0 { "max" } else { "min" };
                let sql = format!("SELECT {furthest}({})::bigint FROM {table}", quoted(column));
                client.query_one(&sql, &[]).await?.get(0)
            }
            None => None,
        };
        let goal = further(sequence.increment, &[sequence.last, marks.get(&sequence.name).copied(), stored]);
        if let Some(goal) = goal.map(|goal| goal.clamp(sequence.min, sequence.max))
            && Some(goal) != sequence.last
        {
            client.execute("SELECT setval($1::oid::regclass, $2)", &[&sequence.oid, &goal]).await?;
        }
    }
    Ok(())
}

/// The value that lies furthest in the direction in which the sequence runs.
fn further(increment: i64, values: &[Option<i64>]) -> Option<i64> {
    let values = values.iter().flatten().copied();
    if increment > 0 { values.max() } else { values.min() }
}

/// Watches the leader's sequences.
#[derive(Debug)]
pub(super) struct Marks {
    target: Target,
    proposer: Proposer,
    marks: BTreeMap<String, i64>,
}

impl Marks {
    pub(super) const fn new(target: Target, proposer: Proposer) -> Self {
        Self { target, proposer, marks: BTreeMap::new() }
    }

    /// Runs until it cannot.
    pub(super) async fn run(mut self, every: Duration) -> Error {
        loop {
            if let Err(error) = self.look().await {
                return error;
            }
            tokio::time::sleep(every).await;
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let client = self.target.connect("howdah-sequences", "").await?;
        let mut risen = BTreeMap::new();
        for sequence in list(&client).await? {
            let (Some(last), true) = (sequence.last, sequence.increment > 0) else { continue };
            let mark = self.marks.get(&sequence.name).copied();
            let ahead = sequence.ahead();
            // A new mark when half of the distance is used up.
            if mark.is_none_or(|mark| mark.saturating_sub(last) <= ahead / 2) {
                risen.insert(sequence.name, last.saturating_add(ahead).min(sequence.max));
            }
        }
        risen.retain(|name, mark| self.marks.get(name) != Some(mark));
        if risen.is_empty() {
            return Ok(());
        }
        self.proposer.propose(marks_entry(&risen).encode()).await?;
        self.marks.append(&mut risen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_value_depends_on_the_direction() {
        assert_eq!(further(1, &[Some(3), None, Some(7)]), Some(7));
        assert_eq!(further(-1, &[Some(-3), None, Some(-7)]), Some(-7));
        assert_eq!(further(1, &[None, None]), None);
    }
}

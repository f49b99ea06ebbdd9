//! Sequences: logical decoding does not carry them, so the leader tells the log how far they are, and the others raise their own.
//!
//! A mark lies `AHEAD` values beyond the sequence, so that what is handed out between two looks is below it. A sequence that runs faster
//! than that is caught by the second rule: each sequence is also raised past the largest value in the column that owns it.
//!
//! A new leader does so before anybody may write. Followers do it all the time ([`follow`]), for those who read sequences there: `pg_dump`.

mod follow;

use super::Error;
use super::lead::marks_entry;
use crate::pg::connect::Target;
use crate::pg::schema::quoted;
use crate::raft::Proposer;
pub(super) use follow::Following;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// Values between a sequence and its mark, at most.
const AHEAD: i64 = 10_000;
/// A sequence with a small range gives up at most this part of it to a mark.
const RANGE_PART: i64 = 1_000;

const APPLICATION_NAME: &str = "howdah-sequences";
/// A session of this node's own that holds a lock meanwhile ends with the attempt, and the next one gets on.
const OPTIONS: &str = "-c lock_timeout=5s";
/// A look at a leader's sequences locks them one after the other: it gives way before Postgres finds a deadlock with a client's DDL.
const LOOK_OPTIONS: &str = "-c lock_timeout=500ms";

/// A sequence of this node.
#[derive(Debug)]
struct Sequence {
    oid: u32,
    name: String,
    increment: i64,
    min: i64,
    max: i64,
    /// The value handed out last; none where it never was used.
    last: Option<i64>,
    owner: Option<Owner>,
}

/// The column that owns a sequence.
#[derive(Debug)]
struct Owner {
    /// Qualified and quoted.
    table: String,
    column: String,
    /// Whether its furthest value is found without reading the table.
    is_indexed: bool,
}

impl Sequence {
    /// The distance of a mark.
    fn ahead(&self) -> i64 {
        let part = self.max.saturating_sub(self.min) / RANGE_PART;
        AHEAD.saturating_mul(self.increment).min(part).max(self.increment)
    }

    /// Where it should be, if that is not where it is.
    fn goal(&self, mark: Option<i64>, stored: Option<i64>) -> Option<i64> {
        // Of a wider range that it had before. What its column holds is the better word.
        let mark = mark.filter(|mark| stored.is_none() || *mark <= self.max);
        let goal = further(self.increment, &[self.last, mark, stored])?.clamp(self.min, self.max);
        (Some(goal) != self.last).then_some(goal)
    }

    /// The furthest value in the column that owns it.
    async fn stored(&self, client: &Client) -> Result<Option<i64>, tokio_postgres::Error> {
        let Some(owner) = &self.owner else { return Ok(None) };
        let furthest = if self.increment > 0 { "max" } else { "min" };
        let sql = format!("SELECT {furthest}({})::bigint FROM {}", quoted(&owner.column), owner.table);
        match client.query_one(&sql, &[]).await {
            Ok(row) => Ok(row.get(0)),
            Err(error) if is_no_number(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn set(&self, client: &Client, goal: i64) -> Result<(), tokio_postgres::Error> {
        client.execute("SELECT setval($1::oid::regclass, $2)", &[&self.oid, &goal]).await.map(drop)
    }
}

/// What a column holds that is not of a number's type, or beyond all that a sequence can hand out, says nothing of the sequence that it owns.
fn is_no_number(error: &tokio_postgres::Error) -> bool {
    let no_number = [
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        SqlState::INVALID_TEXT_REPRESENTATION,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::CANNOT_COERCE,
        // NaN.
        SqlState::FEATURE_NOT_SUPPORTED,
    ];
    error.code().is_some_and(|code| no_number.contains(code))
}

async fn list(client: &Client) -> Result<Vec<Sequence>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT c.oid, format('%I.%I', n.nspname, c.relname), s.seqincrement, s.seqmin, s.seqmax, pg_sequence_last_value(c.oid),
                    CASE WHEN t.oid IS NOT NULL THEN format('%I.%I', tn.nspname, t.relname) END, a.attname,
                    EXISTS (SELECT FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am am ON am.oid = ic.relam
                        JOIN pg_type ty ON ty.oid = a.atttypid
                        WHERE i.indrelid = t.oid AND i.indkey[0] = a.attnum AND i.indisvalid AND i.indpred IS NULL
                            AND am.amname = 'btree' AND ty.typcategory = 'N')
             FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
                LEFT JOIN pg_class t ON t.oid = d.refobjid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
                LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
             WHERE c.relpersistence = 'p' AND n.nspname <> 'howdah'",
            &[],
        )
        .await?;
    let owner = |row: &tokio_postgres::Row| {
        let column: Option<String> = row.get(7);
        column.map(|column| Owner { table: row.get(6), column, is_indexed: row.get(8) })
    };
    Ok(rows
        .iter()
        .map(|row| Sequence {
            oid: row.get(0),
            name: row.get(1),
            increment: row.get(2),
            min: row.get(3),
            max: row.get(4),
            last: row.get(5),
            owner: owner(row),
        })
        .collect())
}

/// Raises every sequence of this node past its mark and past the largest value of the column that owns it.
pub(super) async fn raise(target: &Target, marks: &BTreeMap<String, i64>) -> Result<(), Error> {
    let client = target.connect(APPLICATION_NAME, OPTIONS).await?;
    end_others(&client).await?;
    for sequence in list(&client).await? {
        let stored = sequence.stored(&client).await?;
        if let Some(goal) = sequence.goal(marks.get(&sequence.name).copied(), stored) {
            sequence.set(&client, goal).await?;
        }
    }
    Ok(())
}

/// What this node was doing as a follower may still be under way in its server: a `setval` that waits there for a lock would be done when
/// clients have long gone on behind that value, and set the sequence back.
async fn end_others(client: &Client) -> Result<(), tokio_postgres::Error> {
    const END: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE application_name = $1::text AND pid <> pg_backend_pid() AND datname = current_database()";
    client.query(END, &[&APPLICATION_NAME]).await.map(drop)
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

    /// Runs until the log takes no more from this leader. What a look meets in Postgres (a sequence that is dropped or altered meanwhile) it may
    /// not meet the next time.
    pub(super) async fn run(mut self, every: Duration) -> Error {
        loop {
            match self.look().await {
                Ok(()) => {}
                Err(error @ Error::Propose(_)) => return error,
                Err(error) => tracing::info!(%error, "sequences are looked at again"),
            }
            tokio::time::sleep(every).await;
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let client = self.target.connect(APPLICATION_NAME, LOOK_OPTIONS).await?;
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

    #[test]
    fn a_sequence_only_moves_in_its_direction_and_within_its_range() {
        let sequence = |increment, last| Sequence { oid: 1, name: "s".to_owned(), increment, min: -20, max: 20, last, owner: None };
        assert_eq!(sequence(1, None).goal(None, None), None);
        assert_eq!(sequence(1, None).goal(Some(5), Some(7)), Some(7));
        assert_eq!(sequence(1, Some(9)).goal(Some(5), Some(7)), None);
        assert_eq!(sequence(1, Some(9)).goal(Some(500), None), Some(20));
        assert_eq!(sequence(1, Some(20)).goal(Some(500), None), None);
        assert_eq!(sequence(1, Some(9)).goal(Some(500), Some(12)), Some(12));
        assert_eq!(sequence(-1, Some(-3)).goal(Some(5), Some(-2)), None);
        assert_eq!(sequence(-1, Some(-3)).goal(None, Some(-4)), Some(-4));
    }
}

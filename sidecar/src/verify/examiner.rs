//! Answers questions about this Postgres' tables from one snapshot. The leader has one, and so has every node that is compared with it.
//!
//! Each question runs in a savepoint of its own: what fails does not end the snapshot, and the table's lock goes with it, so that DDL
//! waits for one question at most. Because of that a table may have been rewritten since the snapshot, and rewritten tables show nothing to
//! old snapshots. So each question first looks, under its lock, whether the table's file is the one that the snapshot knows.

use super::{Answer, Error, Question, STATEMENT_TIMEOUT, Shape};
use crate::apply::fetch;
use crate::core::bisect::{Digest, Key, Range, Row};
use crate::core::coalesce::Cut;
use crate::pg::connect::Target;
use crate::pg::schema::quoted;
use crate::repair;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

const APPLICATION_NAME: &str = "howdah-verify";
/// Pages that one statement reads: 64 MiB, and what hangs on them.
const SLICE_PAGES: u64 = 8192;
const PAGE_BYTES: u64 = 8192;
/// A gentle examiner rests so many times as long as it worked.
const REST: u32 = 2;
/// Rows that are listed at once.
const LISTED_MAX: usize = 50_000;

/// Types of other schemas may have operators of their own, that cannot be named here: such keys are not relied on.
const TABLES: &str = "
SELECT n.nspname::text, c.relname::text, coalesce(pg_relation_size(c.oid), 0),
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text
               FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, nth), pg_attribute a
              WHERE i.indrelid = c.oid AND i.indisprimary AND k.nth <= i.indnkeyatts AND a.attrelid = c.oid AND a.attnum = k.attnum
              ORDER BY k.nth),
       EXISTS (SELECT FROM pg_index i, unnest(i.indkey::int2[]) AS k(attnum), pg_attribute a, pg_type t
                WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum AND t.oid = a.atttypid
                  AND (t.typnamespace <> 'pg_catalog'::regnamespace OR a.attgenerated <> ''))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'howdah')
 ORDER BY 1, 2";

/// Catalogs are read as of the snapshot, the two functions tell what is there now.
const NOW: &str = "
SELECT c.relfilenode = pg_relation_filenode(c.oid), coalesce(pg_relation_size(c.oid), 0),
       ARRAY(SELECT format_type(a.atttypid, -1) FROM unnest($3::text[]) WITH ORDINALITY AS k(name, nth)
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name AND NOT a.attisdropped ORDER BY k.nth)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1::text AND c.relname = $2::text AND c.relkind = 'r'";

#[derive(Debug)]
pub(super) struct Examiner {
    client: Client,
    /// Bytes of tables that were read.
    pub(super) read_bytes: AtomicU64,
}

/// A table under its lock.
struct Table<'a> {
    shape: &'a Shape,
    name: String,
    bytes: u64,
    /// What rows are ordered by, and the types of that.
    order: Vec<String>,
    types: Vec<String>,
    hash: String,
}

enum Found<'a> {
    Here(Table<'a>),
    Not(Answer),
}

impl Examiner {
    /// On the leader: at a snapshot whose place in the log comes with it.
    pub(super) async fn at_new_cut(target: &Target) -> Result<(Self, Cut), Error> {
        let client = open(target).await?;
        let cut = repair::begin_at_cut(target, &client, "howdah_verify").await.map_err(|error| Error::Snapshot(error.to_string()))?;
        Ok((Self { client, read_bytes: AtomicU64::new(0) }, cut))
    }

    /// What is here now. Who asks sees to it that nothing is applied meanwhile.
    pub(super) async fn now(target: &Target) -> Result<Self, Error> {
        let client = open(target).await?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT FROM howdah.progress").await?;
        Ok(Self { client, read_bytes: AtomicU64::new(0) })
    }

    pub(super) async fn tables(&self) -> Result<Vec<Shape>, Error> {
        let shape = |row: &tokio_postgres::Row| {
            let key = if row.get(5) { Vec::new() } else { row.get(4) };
            let bytes = row.get::<_, i64>(2).unsigned_abs();
            Shape { schema: row.get(0), table: row.get(1), columns: row.get(3), key, bytes }
        };
        Ok(self.client.query(TABLES, &[]).await?.iter().map(shape).collect())
    }

    pub(super) async fn answer(&self, question: &Question) -> Result<Answer, Error> {
        let (Question::Whole { table, .. }
        | Question::Digests { table, .. }
        | Question::Split { table, .. }
        | Question::List { table, .. }) = question
        else {
            return Ok(Answer::Tables(self.tables().await?));
        };
        self.client.batch_execute("SAVEPOINT question").await?;
        let answered = self.answer_about(table, question).await;
        self.client.batch_execute("ROLLBACK TO question; RELEASE question").await?;
        match answered {
            Err(Error::Sql(error)) => settled(error),
            answered => answered,
        }
    }

    async fn answer_about(&self, shape: &Shape, question: &Question) -> Result<Answer, Error> {
        let table = match self.find(shape).await? {
            Found::Here(table) => table,
            Found::Not(answer) => return Ok(answer),
        };
        Ok(match question {
            Question::Whole { gentle, .. } => Answer::Digest(self.whole(&table, *gentle).await?),
            Question::Digests { ranges, .. } => Answer::Digests(self.digests(&table, ranges).await?),
            Question::Split { range, step, .. } => Answer::Keys(self.split(&table, range, *step).await?),
            Question::List { range, .. } => Answer::Rows(self.list(&table, range).await?),
            _ => return Err(Error::Strange),
        })
    }

    async fn find<'a>(&self, shape: &'a Shape) -> Result<Found<'a>, Error> {
        let name = format!("{}.{}", quoted(&shape.schema), quoted(&shape.table));
        let look = async || self.client.query_opt(NOW, &[&shape.schema, &shape.table, &shape.key]).await;
        if look().await?.is_none() {
            return Ok(Found::Not(Answer::Unlike("the table is missing".to_owned())));
        }
        self.client.batch_execute(&format!("LOCK TABLE ONLY {name} IN ACCESS SHARE MODE")).await?;
        let row = look().await?.ok_or(Error::Strange)?;
        if row.get::<_, Option<bool>>(0) != Some(true) {
            return Ok(Found::Not(Answer::Unsettled("it was rewritten or emptied meanwhile".to_owned())));
        }
        let (hash, types): (_, Vec<String>) = (fetch::row_hash(&shape.columns), row.get(2));
        if types.len() != shape.key.len() {
            return Ok(Found::Not(Answer::Unlike("it has other columns".to_owned())));
        }
        let order: Vec<_> = shape.key.iter().map(|column| format!("t.{}", quoted(column))).collect();
        let (order, types) = if order.is_empty() { (vec![hash.clone()], vec!["bigint".to_owned()]) } else { (order, types) };
        Ok(Found::Here(Table { shape, name, bytes: row.get::<_, i64>(1).unsigned_abs(), order, types, hash }))
    }

    /// In slices by place, which no order or index is needed for: the sums add up.
    async fn whole(&self, table: &Table<'_>, gentle: bool) -> Result<Digest, Error> {
        let (name, hash) = (&table.name, &table.hash);
        let pages = table.bytes.div_ceil(PAGE_BYTES);
        let (mut rows, mut sum, mut from) = (0, 0i128, 0);
        loop {
            let (begun, to) = (Instant::now(), from + SLICE_PAGES);
            // What was appended since the snapshot lies behind, and is not of it.
            let end = if to < pages { format!("AND t.ctid < '({to},0)'") } else { String::new() };
            let sql = format!("{} FROM ONLY {name} t WHERE t.ctid >= '({from},0)' {end}", digest_of(hash));
            let row = self.client.query_one(&sql, &[]).await?;
            let digest = digest(&row, 0);
            rows += digest.rows;
            sum += digest.sum.parse::<i128>().map_err(|_| Error::Strange)?;
            self.read_bytes.fetch_add(to.min(pages).saturating_sub(from) * PAGE_BYTES, Ordering::Relaxed);
            from = to;
            if from >= pages {
                return Ok(Digest { rows, sum: sum.to_string() });
            }
            if gentle {
                tokio::time::sleep(begun.elapsed() * REST).await;
            }
        }
    }

    async fn digests(&self, table: &Table<'_>, ranges: &[Range]) -> Result<Vec<Digest>, Error> {
        if table.shape.key.is_empty() {
            return self.digests_by_hash(table, ranges).await;
        }
        let mut digests = Vec::with_capacity(ranges.len());
        for range in ranges {
            let (condition, values) = within(table, range);
            let sql = format!("{} FROM ONLY {} t WHERE {condition}", digest_of(&table.hash), table.name);
            digests.push(digest(&self.client.query_one(&sql, &parameters(&values)).await?, 0));
        }
        Ok(digests)
    }

    /// No index knows the hash: all ranges in one reading.
    async fn digests_by_hash(&self, table: &Table<'_>, ranges: &[Range]) -> Result<Vec<Digest>, Error> {
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(Vec::new()) };
        let whole = Range { after: first.after.clone(), upto: last.upto.clone() };
        let (condition, mut values) = within(table, &whole);
        let inner = ranges.iter().take(ranges.len() - 1).filter_map(|range| range.upto.as_ref()?.first());
        // A bound belongs to the range below it, and to the one above it in width_bucket.
        let bounds: Vec<String> = inner.map(|bound| bound.parse::<i128>().map_or(bound.clone(), |bound| (bound + 1).to_string())).collect();
        values.push(format!("{{{}}}", bounds.join(",")));
        let sql = format!(
            "SELECT b, count(*), sum(h::numeric)::text FROM (SELECT {hash} AS h, width_bucket({hash}::numeric, ${}::text::numeric[]) AS b
               FROM ONLY {} t WHERE {condition}) x GROUP BY b",
            values.len(),
            table.name,
            hash = table.hash,
        );
        let mut digests = vec![Digest { rows: 0, sum: "0".to_owned() }; ranges.len()];
        for row in self.client.query(&sql, &parameters(&values)).await? {
            let place = usize::try_from(row.get::<_, i32>(0)).ok().and_then(|at| digests.get_mut(at)).ok_or(Error::Strange)?;
            *place = digest(&row, 1);
        }
        Ok(digests)
    }

    async fn split(&self, table: &Table<'_>, range: &Range, step: u64) -> Result<Vec<Key>, Error> {
        let (condition, mut values) = within(table, range);
        values.push(step.to_string());
        let (order, texts) = (table.order.join(", "), texts(table));
        let sql = format!(
            "SELECT k FROM (SELECT ARRAY[{texts}] AS k, row_number() OVER (ORDER BY {order}) AS n FROM ONLY {} t WHERE {condition}) x
              WHERE n % ${}::text::bigint = 0 ORDER BY n",
            table.name,
            values.len(),
        );
        Ok(self.client.query(&sql, &parameters(&values)).await?.iter().map(|row| row.get(0)).collect())
    }

    async fn list(&self, table: &Table<'_>, range: &Range) -> Result<Option<Vec<Row>>, Error> {
        let (condition, values) = within(table, range);
        let (name, hash, texts, limit) = (&table.name, &table.hash, texts(table), LISTED_MAX + 1);
        let sql = if table.shape.key.is_empty() {
            format!(
                "SELECT ARRAY[({hash})::text], ({hash})::text, count(*) FROM ONLY {name} t WHERE {condition} GROUP BY {hash} LIMIT {limit}"
            )
        } else {
            format!("SELECT ARRAY[{texts}], ({hash})::text, 1::bigint FROM ONLY {name} t WHERE {condition} LIMIT {limit}")
        };
        let rows = self.client.query(&sql, &parameters(&values)).await?;
        let row = |row: &tokio_postgres::Row| Row { key: row.get(0), hash: row.get(1), count: row.get::<_, i64>(2).unsigned_abs() };
        Ok((rows.len() <= LISTED_MAX).then(|| rows.iter().map(row).collect()))
    }
}

async fn open(target: &Target) -> Result<Client, Error> {
    let client = fetch::open(target, APPLICATION_NAME).await?;
    const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
    let (statement, lock) = (STATEMENT_TIMEOUT.as_millis(), LOCK_TIMEOUT.as_millis());
    client.batch_execute(&format!("SET enable_seqscan = on; SET statement_timeout = {statement}; SET lock_timeout = {lock}")).await?;
    Ok(client)
}

/// A refusal that says something of the table, or else the end.
fn settled(error: tokio_postgres::Error) -> Result<Answer, Error> {
    use tokio_postgres::error::SqlState;
    let text = error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    match error.code() {
        Some(&SqlState::UNDEFINED_COLUMN) => Ok(Answer::Unlike(text)),
        Some(&SqlState::UNDEFINED_TABLE | &SqlState::LOCK_NOT_AVAILABLE | &SqlState::QUERY_CANCELED) => Ok(Answer::Unsettled(text)),
        _ => Err(error.into()),
    }
}

fn digest_of(hash: &str) -> String {
    format!("SELECT count(*), coalesce(sum(({hash})::numeric), 0)::text")
}

fn digest(row: &tokio_postgres::Row, at: usize) -> Digest {
    Digest { rows: row.get::<_, i64>(at).unsigned_abs(), sum: row.get(at + 1) }
}

/// Key values in the text form of their types' output functions.
fn texts(table: &Table<'_>) -> String {
    table.order.iter().map(|column| format!("concat({column})")).collect::<Vec<_>>().join(", ")
}

/// A condition and its parameters, all of them text.
fn within(table: &Table<'_>, range: &Range) -> (String, Vec<String>) {
    let (mut condition, mut values) = ("true".to_owned(), Vec::new());
    let columns = table.order.join(", ");
    for (bound, operator) in [(&range.after, ">"), (&range.upto, "<=")] {
        let Some(key) = bound else { continue };
        let places: Vec<_> =
            table.types.iter().enumerate().map(|(nth, kind)| format!("${}::text::{kind}", values.len() + nth + 1)).collect();
        condition += &format!(" AND ({columns}) {operator} ({})", places.join(", "));
        values.extend_from_slice(key);
    }
    (condition, values)
}

fn parameters(values: &[String]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

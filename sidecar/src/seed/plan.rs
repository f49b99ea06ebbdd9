//! What is to be copied: tables in pieces, and sequences, as the node that gives them has them at the snapshot.

use super::keeper::Position;
use howdah_protocol::InstanceId;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Error};

/// Pages of a table that are copied by one COPY: 32 MiB.
const PIECE_PAGES: u64 = 4096;

/// The answer to whoever begins a filling.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Names this filling in the calls that follow.
    pub(super) id: u64,
    /// Where the snapshot stands, and whose it is.
    pub(super) position: Position,
    pub(super) instance: InstanceId,
    /// Major version of the PostgreSQL that gives the rows.
    pub(super) version: u32,
    /// Streams at once that there may be.
    pub(super) connections: usize,
    /// JSON, in the form in which roles travel in the log.
    pub(super) roles: String,
    pub(super) tables: Vec<Table>,
    pub(super) pieces: Vec<Piece>,
    pub(super) sequences: Vec<Sequence>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    /// Means something to the server that gives the rows alone.
    #[serde(skip)]
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// All but generated ones.
    pub(super) columns: Vec<String>,
    /// Every column's binary form is the same on every node: it holds no OID of anything that users make.
    pub(super) binary: bool,
    /// Of an extension's table, which of its rows are the user's: SQL from the extension's own declaration.
    pub(super) condition: Option<String>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) pages: u64,
}

/// Pages `from..to` of a table; the last one of a table has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) table: usize,
    pub(super) from: u64,
    pub(super) to: Option<u64>,
    /// Its share of the table's bytes.
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sequence {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) last: i64,
    pub(super) called: bool,
}

/// How the values of a COPY are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Binary,
    Text,
}

impl Form {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Text => "text",
        }
    }
}

impl Table {
    /// Binary only where the versions are the same: PostgreSQL promises nothing else.
    pub(super) const fn form(&self, same_version: bool) -> Form {
        if self.binary && same_version { Form::Binary } else { Form::Text }
    }

    fn qualified(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    fn column_list(&self) -> String {
        self.columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
    }

    /// By name, as there is no other way: which table had that name shows afterwards ([`Table::was_read`]). A view in its place, which may read
    /// this very table and leave out half of it, fails at once: it has no `ctid`, and that is why a piece from page 0 on is asked for by it too.
    pub(super) fn copy_out(&self, piece: &Piece, form: Form) -> String {
        let pages = || {
            let end = piece.to.map(|to| format!(" AND ctid < '({to},0)'::pg_catalog.tid")).unwrap_or_default();
            format!("WHERE ctid >= '({},0)'::pg_catalog.tid{end}", piece.from)
        };
        let condition = self.condition.clone().unwrap_or_else(pages);
        let rows = format!("SELECT {} FROM ONLY {} {condition}", self.column_list(), self.qualified());
        format!("COPY ({rows}) TO STDOUT (FORMAT {})", form.as_str())
    }

    /// Whether it is this table that the session's transaction has read, by the lock that reading leaves: names may have changed owners.
    pub(super) async fn was_read(&self, client: &Client) -> Result<bool, Error> {
        Ok(client.query_one(&format!("SELECT $1 IN ({LOCKED})"), &[&self.oid]).await?.get(0))
    }

    pub(super) fn copy_in(&self, form: Form) -> String {
        let columns = if self.columns.is_empty() { String::new() } else { format!(" ({})", self.column_list()) };
        format!("COPY {}{columns} FROM STDIN (FORMAT {})", self.qualified(), form.as_str())
    }
}

impl Sequence {
    pub(super) fn set(&self) -> String {
        let name = format!("{}.{}", quoted(&self.schema), quoted(&self.name)).replace('\'', "''");
        format!("SELECT pg_catalog.setval('{name}'::pg_catalog.regclass, {}, {})", self.last, self.called)
    }
}

/// The pieces of all tables, those of the largest table first, so that no large piece is left for the end.
pub(super) fn pieces(tables: &[Table]) -> Vec<Piece> {
    let mut order: Vec<usize> = (0..tables.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(tables[*at].bytes));
    order.into_iter().flat_map(|at| cut(at, &tables[at])).collect()
}

fn cut(at: usize, table: &Table) -> Vec<Piece> {
    if table.pages == 0 {
        return Vec::new();
    }
    // The condition of an extension's table is not ours to add to.
    let size = if table.condition.is_some() { table.pages } else { PIECE_PAGES };
    let count = table.pages.div_ceil(size);
    let share = |pages: u64| u64::try_from(u128::from(table.bytes) * u128::from(pages) / u128::from(table.pages)).unwrap_or(u64::MAX);
    let piece = |nth: u64| {
        let (from, end) = (nth * size, ((nth + 1) * size).min(table.pages));
        Piece { table: at, from, to: (nth + 1 < count).then_some(end), bytes: share(end) - share(from) }
    };
    (0..count).map(piece).collect()
}

/// Which relations of a kind are copied: those of users, and what extensions declare to be the user's in theirs.
const RELATIONS: &str = "
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
       AND d.refclassid = 'pg_extension'::regclass
  LEFT JOIN pg_extension e ON e.oid = d.refobjid
 WHERE c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'howdah')
   AND (e.oid IS NULL OR c.oid = ANY (e.extconfig))";

/// Types whose binary form is the same everywhere: enums (their labels are sent) and built-in ones that hold no OID.
const COLUMNS: &str = "
 array(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
 NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
          AND NOT (b.typtype = 'e' OR b.oid < 16384 AND b.typtype IN ('b', 'r', 'm') AND b.typsend <> 0 AND b.typreceive <> 0
                   AND b.typname !~ '^_?(reg|aclitem)'))";

/// What this session's transaction has locked.
const LOCKED: &str = "SELECT l.relation FROM pg_locks l WHERE l.locktype = 'relation' AND l.granted AND l.pid = pg_backend_pid()";

/// `LOCK TABLE` of all that will be copied, so that nobody rewrites or empties it meanwhile; `None` where there is no table.
pub(super) async fn lock(client: &Client) -> Result<Option<String>, Error> {
    let sql = format!("SELECT string_agg(format('ONLY %I.%I', n.nspname, c.relname), ', ' ORDER BY c.oid){RELATIONS} AND c.relkind = 'r'");
    let names: Option<String> = client.query_one(&sql, &[]).await?.get(0);
    Ok(names.map(|names| format!("LOCK TABLE {names} IN ACCESS SHARE MODE")))
}

/// The tables, and whether one of them was rewritten between the snapshot and the lock: then the snapshot does not show its rows.
pub(super) async fn tables(client: &Client) -> Result<(Vec<Table>, bool), Error> {
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, greatest(c.reltuples, 0)::bigint, pg_table_size(c.oid), \
                pg_relation_size(c.oid) / current_setting('block_size')::bigint, {COLUMNS}, \
                (SELECT x.condition FROM unnest(e.extconfig, e.extcondition) x (oid, condition) WHERE x.oid = c.oid), \
                c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid){RELATIONS} AND c.relkind = 'r' ORDER BY c.oid"
    );
    let rows = client.query(&sql, &[]).await?;
    let number = |value: i64| u64::try_from(value).unwrap_or_default();
    let table = |row: &tokio_postgres::Row| Table {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        rows: number(row.get(3)),
        bytes: number(row.get(4)),
        pages: number(row.get(5)),
        columns: row.get(6),
        binary: row.get(7),
        condition: row.get::<_, Option<String>>(8).filter(|condition| !condition.is_empty()),
    };
    Ok((rows.iter().map(table).collect(), rows.iter().any(|row| row.get(9))))
}

/// Whether a table or a sequence that the snapshot shows is not the one that was locked, and read, by its name. Asked in the transaction of
/// [`lock`] and [`sequences`], behind them. `pg_class` is what it was at the snapshot; names, as they are resolved there and by `to_regclass`, and
/// locks are what they are now.
pub(super) async fn misnamed(client: &Client) -> Result<bool, Error> {
    let sql = format!(
        "SELECT EXISTS (SELECT{RELATIONS} AND c.relkind IN ('r', 'S') \
                AND NOT (c.oid IN ({LOCKED}) AND c.oid IS NOT DISTINCT FROM to_regclass(format('%I.%I', n.nspname, c.relname))))"
    );
    Ok(client.query_one(&sql, &[]).await?.get(0))
}

/// Whether the names of tables mean them still, or again, by the newest catalog.
pub(super) async fn names_stand(client: &Client, tables: &[Table]) -> Result<bool, Error> {
    const SQL: &str =
        "SELECT NOT EXISTS (SELECT FROM unnest($1::oid[], $2::text[]) t (oid, name) WHERE to_regclass(t.name) IS DISTINCT FROM t.oid)";
    let (oids, names): (Vec<u32>, Vec<String>) = tables.iter().map(|table| (table.oid, table.qualified())).unzip();
    Ok(client.query_one(SQL, &[&oids, &names]).await?.get(0))
}

/// Sequences know no snapshots: what they say now is at or past what the snapshot's rows were given.
pub(super) async fn sequences(client: &Client) -> Result<Vec<Sequence>, Error> {
    let sql = format!("SELECT n.nspname::text, c.relname::text{RELATIONS} AND c.relkind = 'S' ORDER BY c.oid");
    let mut sequences = Vec::new();
    for row in client.query(&sql, &[]).await? {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        let state = client.query_one(&format!("SELECT last_value, is_called FROM {}.{}", quoted(&schema), quoted(&name)), &[]).await?;
        sequences.push(Sequence { schema, name, last: state.get(0), called: state.get(1) });
    }
    Ok(sequences)
}

fn quoted(name: &str) -> String {
    crate::pg::schema::quoted(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, pages: u64, bytes: u64) -> Table {
        let columns = vec!["id".to_owned(), "a\"b".to_owned()];
        Table { oid: 1, schema: "s".to_owned(), name: name.to_owned(), columns, binary: true, condition: None, rows: 1, bytes, pages }
    }

    #[test]
    fn pieces_cover_every_page_once_and_all_bytes() {
        let tables = [table("small", 1, 8192), table("none", 0, 0), table("large", 2 * PIECE_PAGES + 1, 1_000_000)];
        let pieces = pieces(&tables);
        let ranges: Vec<_> = pieces.iter().map(|piece| (piece.table, piece.from, piece.to)).collect();
        assert_eq!(ranges, [(2, 0, Some(PIECE_PAGES)), (2, PIECE_PAGES, Some(2 * PIECE_PAGES)), (2, 2 * PIECE_PAGES, None), (0, 0, None)]);
        assert_eq!(pieces.iter().map(|piece| piece.bytes).sum::<u64>(), 1_008_192);
    }

    #[test]
    fn the_statements_name_columns_and_pages() {
        let mut table = table("t", 9, 9);
        let piece = Piece { table: 0, from: 3, to: Some(5), bytes: 0 };
        assert_eq!(
            table.copy_out(&piece, Form::Binary),
            "COPY (SELECT \"id\", \"a\"\"b\" FROM ONLY \"s\".\"t\" WHERE ctid >= '(3,0)'::pg_catalog.tid \
             AND ctid < '(5,0)'::pg_catalog.tid) TO STDOUT (FORMAT binary)"
        );
        let whole = Piece { from: 0, to: None, ..piece };
        assert!(table.copy_out(&whole, Form::Text).ends_with("\"t\" WHERE ctid >= '(0,0)'::pg_catalog.tid) TO STDOUT (FORMAT text)"));
        assert_eq!(table.copy_in(table.form(false)), "COPY \"s\".\"t\" (\"id\", \"a\"\"b\") FROM STDIN (FORMAT text)");
        assert_eq!(table.form(true), Form::Binary);
        table.condition = Some("WHERE mine".to_owned());
        assert!(table.copy_out(&whole, Form::Text).contains("\"t\" WHERE mine)"));
    }

    #[test]
    fn a_sequence_is_set_by_its_quoted_name() {
        let sequence = Sequence { schema: "s".to_owned(), name: "it's".to_owned(), last: 7, called: true };
        assert_eq!(sequence.set(), "SELECT pg_catalog.setval('\"s\".\"it''s\"'::pg_catalog.regclass, 7, true)");
    }
}

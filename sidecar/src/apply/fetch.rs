//! Rows of this Postgres by their keys, in the text form of the log.

use super::Error;
use super::catalog;
use super::params::{Form, Param};
use super::quote;
use super::session::start_up_options;
use super::sql;
use crate::core::coalesce::{Table, TableId};
use crate::core::pgoutput::{Column, Identity, Relation};
use crate::pg::connect::Target;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use tokio_postgres::Client;

/// The columns that the log carries: all but generated ones. None where there is no such table.
const COLUMNS: &str = "
select a.attname::pg_catalog.text
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
 where n.nspname = $1::pg_catalog.text and c.relname = $2::pg_catalog.text and c.relkind = 'r'
 order by a.attnum";

/// A row's values in the order of its table's columns; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// A session that reads values as capture writes them, and finds keys by index.
pub async fn open(target: &Target, application_name: &str) -> Result<Client, Error> {
    Ok(target.connect(application_name, &start_up_options()).await?)
}

/// A table, with a key or without, as it is on another node or here.
#[must_use]
pub fn table(id: TableId, schema: &str, name: &str, columns: Vec<String>, key: &[String]) -> Table {
    let column = |name: String| Column { key: key.contains(&name), name, type_oid: 0, type_modifier: -1 };
    let columns = columns.into_iter().map(column).collect();
    Table::new(id, Relation { id: 0, schema: schema.to_owned(), name: name.to_owned(), identity: Identity::Default, columns })
}

/// The table as it is here; `None` where there is none of this name.
pub async fn describe(client: &Client, schema: &str, name: &str, key: &[String]) -> Result<Option<Table>, Error> {
    let failed = |source| Error::postgres(format!("looking up table {schema}.{name}"), source);
    let rows = client.query(COLUMNS, &[&schema, &name]).await.map_err(failed)?;
    let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if columns.is_empty() {
        return Ok(None);
    }
    let missing = |column: &&String| !columns.contains(*column);
    if let Some(column) = key.iter().find(missing) {
        return Err(Error::MissingColumn { table: format!("{schema}.{name}"), column: column.clone() });
    }
    Ok(Some(table(TableId(0), schema, name, columns, key)))
}

/// A hash of the row `t` as far as the log carries it: the same on every node whose session has the settings of [`open`].
#[must_use]
pub fn row_hash(columns: &[String]) -> String {
    let values: Vec<_> = columns.iter().map(|column| format!("t.{}", quote(column))).collect();
    format!("pg_catalog.hashtextextended(ROW({})::pg_catalog.text COLLATE \"C\", 0)", values.join(", "))
}

/// The rows that have these keys, in no order. A key that no row has is no error.
pub async fn rows(client: &Client, table: &Table, keys: &[Vec<Bytes>]) -> Result<impl Stream<Item = Result<Row, Error>> + use<>, Error> {
    let local = catalog::look_up(client, table).await?;
    let params = table.key.iter().enumerate();
    let params = params.map(|(i, at)| Param::column(&local.columns[*at].form, keys.iter().map(|key| key.get(i))));
    let params = params.collect::<Result<Vec<_>, _>>()?;
    query(client, table, &sql::rows_by_key(table, &local), params).await
}

/// As [`rows`], those with these hashes over `columns`.
pub async fn rows_by_hash(
    client: &Client,
    table: &Table,
    columns: &[String],
    hashes: &[Vec<Bytes>],
) -> Result<impl Stream<Item = Result<Row, Error>> + use<>, Error> {
    let local = catalog::look_up(client, table).await?;
    let hashes = Param::column(&Form::Int8, hashes.iter().map(|hash| hash.first()))?;
    query(client, table, &sql::rows_by_hash(&local, &row_hash(columns)), vec![hashes]).await
}

async fn query(
    client: &Client,
    table: &Table,
    text: &str,
    params: Vec<Param>,
) -> Result<impl Stream<Item = Result<Row, Error>> + use<>, Error> {
    let context = format!("reading rows of {}", table.name());
    let failed = move |source| Error::postgres(context.clone(), source);
    let statement = client.prepare(text).await.map_err(failed.clone())?;
    let rows = client.query_raw(&statement, params).await.map_err(failed.clone())?;
    Ok(rows.map_err(failed).map_ok(|row| (0..row.len()).map(|at| row.get(at)).collect()))
}

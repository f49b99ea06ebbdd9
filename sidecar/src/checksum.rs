//! Order-independent digests of this node's tables.
//!
//! The digest of a table is the number of its rows and the sum of a 64-bit hash of each row's text. The text is made under fixed settings,
//! so that two nodes with the same rows come to the same sum, whatever order the rows lie in.

use crate::pg::connect::{self, Target};
use crate::pg::schema::quoted;
use howdah_protocol::admin::TableDigest;
use std::collections::BTreeMap;

const OPTIONS: &str = "-c datestyle=ISO,YMD -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex -c timezone=UTC \
     -c statement_timeout=600000 -c row_security=off";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] connect::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
}

/// All replicated tables, read in one snapshot.
pub async fn of_tables(target: &Target) -> Result<BTreeMap<String, TableDigest>, Error> {
    let client = target.connect("howdah-verify", OPTIONS).await?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let tables = client
        .query(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'howdah')
             ORDER BY 1, 2",
            &[],
        )
        .await?;
    let mut digests = BTreeMap::new();
    for row in tables {
        let (schema, table): (String, String) = (row.get(0), row.get(1));
        let sql = format!(
            "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM ONLY {}.{} t",
            quoted(&schema),
            quoted(&table)
        );
        let digest = client.query_one(&sql, &[]).await?;
        let rows = digest.get::<_, i64>(0).unsigned_abs();
        digests.insert(format!("{schema}.{table}"), TableDigest { rows, sum: digest.get(1) });
    }
    Ok(digests)
}

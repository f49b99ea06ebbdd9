//! What the local catalog says about a table of the log: names, types, and the index that finds a row by its key.

use super::params::Form;
use super::{Error, quote};
use crate::core::coalesce::Table;
use std::collections::HashMap;
use tokio_postgres::{Client, Row};

/// A table of the log as it is here. Columns are in the order of the log's relation.
#[derive(Debug)]
pub(super) struct Local {
    /// Qualified and quoted.
    pub(super) name: String,
    pub(super) columns: Vec<LocalColumn>,
    /// A unique index on exactly the key exists, so that ON CONFLICT can name it (which Postgres refuses for a table with rules).
    pub(super) arbiter: bool,
}

#[derive(Debug)]
pub(super) struct LocalColumn {
    /// Quoted.
    pub(super) name: String,
    /// Without type modifier: assignment to the column applies it.
    pub(super) type_name: String,
    pub(super) form: Form,
    /// Values that are equal are the same: the type's own `=` can stand for identity.
    pub(super) exact: bool,
    /// Computed here; never written.
    pub(super) generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: INSERT can override it, UPDATE cannot.
    pub(super) identity_always: bool,
    /// The equality operator of the key index, for a key column.
    pub(super) equals: String,
}

impl Local {
    /// UPDATE cannot set all columns, so rows are replaced.
    pub(super) fn replaces(&self, table: &Table) -> bool {
        self.columns.iter().enumerate().any(|(at, column)| column.identity_always && !table.key.contains(&at))
    }
}

const COLUMNS: &str = "
select c.oid, a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, -1), a.atttypid,
       case when t.typarray <> 0 and t.typtype in ('b', 'e', 'r', 'm') then pg_catalog.format_type(t.typarray, -1) end,
       t.typdelim::pg_catalog.text, a.attgenerated <> '', a.attidentity = 'a', coalesce(l.collisdeterministic, true),
       c.relhasrules
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_catalog.pg_type t on t.oid = a.atttypid
  left join pg_catalog.pg_collation l on l.oid = a.attcollation
 where n.nspname = $1::pg_catalog.text and c.relname = $2::pg_catalog.text and c.relkind in ('r', 'p')";

/// The key index: immediate, whole, on exactly the columns $2 (sorted).
const KEY: &str = "
select a.attname::pg_catalog.text, pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
  from (select x.* from pg_catalog.pg_index x
         where x.indrelid = $1 and x.indisunique and x.indimmediate and x.indisvalid and x.indpred is null and x.indexprs is null
           and $2::pg_catalog.text[] = array(
               select k.attname::pg_catalog.text from pg_catalog.pg_attribute k
                where k.attrelid = x.indrelid and k.attnum = any ((x.indkey::pg_catalog.int2[])[0 : x.indnkeyatts - 1])
                order by k.attname::pg_catalog.text collate \"C\")
         order by x.indisprimary desc, x.indexrelid limit 1) i,
       unnest(i.indkey::pg_catalog.int2[], i.indclass::pg_catalog.oid[]) as k(attnum, opclass)
  join pg_catalog.pg_opclass oc on oc.oid = k.opclass
  join pg_catalog.pg_amop am on am.amopfamily = oc.opcfamily and am.amopstrategy = 3 and am.amoppurpose = 's'
                            and am.amoplefttype = oc.opcintype and am.amoprighttype = oc.opcintype
  join pg_catalog.pg_operator o on o.oid = am.amopopr
  join pg_catalog.pg_namespace n on n.oid = o.oprnamespace,
       pg_catalog.pg_attribute a
 where a.attrelid = i.indrelid and a.attnum = k.attnum";

pub(super) async fn look_up(client: &Client, table: &Table) -> Result<Local, Error> {
    let relation = &table.relation;
    let failed = |source| Error::postgres(format!("looking up table {}", table.name()), source);
    let rows = client.query(COLUMNS, &[&relation.schema, &relation.name]).await.map_err(failed)?;
    let Some((oid, has_rules)) = rows.first().map(|row| (row.get::<_, u32>(0), row.get::<_, bool>(9))) else {
        return Err(Error::MissingTable { table: table.name() });
    };
    let mut here: HashMap<String, &Row> = rows.iter().filter_map(|row| Some((row.get::<_, Option<String>>(1)?, row))).collect();
    let mut columns = Vec::with_capacity(relation.columns.len());
    for column in &relation.columns {
        let missing = || Error::MissingColumn { table: table.name(), column: column.name.clone() };
        columns.push(local_column(&column.name, here.remove(&column.name).ok_or_else(missing)?));
    }
    let mut key: Vec<&str> = table.key.iter().map(|at| relation.columns[*at].name.as_str()).collect();
    key.sort_unstable();
    let index = if key.is_empty() { Vec::new() } else { client.query(KEY, &[&oid, &key]).await.map_err(failed)? };
    for row in &index {
        let name: &str = row.get(0);
        if let Some(at) = relation.columns.iter().position(|column| column.name == name) {
            columns[at].equals = row.get(1);
        }
    }
    let name = format!("{}.{}", quote(&relation.schema), quote(&relation.name));
    Ok(Local { name, columns, arbiter: !has_rules && !key.is_empty() && index.len() == key.len() })
}

fn local_column(name: &str, row: &Row) -> LocalColumn {
    let type_name: String = row.get(2);
    let deterministic: bool = row.get(8);
    let form = match (type_name.as_str(), row.get::<_, Option<String>>(4)) {
        ("smallint", _) => Form::Int2,
        ("integer", _) => Form::Int4,
        ("bigint", _) => Form::Int8,
        ("text" | "character varying" | "bpchar", _) | (_, None) => Form::Text,
        (_, Some(array_type)) => Form::Literal { array_type, delimiter: row.get::<_, String>(5).chars().next().unwrap_or(',') },
    };
    let exact = match type_name.as_str() {
        "smallint" | "integer" | "bigint" | "boolean" | "uuid" | "date" | "bytea" | "oid" => true,
        "timestamp without time zone" | "timestamp with time zone" => true,
        "text" | "character varying" => deterministic,
        _ => false,
    };
    LocalColumn {
        name: quote(name),
        type_name,
        form,
        exact,
        generated: row.get(6),
        identity_always: row.get(7),
        equals: "OPERATOR(pg_catalog.=)".to_owned(),
    }
}

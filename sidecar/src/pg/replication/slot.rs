//! Replication slots: made, looked at, dropped.

use super::{Connection, Error, Row, quote_identifier, quote_literal};
use crate::pg::connect::Target;
use howdah_protocol::Lsn;
use std::time::Duration;

/// `application_name` of connections that must never count as the gate.
const APPLICATION_NAME: &str = "howdah-slot";
/// A slot waits for the transactions that run when it is made.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);
const DROP_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
const UNDEFINED_OBJECT: &str = "42704";

/// A new temporary slot together with the snapshot at which it begins. Both live as long as this value.
#[derive(Debug)]
pub struct ExportedSlot {
    /// Commits after this are in the slot, those before are in the snapshot.
    pub consistent: Lsn,
    /// For `SET TRANSACTION SNAPSHOT` and `pg_dump --snapshot`.
    pub snapshot: String,
    _connection: Connection,
}

/// Makes the slot; everything that commits after the answered position will be decoded from it.
pub async fn create_slot(target: &Target, slot: &str) -> Result<Lsn, Error> {
    let mut connection = Connection::open(target, APPLICATION_NAME).await?;
    let (consistent, _) = create(&mut connection, slot, "", "nothing").await?;
    connection.close().await;
    Ok(consistent)
}

/// Makes a temporary slot and a snapshot of exactly what it does not hold.
pub async fn export_slot(target: &Target, slot: &str) -> Result<ExportedSlot, Error> {
    let mut connection = Connection::open(target, APPLICATION_NAME).await?;
    let (consistent, snapshot) = create(&mut connection, slot, "TEMPORARY", "export").await?;
    let snapshot = snapshot.ok_or_else(|| Error::Unexpected("a slot without the snapshot that was asked for".to_owned()))?;
    Ok(ExportedSlot { consistent, snapshot, _connection: connection })
}

async fn create(connection: &mut Connection, slot: &str, life: &str, snapshot: &str) -> Result<(Lsn, Option<String>), Error> {
    let sql = format!("CREATE_REPLICATION_SLOT {} {life} LOGICAL pgoutput (SNAPSHOT '{snapshot}')", quote_identifier(slot));
    let rows = connection.command(&sql, "the creation of the replication slot", CREATE_TIMEOUT).await?;
    // slot_name, consistent_point, snapshot_name, output_plugin
    let row = rows.into_iter().next().unwrap_or_default();
    let name = row.get(2).cloned().flatten();
    Ok((lsn(&row, 1)?.ok_or_else(|| Error::Unexpected("a slot without a position".to_owned()))?, name))
}

/// Drops the slot, waiting for its user to go away. A slot that does not exist is as good as dropped.
pub async fn drop_slot(target: &Target, slot: &str) -> Result<(), Error> {
    let mut connection = Connection::open(target, APPLICATION_NAME).await?;
    let sql = format!("DROP_REPLICATION_SLOT {} WAIT", quote_identifier(slot));
    let dropped = connection.command(&sql, "the removal of the replication slot", DROP_TIMEOUT).await;
    match dropped {
        Ok(_) => {}
        Err(error) if error.code() == Some(UNDEFINED_OBJECT) => {}
        Err(error) => return Err(error),
    }
    connection.close().await;
    Ok(())
}

/// The position that was last confirmed to the slot; `None` where there is no such slot.
pub async fn confirmed_flush(connection: &mut Connection, slot: &str) -> Result<Option<Lsn>, Error> {
    let sql = format!("SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}", quote_literal(slot));
    let rows = connection.command(&sql, "a look at the replication slot", LOOK_TIMEOUT).await?;
    match rows.first() {
        Some(row) => Ok(Some(lsn(row, 0)?.unwrap_or_default())),
        None => Ok(None),
    }
}

fn lsn(row: &Row, column: usize) -> Result<Option<Lsn>, Error> {
    let text = row.get(column).and_then(Option::as_deref);
    text.map(|text| text.parse().map_err(|bad| Error::Unexpected(format!("{bad}")))).transpose()
}

//! The local half of a repair: what the group never accepted leaves this Postgres, in one transaction.
//!
//! Rows with a key are deleted by their key, which may be done again. Changes of tables without a key are taken back one by one, which may
//! not: so the transaction notes in `howdah.repair` up to which commit they are, and what is noted is not taken back again.

use super::execute::steps;
use super::session::Session;
use super::{Error, Options};
use crate::core::coalesce::Step;
use crate::core::divergence::Refused;
use howdah_protocol::Lsn;

/// Deletes, takes back, and notes that everything up to `upto` is taken back. Either all of it is done or nothing. `undo` answers the steps
/// that take back what was committed behind a position.
pub async fn take_back(
    options: &Options,
    deletes: &[Step],
    undo: impl FnOnce(Lsn) -> Result<Vec<Step>, Refused>,
    upto: Lsn,
) -> Result<(), Error> {
    // Ends a session that an earlier attempt left, so that what is noted stays as it is read.
    let mut session = Session::open(options).await?;
    let undone = undone(&session).await?;
    let taken_back = undo(undone).map_err(|refused| Error::TakeBack(refused.to_string()))?;
    session.command("BEGIN").await?;
    steps(&mut session, deletes).await?;
    session.pipeline.drain().await?;
    session.pipeline.take_rows_missing();
    steps(&mut session, &taken_back).await?;
    session.pipeline.drain().await?;
    let missing = session.pipeline.take_rows_missing();
    if missing > 0 {
        // The transaction ends with the session.
        return Err(Error::TakeBack(format!("{missing} rows of tables without a key are not as they were left")));
    }
    let upto = upto.max(undone).0.cast_signed();
    session
        .text(format!("INSERT INTO howdah.repair (undone) VALUES ({upto}) ON CONFLICT (only_row) DO UPDATE SET undone = {upto}"))
        .await?;
    session.command("COMMIT").await?;
    session.pipeline.drain().await
}

async fn undone(session: &Session) -> Result<Lsn, Error> {
    let row = session.client.query_opt("SELECT undone FROM howdah.repair", &[]).await;
    let row = row.map_err(|source| Error::postgres("reading howdah.repair", source))?;
    Ok(row.map(|row| Lsn(row.get::<_, i64>(0).cast_unsigned())).unwrap_or_default())
}

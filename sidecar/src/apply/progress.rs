//! `howdah.progress`: up to which entry this Postgres holds the log, and what must be known to go on.
//!
//! The state is the JSON of [`Decisions`] over the applied prefix, with two more fields where they are needed: `open` for transactions
//! of which only chunks have come, `items_done` where the next entry is done in part. An empty object stands for the beginning of the log.

use super::Error;
use crate::core::coalesce::State;
use crate::core::decisions::Decisions;
use howdah_protocol::LogIndex;
use serde_json::{Map, Value};
use tokio_postgres::Client;

/// What the row says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub applied: LogIndex,
    pub state: State,
}

pub(super) const UPDATE: &str =
    "UPDATE howdah.progress SET applied_index = $1, state = $2::pg_catalog.text::pg_catalog.jsonb WHERE applied_index <= $1";

/// Reads the row.
pub async fn load(client: &Client) -> Result<Progress, Error> {
    const QUERY: &str = "SELECT applied_index, state::pg_catalog.text FROM howdah.progress";
    let row = client.query_opt(QUERY, &[]).await.map_err(|source| Error::postgres("reading howdah.progress", source))?;
    let row = row.ok_or_else(|| Error::Progress("the table is empty; this node must be seeded again".to_owned()))?;
    let index: i64 = row.get(0);
    let applied = LogIndex(u64::try_from(index).map_err(|_| Error::Progress(format!("negative position {index}")))?);
    Ok(Progress { applied, state: decode(row.get(1))? })
}

/// The JSON of the `state` column.
#[must_use]
pub fn encode(state: &State) -> String {
    let mut json = serde_json::to_value(&state.decisions).expect("decisions have only string and number keys");
    let Value::Object(map) = &mut json else { return json.to_string() };
    if !state.open.is_empty() {
        map.insert("open".to_owned(), serde_json::to_value(&state.open).expect("open transactions have only number keys"));
    }
    if state.items_done > 0 {
        map.insert("items_done".to_owned(), state.items_done.into());
    }
    json.to_string()
}

pub fn decode(json: &str) -> Result<State, Error> {
    let bad = |error: serde_json::Error| Error::Progress(format!("state cannot be read: {error}"));
    let mut map: Map<String, Value> = serde_json::from_str(json).map_err(bad)?;
    let open = map.remove("open").map(serde_json::from_value).transpose().map_err(bad)?.unwrap_or_default();
    let items_done = map.remove("items_done").map(serde_json::from_value).transpose().map_err(bad)?.unwrap_or_default();
    if map.is_empty() {
        return Ok(State { decisions: Decisions::default(), open, items_done });
    }
    Ok(State { decisions: serde_json::from_value(Value::Object(map)).map_err(bad)?, open, items_done })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::coalesce::OpenTransaction;
    use crate::core::decisions::Serving;
    use howdah_protocol::{InstanceId, Lsn};

    #[test]
    fn a_state_comes_back_and_reads_as_decisions() {
        let mut state = State::default();
        state.decisions.serving = Some(Serving { node: 1, instance: InstanceId(2), epoch: 3 });
        state.decisions.watermarks.insert(InstanceId(2), Lsn(u64::MAX));
        state.decisions.sequences.insert("public.s".to_owned(), -5);
        assert_eq!(serde_json::from_str::<Decisions>(&encode(&state)).unwrap(), state.decisions);
        state.items_done = 9;
        state.open.insert(7, OpenTransaction { entries: vec![LogIndex(4), LogIndex(5)], void: vec![8] });
        assert_eq!(decode(&encode(&state)).unwrap(), state);
        assert_eq!(decode("{}").unwrap(), State::default());
        assert!(decode("[]").is_err());
    }
}

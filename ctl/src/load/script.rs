//! What one transaction of the load does.

use super::outcome::Progress;
use crate::core::ledger::TransactionId;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::{Client, Error, Statement};

const ACCOUNTS_PER_BRANCH: u32 = 100_000;
const TELLERS_PER_BRANCH: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// pgbench's TPC-B-like transaction on its tables at this scale, and the id, in one transaction.
    TpcB { scale: u32 },
    /// Only the id, in autocommit.
    Insert,
    /// The id, in autocommit or in a block of several statements, by turns.
    Mixed,
}

/// The statements of a script on one connection.
pub(crate) enum Prepared {
    TpcB { scale: u32, account: Statement, balance: Statement, teller: Statement, branch: Statement, history: Statement, id: Statement },
    Insert { id: Statement },
    Mixed { id: Statement, own: Statement },
}

const ID: &str = "INSERT INTO howdah_load (client, seq) VALUES ($1, $2)";
const OWN: &str = "SELECT count(*) FROM howdah_load WHERE client = $1 AND seq = $2";

impl Script {
    pub(crate) async fn prepare(self, client: &Client) -> Result<Prepared, Error> {
        let id = client.prepare(ID).await?;
        match self {
            Self::Insert => Ok(Prepared::Insert { id }),
            Self::Mixed => Ok(Prepared::Mixed { id, own: client.prepare(OWN).await? }),
            Self::TpcB { scale } => Ok(Prepared::TpcB {
                scale,
                account: client.prepare("UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2").await?,
                balance: client.prepare("SELECT abalance FROM pgbench_accounts WHERE aid = $1").await?,
                teller: client.prepare("UPDATE pgbench_tellers SET tbalance = tbalance + $1 WHERE tid = $2").await?,
                branch: client.prepare("UPDATE pgbench_branches SET bbalance = bbalance + $1 WHERE bid = $2").await?,
                history: client
                    .prepare("INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)")
                    .await?,
                id,
            }),
        }
    }
}

impl Prepared {
    /// One transaction. `progress` tells how far it came when this fails or is given up.
    pub(crate) async fn run(&self, client: &Client, id: TransactionId, random: &mut StdRng, progress: &Progress) -> Result<(), Error> {
        match self {
            Self::Mixed { id: insert, own } if id.seq % 2 == 0 => {
                client.batch_execute("BEGIN").await?;
                client.execute(insert, &[&id.client, &id.seq]).await?;
                client.query_one(own, &[&id.client, &id.seq]).await?;
                progress.committing();
                client.batch_execute("COMMIT").await?;
            }
            Self::Insert { id: insert } | Self::Mixed { id: insert, .. } => {
                progress.committing();
                client.execute(insert, &[&id.client, &id.seq]).await?;
            }
            Self::TpcB { scale, account, balance, teller, branch, history, id: insert } => {
                let aid = pick(random, scale * ACCOUNTS_PER_BRANCH);
                let tid = pick(random, scale * TELLERS_PER_BRANCH);
                let bid = pick(random, *scale);
                let delta: i32 = random.random_range(-5000..=5000);
                client.batch_execute("BEGIN").await?;
                client.execute(account, &[&delta, &aid]).await?;
                client.query_one(balance, &[&aid]).await?;
                client.execute(teller, &[&delta, &tid]).await?;
                client.execute(branch, &[&delta, &bid]).await?;
                client.execute(history, &[&tid, &bid, &aid, &delta]).await?;
                client.execute(insert, &[&id.client, &id.seq]).await?;
                progress.committing();
                client.batch_execute("COMMIT").await?;
            }
        }
        Ok(())
    }
}

fn pick(random: &mut StdRng, count: u32) -> i32 {
    i32::try_from(random.random_range(1..=count)).expect("pgbench's own keys are int4, scales above 21474 are not used here")
}

//! A filling's streams against a real server.

use super::keeper::{Keeper, Node, Position};
use super::plan::Form;
use super::session::{Error, SOURCE_NAME, Session};
use super::throttle::Throttle;
use crate::apply::tests::server::Server;
use crate::core::pace::Limits;
use howdah_protocol::{InstanceId, LogIndex, NodeId};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_secs(30);
const FAST: Limits = Limits { most: 1 << 30, floor: 1 << 30 };

async fn open(server: &Server) -> Session {
    let client = server.target().connect(SOURCE_NAME, "").await.unwrap();
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1").await.unwrap();
    let position = Position::Log { applied: LogIndex(1), state: "{}".to_owned() };
    let node = Node { instance: InstanceId(1), version: 15, roles: "{}".to_owned() };
    Session::open(&server.target(), NodeId(9), 2, Throttle::new(FAST), Keeper { client, position, node }).await.unwrap()
}

async fn copied(session: &Session) -> (Result<(), Error>, usize) {
    let (send, mut receive) = mpsc::channel(64);
    let ended = session.copy(0, Form::Text, &send).await;
    drop(send);
    let mut bytes = 0;
    while let Some(chunk) = receive.recv().await {
        bytes += chunk.unwrap().len();
    }
    (ended, bytes)
}

async fn waiting(client: &Client, count: i64) {
    const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE relation = 'public.t'::regclass AND NOT granted";
    let deadline = Instant::now() + PATIENCE;
    while client.query_one(WAITING, &[]).await.unwrap().get::<_, i64>(0) != count {
        assert!(Instant::now() < deadline, "{count} sessions wait for the table");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_emptied_once_the_keeper_had_gone_is_not_taken_for_an_empty_one() {
    let server = Server::start("seed-source", "");
    let client = server.client().await;
    client.batch_execute("CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 1000)").await.unwrap();
    let session = open(&server).await;
    let (ended, bytes) = copied(&session).await;
    assert!(ended.is_ok() && bytes > 3000, "{ended:?}, {bytes} bytes");

    // As on a follower: apply waits for the keeper, a stream waits behind apply, and then apply's patience is at its end.
    let applier = server.client().await;
    let truncated = tokio::spawn(async move { applier.batch_execute("TRUNCATE t").await });
    waiting(&client, 1).await;
    let copying = tokio::spawn(async move { copied(&session).await });
    waiting(&client, 2).await;
    const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1 AND state <> 'active'";
    let killed: i64 = client.query_one(END, &[&SOURCE_NAME]).await.unwrap().get(0);
    assert_eq!(killed, 1);
    truncated.await.unwrap().unwrap();
    let (ended, bytes) = copying.await.unwrap();
    assert_eq!(bytes, 0, "the fault did not happen");
    assert!(matches!(ended, Err(Error::Unkept(_))), "{ended:?}");
}

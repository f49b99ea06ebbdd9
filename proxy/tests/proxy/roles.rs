//! Roles are not in the row changes: the proxy has them captured in the transaction that changes them.

use crate::support::postgres::{DATABASE, postgres};
use crate::support::proxy::Proxy;
use crate::support::sidecar::Group;

/// Captures by transactions that are there, and how many different transactions.
fn captured() -> u64 {
    postgres().psql(DATABASE, "SELECT count(*) FROM howdah.captured").parse().expect("a number")
}

#[tokio::test]
async fn role_changes_are_captured_in_their_transaction() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    let mut expected = captured();
    client.batch_execute("CREATE ROLE captured_one -- a comment at the end").await.expect("created");
    expected += 1;
    assert_eq!(captured(), expected);
    client.execute("ALTER ROLE captured_one CONNECTION LIMIT 5", &[]).await.expect("altered");
    expected += 1;
    assert_eq!(captured(), expected);
    client.batch_execute("BEGIN; CREATE ROLE captured_two; SELECT 1; DROP ROLE captured_two; ROLLBACK").await.expect("rolled back");
    assert_eq!(captured(), expected);
    let messages = client.simple_query("BEGIN; GRANT captured_one TO app; SELECT 'between'; COMMIT").await.expect("runs");
    expected += 1;
    assert_eq!(captured(), expected);
    let rows = messages.iter().filter(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))).count();
    assert_eq!(rows, 1, "the proxy's own statement is not seen: {messages:?}");
    client.batch_execute("CREATE ROLE captured_one").await.expect_err("exists");
    assert_eq!(captured(), expected);
    client.batch_execute("REVOKE captured_one FROM app; DROP ROLE captured_one").await.expect("dropped");
    assert_eq!(captured(), expected + 2);
}

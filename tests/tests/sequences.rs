//! Sequences on followers: what is read there, above all by `pg_dump`, is past what the rows hold; and being ahead of the leader's does no harm.

use anyhow::{Context, Result, ensure};
use howdah_ctl::postgres;
use howdah_protocol::NodeId;
use howdah_tests::{Fixture, PATIENCE, eventually, show};
use std::collections::BTreeMap;
use tokio::process::Command;

/// Values and whether they were handed out, by name; and how many rows `keyed` has beside them.
#[derive(Debug, PartialEq)]
struct Dump {
    sequences: BTreeMap<String, (i64, bool)>,
    rows: usize,
}

impl Dump {
    /// By PostgreSQL's own `pg_dump`, as operations.md has it.
    async fn of(cluster: &Fixture, node: NodeId) -> Result<Self> {
        let url = cluster.info().node_url(node).context("no such node")?;
        let mut pg_dump = Command::new(postgres::bin_dir()?.join("pg_dump"));
        let made = pg_dump.args(["--exclude-schema=howdah", "--no-publications", &url]).kill_on_drop(true).output().await?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = String::from_utf8(made.stdout)?;
        let sequences = text.lines().filter_map(setval).collect();
        let rows =
            text.lines().skip_while(|line| !line.starts_with("COPY public.keyed ")).skip(1).take_while(|line| *line != "\\.").count();
        Ok(Self { sequences, rows })
    }

    /// At `value` or past it, so that a new database goes on behind it.
    fn is_past(&self, name: &str, value: i64) -> bool {
        self.sequences.get(name).is_some_and(|(last, called)| *called && if value > 0 { *last >= value } else { *last <= value })
    }
}

/// `SELECT pg_catalog.setval('public.name', 1, false);`
fn setval(line: &str) -> Option<(String, (i64, bool))> {
    let said = line.strip_prefix("SELECT pg_catalog.setval('public.")?.strip_suffix(");")?;
    let (name, rest) = said.split_once("', ")?;
    let (value, called) = rest.split_once(", ")?;
    Some((name.to_owned(), (value.parse().ok()?, called == "true")))
}

/// Used with and without a column that owns it, downwards, by values that were given, for a text; and one that is not used.
const SEQUENCES: &str = "
    CREATE TABLE keyed (id serial PRIMARY KEY, v text);
    INSERT INTO keyed (v) SELECT 'x' FROM generate_series(1, 505);
    CREATE SEQUENCE ticket;
    CREATE TABLE sold (ticket bigint PRIMARY KEY);
    INSERT INTO sold SELECT nextval('ticket') FROM generate_series(1, 700);
    CREATE SEQUENCE down INCREMENT -1;
    CREATE TABLE falling (id int PRIMARY KEY DEFAULT nextval('down'));
    ALTER SEQUENCE down OWNED BY falling.id;
    INSERT INTO falling SELECT FROM generate_series(1, 30);
    CREATE TABLE given (id serial PRIMARY KEY);
    INSERT INTO given VALUES (123456);
    CREATE SEQUENCE invoice;
    CREATE TABLE invoices (code text PRIMARY KEY DEFAULT 'I-' || nextval('invoice'));
    ALTER SEQUENCE invoice OWNED BY invoices.code;
    INSERT INTO invoices SELECT FROM generate_series(1, 20);
    CREATE TABLE small (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int);
    INSERT INTO small (v) SELECT generate_series(1, 100);
    CREATE TABLE unused (id serial PRIMARY KEY)";

/// What each is past, once the follower has caught up.
const USED: [(&str, i64); 6] =
    [("keyed_id_seq", 505), ("ticket", 700), ("down", -30), ("given_id_seq", 123_456), ("invoice", 20), ("small_id_seq", 100)];

fn are_past(dump: &Dump) -> bool {
    USED.iter().all(|(name, value)| dump.is_past(name, *value))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_a_follower_does_not_hand_out_again_what_its_rows_hold() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute(SEQUENCES).await?;
    let leader = cluster.leader().await?;
    for follower in cluster.nodes().into_iter().filter(|node| *node != leader) {
        cluster.wait_caught_up(follower, PATIENCE).await?;
        let dump = eventually("the sequences in a dump", async || Dump::of(&cluster, follower).await, are_past).await?;
        ensure!(dump.rows == 505, "{} rows", dump.rows);
        ensure!(dump.sequences["unused_id_seq"] == (1, false), "{dump:?}");
    }
    // Nobody's are touched who writes.
    let dump = Dump::of(&cluster, leader).await?;
    ensure!(dump.sequences["ticket"] == (700, true) && dump.sequences["given_id_seq"] == (1, false), "{dump:?}");

    // A column that is no number does not keep anybody from leading.
    let follower = cluster.a_follower().await?;
    cluster.switchover(Some(follower)).await?;
    for (table, column) in [("falling", "id"), ("given", "id"), ("invoices", "code")] {
        show(&client, &format!("INSERT INTO {table} DEFAULT VALUES RETURNING {column}")).await?;
    }
    ensure!(show(&client, "SELECT nextval('ticket')").await?.parse::<i64>()? > 700, "a ticket is sold twice");
    cluster.assert_identical(&["public.keyed", "public.falling", "public.given", "public.invoices"]).await
}

/// PostgreSQL refuses a range that the present value is not in; on a follower that value is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_range_of_a_sequence_does_not_stop_followers_that_are_ahead() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute(SEQUENCES).await?;
    let follower = cluster.a_follower().await?;
    let ahead = |dump: &Dump| dump.is_past("ticket", 2001) && dump.is_past("small_id_seq", 2001);
    eventually("marks that lie ahead", async || Dump::of(&cluster, follower).await, ahead).await?;

    client.batch_execute("ALTER SEQUENCE ticket MAXVALUE 2000 -- less than the follower's").await?;
    client.batch_execute("ALTER TABLE small ALTER COLUMN id SET MAXVALUE 2000").await?;
    // Some followers have not heard of its values yet.
    client
        .batch_execute("CREATE SEQUENCE late; SELECT nextval('late') FROM generate_series(1, 50); ALTER SEQUENCE late MINVALUE 40 START 40")
        .await?;
    client
        .batch_execute("INSERT INTO sold SELECT nextval('ticket'); INSERT INTO small (v) VALUES (101); INSERT INTO unused DEFAULT VALUES")
        .await?;
    cluster.assert_identical(&["public.sold", "public.small", "public.unused"]).await?;
    let again = |dump: &Dump| dump.is_past("ticket", 701) && dump.is_past("small_id_seq", 101) && dump.is_past("late", 50);
    let dump = eventually("the sequences in a dump", async || Dump::of(&cluster, follower).await, again).await?;
    ensure!(dump.sequences["ticket"].0 <= 2000 && dump.sequences["small_id_seq"].0 <= 2000, "{dump:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_is_dropped_does_not_end_the_watch_over_the_others() -> Result<()> {
    let cluster = Fixture::start().await?;
    let (client, dropping) = (cluster.client().await?, cluster.client().await?);
    client.batch_execute("CREATE SEQUENCE other; CREATE SEQUENCE going").await?;
    dropping.batch_execute("BEGIN; DROP SEQUENCE going").await?;
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock' AND locktype = 'relation'";
    let leader = cluster.node_client(cluster.leader().await?).await?;
    eventually("a look that waits for the lock", async || show(&leader, waiting).await, |count| count == "1").await?;
    dropping.batch_execute("COMMIT").await?;
    show(&client, "SELECT max(nextval('other')) FROM generate_series(1, 50)").await?;
    let follower = cluster.a_follower().await?;
    // pg_dump does not like what is dropped under its hands.
    cluster.wait_caught_up(follower, PATIENCE).await?;
    eventually("its mark on a follower", async || Dump::of(&cluster, follower).await, |dump| dump.is_past("other", 50)).await?;
    Ok(())
}

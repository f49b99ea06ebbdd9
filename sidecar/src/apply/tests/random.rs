//! Seeded random transactions over few keys, cut into random entries and batches. Replay: `HOWDAH_SEED=n cargo test random_`.

use super::fixture::Pair;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROUNDS: usize = 300;

const TABLES: &str = "
    CREATE TABLE a (id int PRIMARY KEY, u int UNIQUE, v text);
    CREATE TABLE b (x int, y text, v numeric, big text, PRIMARY KEY (x, y));
    CREATE TABLE c (x int, v text); ALTER TABLE c REPLICA IDENTITY FULL;
    ALTER TABLE b ALTER big SET STORAGE EXTERNAL";

fn statement(random: &mut StdRng) -> String {
    let (key, other, n) = (random.random_range(1..8), random.random_range(1..8), random.random_range(0..1000));
    match random.random_range(0..16) {
        0..=2 => format!("INSERT INTO a VALUES ({key}, {other}, 'v{n}') ON CONFLICT DO NOTHING"),
        3 => format!("UPDATE a SET v = 'w{n}' WHERE id = {key}"),
        4 => format!("UPDATE a SET u = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM a WHERE u = {other})"),
        5 => format!("UPDATE a SET id = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM a WHERE id = {other})"),
        6 => format!("DELETE FROM a WHERE id = {key}"),
        7..=8 => format!("INSERT INTO b VALUES ({key}, 'k{other}', {n}.50, repeat('{n}', 2000)) ON CONFLICT DO NOTHING"),
        9 => format!("UPDATE b SET v = {n} WHERE x = {key}"),
        10 => format!(
            "UPDATE b SET y = 'm{other}' WHERE x = {key} AND y = 'k{other}' AND NOT EXISTS (SELECT FROM b WHERE x = {key} AND y = 'm{other}')"
        ),
        11 => format!("DELETE FROM b WHERE x = {key}"),
        12..=13 => format!("INSERT INTO c VALUES ({key}, 'v{other}')"),
        14 => format!("UPDATE c SET v = 'w{n}' WHERE ctid = (SELECT min(ctid) FROM c WHERE x = {key})"),
        _ => format!("DELETE FROM c WHERE ctid = (SELECT max(ctid) FROM c WHERE x = {key})"),
    }
}

fn transaction(random: &mut StdRng) -> String {
    let mut sql = String::from("BEGIN;");
    for part in 0..random.random_range(1..6) {
        let savepoint = random.random_bool(0.3);
        if savepoint {
            sql += &format!("SAVEPOINT s{part};");
        }
        sql += &statement(random);
        sql += ";";
        if savepoint && random.random_bool(0.5) {
            sql += &format!("ROLLBACK TO s{part};");
        }
    }
    if random.random_bool(0.02) {
        sql += "TRUNCATE c;";
    }
    sql + if random.random_bool(0.9) { "COMMIT" } else { "ROLLBACK" }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_transactions_leave_the_same_rows() {
    let seed = std::env::var("HOWDAH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("HOWDAH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut pair = Pair::new().await;
    pair.both(TABLES).await;
    for round in 0..ROUNDS {
        for _ in 0..random.random_range(1..12) {
            pair.on_source(&transaction(&mut random)).await;
        }
        let transactions = pair.captured().await;
        let mut rest = transactions.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.random_range(1..=rest.len()));
            let entry = pair.framer.batch(now);
            pair.log.append(Some(&entry));
            rest = later;
        }
        if random.random_bool(0.05) {
            pair.stop().await;
            pair.options.batch_bytes_max = random.random_range(100..20_000);
            pair.start();
        }
        if round % 10 == 9 {
            pair.caught_up().await;
            pair.compare().await;
        }
    }
    pair.caught_up().await;
    pair.compare().await;
    assert_eq!(pair.applied().rows_missing, 0);
}

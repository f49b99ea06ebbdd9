//! A Query behind extended messages that no Sync ended.

use super::*;

fn flush() -> Vec<u8> {
    empty(b'H')
}

/// Prepared and flushed, and answered: what asyncpg does before it sends a COPY.
fn prepared(sql: &str) -> Wire {
    let mut wire = Wire::new();
    assert_eq!(wire.client(&[parse("s", sql), flush()].concat()), "PH");
    wire.server(&empty(b'1'));
    assert_eq!(wire.seen(), "1");
    wire
}

#[test]
fn a_query_ends_the_unit() {
    let mut wire = prepared("SELECT 1");
    assert_eq!(wire.client(&query("SELECT 2")), "Q");
    assert_eq!(wire.client(&query("SELECT 3")), "", "the next unit waits");
    assert_eq!(wire.server(&[row(), complete("SELECT 1"), ready(TxStatus::Idle)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "DCZ");
    assert!(wire.session.can_detach());
    assert_eq!(wire.translate(), "Q");
}

#[test]
fn after_an_error_before_it_a_query_counts_for_nothing() {
    // The Query is on its way already, or comes when the error is known.
    for ahead in [true, false] {
        let mut wire = Wire::new();
        assert_eq!(wire.client(&[parse("", "SELECT 1"), bind(""), execute(), flush()].concat()), "PBEH");
        if ahead {
            assert_eq!(wire.client(&query("UPDATE t SET a = 1")), "Q");
        }
        wire.server(&[empty(b'1'), empty(b'2'), error("22012")].concat());
        assert_eq!(wire.seen(), "12E");
        if !ahead {
            assert_eq!(wire.client(&query("UPDATE t SET a = 1")), "");
        }
        assert_eq!(wire.client(&[query("SELECT 1"), parse("", "SELECT 1")].concat()), "");
        assert!(!wire.session.can_detach());
        assert_eq!(wire.client(&empty(b'S')), "S");
        assert_eq!(wire.server(&ready(TxStatus::Idle)), Answer::UnitEnd);
        assert_eq!(wire.seen(), "Z");
        assert!(wire.session.can_detach());
    }
}

#[test]
fn an_error_of_the_query_itself_ends_the_unit() {
    let mut wire = prepared("SELECT 1");
    assert_eq!(wire.client(&query("SELECT 1/0")), "Q");
    assert_eq!(wire.server(&[error("22012"), ready(TxStatus::Idle)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "EZ");
    assert!(wire.session.can_detach());
    let mut wire = prepared("SELECT 1");
    assert_eq!(wire.client(&query("SET synchronous_commit = off")), "Q", "the server fails it, so that its transaction does");
    assert_eq!(wire.server(&[error("0A000"), ready(TxStatus::Idle)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "EZ");
}

#[test]
fn copy_data_follows_and_other_messages_do_not() {
    let copy_in = made(|out| build::message(out, b'G', |out| out.extend_from_slice(&[0, 0, 0])));
    let mut wire = prepared("SELECT 1");
    assert_eq!(wire.client(&query("COPY t FROM STDIN")), "Q");
    assert!(wire.session.is_uncancellable(), "it commits");
    wire.server(&copy_in);
    let data = made(|out| build::message(out, b'd', |out| out.extend_from_slice(b"1\n")));
    assert_eq!(wire.client(&[data, empty(b'c')].concat()), "dc");
    assert_eq!(wire.server(&[complete("COPY 1"), ready(TxStatus::Idle)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "GCZ");
    assert!(wire.session.can_detach() && wire.session.positions.wrote);

    wire.client(&query("COPY t FROM STDIN"));
    wire.server(&copy_in);
    wire.from_client.extend(&query("SELECT 1"));
    let Wire { session, tools, server, from_client, to_server, .. } = &mut wire;
    assert!(session.translate(Some(server), from_client, to_server, tools).is_err());
}

#[test]
fn a_function_call_ends_the_unit_or_is_skipped_like_a_query() {
    let call = || made(|out| build::message(out, b'F', |out| out.extend_from_slice(&[0; 12])));
    let mut wire = prepared("SELECT 1");
    assert_eq!(wire.client(&call()), "F");
    assert!(wire.session.is_uncancellable());
    assert_eq!(wire.server(&[error("42883"), ready(TxStatus::Idle)].concat()), Answer::UnitEnd);
    let mut wire = prepared("SELECT 1");
    assert_eq!(wire.client(&[bind("none"), call(), empty(b'S')].concat()), "PBES", "the refused Bind alone");
}

#[test]
fn what_the_proxy_answers_ends_the_transaction_on_the_server_too() {
    let mut wire = prepared("SELECT 1");
    assert_eq!(wire.client(&query("SHOW howdah.route")), "Q", "an empty one");
    assert_eq!(wire.server(&[empty(b'I'), ready(TxStatus::Idle)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "TDCZ");
    // Not reached.
    let mut wire = prepared("SELECT 1");
    assert_eq!(wire.client(&[bind("s"), execute(), query("SHOW howdah.route")].concat()), "BEQ");
    wire.server(&[empty(b'2'), error("22012")].concat());
    assert_eq!(wire.client(&empty(b'S')), "S");
    wire.server(&ready(TxStatus::Idle));
    assert_eq!(wire.seen(), "2EZ");
    // In force for the transaction that goes on.
    let mut wire = prepared("SELECT 1");
    wire.from_client.extend(&query("SET howdah.replication = async"));
    let Wire { session, tools, server, from_client, to_server, .. } = &mut wire;
    session.translate(Some(server), from_client, to_server, tools).expect("well formed");
    assert!(String::from_utf8_lossy(to_server).contains("synchronous_commit"));
}

#[test]
fn a_query_takes_the_unnamed_statement_away() {
    let mut wire = Wire::new();
    wire.client(&[parse("", "SELECT 1"), flush()].concat());
    wire.server(&empty(b'1'));
    wire.client(&query("SELECT 2"));
    wire.server(&[row(), complete("SELECT 1"), ready(TxStatus::Idle)].concat());
    assert_eq!(wire.seen(), "1DCZ");
    wire.client(&[bind(""), empty(b'S')].concat());
    wire.server(&[empty(b'1'), empty(b'2'), error("26000"), ready(TxStatus::Idle)].concat());
    wire.session.take_over(&mut wire.from_server);
    assert_eq!(wire.told().0, "26000");
}

#[test]
fn it_goes_to_the_leader() {
    let leader = |plan: &Plan| {
        matches!(plan, Plan::Unit(Demand { server: Some(Need::Leader(_) | Need::Read(howdah_protocol::Consistency::Linearizable)), .. }))
    };
    for sql in ["SELECT 1", "UPDATE t SET a = 1"] {
        assert!(leader(&Wire::new().plan(&[parse("", "SELECT 1"), bind(""), execute(), query(sql)].concat())), "{sql}");
        assert!(leader(&Wire::new().plan(&[parse("", "SHOW howdah.route"), query(sql)].concat())), "{sql}");
        // What the proxy answered without a server does not make the rest a unit of its own.
        let mut wire = Wire::new();
        let own = [parse("", "SHOW howdah.route"), flush()].concat();
        assert_eq!(wire.plan(&own), Plan::Unit(Demand { server: None, token: false }));
        wire.session.translate(None, &mut wire.from_client, &mut Vec::new(), &wire.tools).expect("well formed");
        wire.session.drain_replies(None);
        assert_eq!(wire.seen(), "1");
        assert!(leader(&wire.plan(&query(sql))), "{sql}");
        assert_eq!(wire.translate(), "Q");
    }
}

#[test]
fn a_commit_is_preceded_by_the_question() {
    let told_id = |xid: u64| {
        let id = made(|out| build::text_row(out, &xid.to_string()));
        [empty(b'1'), empty(b'2'), id, complete("SELECT 1"), empty(b'3')].concat()
    };
    for (fate, kinds) in [(Fate::Committed, "CZ"), (Fate::RolledBack, "EZ")] {
        let mut wire = begun();
        let write = [parse("", "UPDATE t SET a = 1"), bind(""), execute(), flush()].concat();
        assert_eq!(wire.client(&write), "PBEH");
        wire.server(&[empty(b'1'), empty(b'2'), complete("UPDATE 1")].concat());
        assert_eq!(wire.seen(), "12C");
        assert_eq!(wire.client(&query("COMMIT")), "PBECHQ", "and no Sync: an error before it must skip the COMMIT");
        wire.server(&told_id(81));
        assert_eq!(wire.lose(true), Loss::Ask(81));
        wire.session.settle(fate, None);
        assert_eq!(wire.seen(), kinds);
        assert!(wire.session.can_detach());
    }
}

#[test]
fn a_loss_is_told_where_the_client_is() {
    // The Parse has no answer: for the client the error is its, and only a Sync goes on.
    let mut wire = begun();
    wire.client(&[parse("", "SELECT 1"), flush(), query("ROLLBACK")].concat());
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.seen(), "E");
    assert!(!wire.session.can_detach());
    wire.from_client.extend(&[query("SELECT 1"), empty(b'S')].concat());
    wire.session.translate(None, &mut wire.from_client, &mut Vec::new(), &wire.tools).expect("well formed");
    wire.session.drain_replies(None);
    assert_eq!(wire.seen(), "Z");
    // A ROLLBACK that was only prepared does not answer for the Query behind it.
    let mut wire = begun();
    wire.client(&[parse("", "ROLLBACK"), flush()].concat());
    wire.server(&empty(b'1'));
    assert_eq!(wire.seen(), "1");
    wire.client(&query("SELECT 1"));
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.seen(), "EZ");
    // It has: the Query is what failed, and what a ROLLBACK asks for has happened.
    for (sql, kinds) in [("SELECT 1", "EZ"), ("ROLLBACK", "CZ")] {
        let mut wire = begun();
        wire.client(&[parse("", "SELECT 1"), flush()].concat());
        wire.server(&empty(b'1'));
        assert_eq!(wire.seen(), "1");
        wire.client(&query(sql));
        assert_eq!(wire.lose(true), Loss::Told);
        assert_eq!(wire.seen(), kinds, "{sql}");
    }
}

//! The question for the transaction's id: when it is put, what the client sees of it, and what a lost commit comes to.

use super::*;

fn id_row(xid: u64) -> Vec<u8> {
    made(|out| build::text_row(out, &xid.to_string()))
}

/// What a server answers to the question, where it has to be prepared first.
fn told_id(xid: u64) -> Vec<u8> {
    [empty(b'1'), empty(b'2'), id_row(xid), complete("SELECT 1"), empty(b'3')].concat()
}

fn unit(sql: &str) -> Vec<u8> {
    [parse("", sql), bind(""), execute(), empty(b'S')].concat()
}

/// In a block that has written, by the extended protocol, and whose id is known.
fn written() -> Wire {
    let mut wire = begun();
    assert_eq!(wire.client(&unit("UPDATE t SET a = 1")), "PBEPBECS");
    let answer = [empty(b'1'), empty(b'2'), complete("UPDATE 1"), told_id(77), ready(TxStatus::Open)].concat();
    assert_eq!(wire.server(&answer), Answer::UnitEnd);
    assert_eq!(wire.seen(), "12CZ", "the client asked for nothing else");
    wire
}

#[test]
fn a_block_is_asked_once_and_a_read_is_not() {
    let mut wire = begun();
    assert_eq!(wire.client(&unit("SELECT 1")), "PBES");
    wire.server(&[empty(b'1'), empty(b'2'), row(), complete("SELECT 1"), ready(TxStatus::Open)].concat());
    let mut wire = written();
    assert_eq!(wire.client(&unit("UPDATE t SET a = 2")), "PBES");
    wire.server(&[empty(b'1'), empty(b'2'), complete("UPDATE 1"), ready(TxStatus::Open)].concat());
    assert_eq!(wire.client(&unit("COMMIT")), "PBES", "known");
    wire.server(&[empty(b'1'), empty(b'2'), complete("COMMIT"), ready(TxStatus::Idle)].concat());
    wire.client(&query("BEGIN"));
    wire.server(&[complete("BEGIN"), ready(TxStatus::Open)].concat());
    assert_eq!(wire.client(&unit("UPDATE t SET a = 3")), "PBEBECS", "another transaction; the server knows the question");
}

#[test]
fn a_commit_in_flight_is_what_the_log_says() {
    for (fate, expected) in [(Fate::RolledBack, "40001"), (Fate::Unknown, "08007")] {
        let mut wire = written();
        wire.client(&query("COMMIT"));
        assert_eq!(wire.lose(true), Loss::Ask(77));
        wire.session.settle(fate, None);
        assert_eq!(wire.told(), (expected.to_owned(), 'I'));
        assert!(wire.session.can_detach());
    }
    let mut wire = written();
    wire.client(&query("COMMIT"));
    assert_eq!(wire.lose(true), Loss::Ask(77));
    wire.session.settle(Fate::Committed, None);
    assert_eq!(wire.seen(), "CZ");
    assert!(wire.session.can_detach() && wire.session.positions.wrote);
}

#[test]
fn a_committed_pipeline_is_answered_in_full() {
    // As libpq sends it: Parse, Bind, Describe, Execute, Sync.
    let describe = made(|out| build::message(out, b'D', |out| out.extend_from_slice(b"P\0")));
    let mut wire = written();
    assert_eq!(wire.client(&[parse("", "COMMIT"), bind(""), describe, execute(), empty(b'S')].concat()), "PBDES");
    wire.server(&empty(b'1'));
    assert_eq!(wire.lose(true), Loss::Ask(77));
    wire.session.settle(Fate::Committed, None);
    assert_eq!(wire.seen(), "12nCZ");
}

#[test]
fn results_that_only_the_server_knew_are_not_made_up() {
    let mut wire = written();
    wire.client(&[parse("", "UPDATE t SET a = 2"), bind(""), execute(), parse("", "COMMIT"), bind(""), execute(), empty(b'S')].concat());
    assert_eq!(wire.lose(true), Loss::Ask(77));
    wire.session.settle(Fate::Committed, None);
    let (code, status) = wire.told();
    assert_eq!((code.as_str(), status), ("08007", 'I'));
}

#[test]
fn a_commit_that_was_never_sent_or_had_nothing_to_commit_is_known_without_the_log() {
    let mut wire = written();
    wire.client(&query("COMMIT"));
    assert_eq!(wire.lose(false), Loss::Told);
    assert_eq!(wire.told(), ("40001".to_owned(), 'I'));

    let mut wire = begun();
    wire.client(&query("SELECT 1"));
    wire.server(&[row(), complete("SELECT 1"), ready(TxStatus::Open)].concat());
    wire.seen();
    wire.client(&query("COMMIT"));
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.seen(), "CZ");

    let mut wire = begun();
    wire.client(&query("NOTIFY news"));
    wire.server(&[complete("NOTIFY"), ready(TxStatus::Open)].concat());
    wire.seen();
    wire.client(&query("COMMIT"));
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.told().0, "08007", "it may have been sent");
}

#[test]
fn a_simple_commit_is_preceded_by_the_question() {
    let mut wire = begun();
    assert_eq!(wire.client(&query("UPDATE t SET a = 1")), "Q");
    wire.server(&[complete("UPDATE 1"), ready(TxStatus::Open)].concat());
    assert_eq!(wire.seen(), "CZ");
    assert_eq!(wire.client(&query("COMMIT")), "PBECSQ");
    let answer = wire.server(&[told_id(78), ready(TxStatus::Open)].concat());
    assert_eq!(answer, Answer::More(HEADER_BYTES));
    assert_eq!(wire.seen(), "");
    assert_eq!(wire.lose(true), Loss::Ask(78));
    wire.session.settle(Fate::Committed, None);
    assert_eq!(wire.seen(), "CZ");
}

#[test]
fn a_commit_that_comes_with_the_first_write_is_preceded_by_the_question() {
    let mut wire = begun();
    let pipeline = [parse("", "UPDATE t SET a = 1"), bind(""), execute(), parse("", "COMMIT"), bind(""), execute(), empty(b'S')].concat();
    assert_eq!(wire.client(&pipeline), "PBEPBPBECHES");
    let ahead = [empty(b'1'), empty(b'2'), complete("UPDATE 1"), empty(b'1'), empty(b'2'), told_id(79)].concat();
    wire.server(&ahead);
    assert_eq!(wire.seen(), "12C12");
    assert_eq!(wire.lose(true), Loss::Ask(79));
    wire.session.settle(Fate::Committed, None);
    assert_eq!(wire.seen(), "CZ");
}

#[test]
fn a_write_of_its_own_is_asked_about_and_shown_only_when_it_is_decided() {
    let inserted =
        [empty(b'1'), empty(b'2'), row(), complete("INSERT 0 1"), empty(b'1'), empty(b'2'), id_row(80), complete("SELECT 1")].concat();
    for fate in [None, Some(Fate::Committed), Some(Fate::RolledBack)] {
        let mut wire = Wire::new();
        assert_eq!(wire.client(&unit("INSERT INTO t VALUES (1) RETURNING a")), "PBEPBEHS");
        wire.server(&inserted);
        assert_eq!(wire.seen(), "", "not decided yet");
        let Some(fate) = fate else {
            assert_eq!(wire.server(&ready(TxStatus::Idle)), Answer::UnitEnd);
            assert_eq!(wire.seen(), "12DCZ");
            continue;
        };
        assert_eq!(wire.lose(true), Loss::Ask(80));
        wire.session.settle(fate, None);
        assert_eq!(wire.seen(), if fate == Fate::Committed { "12DCZ" } else { "EZ" });
        assert!(wire.session.can_detach());
    }
}

#[test]
fn long_results_are_not_held_back() {
    let mut wire = Wire::new();
    wire.client(&unit("INSERT INTO t SELECT 1 RETURNING a"));
    let long = made(|out| build::text_row(out, &"x".repeat(40_000)));
    wire.server(&[empty(b'1'), empty(b'2'), long].concat());
    assert_eq!(wire.seen(), "12D");
}

#[test]
fn what_may_commit_more_than_once_is_not_asked_about() {
    for sql in ["CALL p()", "DO 'BEGIN END'", "VACUUM", "COPY t FROM STDIN", "COMMIT PREPARED 'x'"] {
        assert_eq!(Wire::new().client(&unit(sql)), "PBES", "{sql}");
    }
    let mut wire = written();
    let two = ["COMMIT", "BEGIN", "UPDATE t SET a = 2", "COMMIT"].map(|sql| [parse("", sql), bind(""), execute()].concat()).concat();
    wire.client(&[two, empty(b'S')].concat());
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.told(), ("08007".to_owned(), 'I'), "the id is that of the first");
    let mut wire = written();
    wire.client(&query("ROLLBACK; BEGIN; UPDATE t SET a = 2; COMMIT"));
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.told(), ("08007".to_owned(), 'I'));
    assert_eq!(Wire::follower().client(&unit("SELECT f()")), "PBES", "a follower commits nothing");
}

#[test]
fn an_error_before_the_question_leaves_nothing_behind() {
    let mut wire = begun();
    wire.client(&unit("UPDATE t SET a = 1"));
    assert_eq!(wire.server(&[empty(b'1'), empty(b'2'), error("23505"), ready(TxStatus::Failed)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "12EZ");
    assert_eq!(wire.client(&query("COMMIT")), "Q", "nothing to ask about");
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.told(), ("40001".to_owned(), 'I'));
}

#[test]
fn a_loss_under_a_close_in_passing_is_told_to_the_next_statement() {
    let close = made(|out| build::close(out, b'S', "s"));
    let mut wire = written();
    assert_eq!(wire.client(&[close, empty(b'S')].concat()), "S", "statements stay on the server");
    assert_eq!(wire.seen(), "3");
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.seen(), "Z");
    assert_eq!(wire.session.status, TxStatus::Open);
    let commit = query("COMMIT");
    assert_eq!(wire.plan(&commit), Plan::Unit(Demand { server: None, token: false }));
    wire.session.translate(None, &mut wire.from_client, &mut Vec::new(), &wire.tools).expect("well formed");
    wire.session.drain_replies(None);
    assert_eq!(wire.told(), ("40001".to_owned(), 'I'));
}

#[test]
fn a_write_of_its_own_is_not_asked_about_where_the_configuration_says_so() {
    let mut wire = Wire { tools: Tools::new(Arc::default(), false), ..Wire::new() };
    assert_eq!(wire.client(&unit("INSERT INTO t VALUES (1)")), "PBES");
    wire.server(&[empty(b'1'), empty(b'2'), complete("INSERT 0 1")].concat());
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.told(), ("08007".to_owned(), 'I'));
}

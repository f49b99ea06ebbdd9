//! The session over bytes: what a client sends, what a server would answer, what either is given.

mod joined;
mod outcome;

use super::*;
use crate::core::params;
use crate::core::server::ServerState;
use crate::wire::build::{self, Report, Severity};
use crate::wire::frame::{self, HEADER_BYTES};

const MESSAGE_MAX: usize = 1 << 20;

/// A session with one server connection, and both wires.
struct Wire {
    session: Session,
    tools: Tools,
    server: ServerState,
    from_client: Buffer,
    from_server: Buffer,
    to_server: Vec<u8>,
}

impl Wire {
    fn new() -> Self {
        let startup = params::read(vec![("user".into(), "u".into())]).expect("valid");
        Self {
            session: Session::new(&startup, MESSAGE_MAX),
            tools: Tools::new(Arc::default(), true),
            server: ServerState::new(false),
            from_client: Buffer::default(),
            from_server: Buffer::default(),
            to_server: Vec::new(),
        }
    }

    fn follower() -> Self {
        Self { server: ServerState::new(true), ..Self::new() }
    }

    fn plan(&mut self, bytes: &[u8]) -> Plan {
        self.from_client.extend(bytes);
        self.session.plan(self.from_client.fresh(), &self.tools).expect("well formed")
    }

    /// Sends as the client and gives what reaches the server, by message type.
    fn client(&mut self, bytes: &[u8]) -> String {
        self.from_client.extend(bytes);
        self.translate()
    }

    fn translate(&mut self) -> String {
        let Self { session, tools, server, from_client, from_server, to_server } = self;
        session.translate(Some(server), from_client, to_server, tools).expect("well formed");
        session.drain_replies(Some(from_server));
        let kinds = kinds(to_server);
        to_server.clear();
        kinds
    }

    /// Answers as the server.
    fn server(&mut self, bytes: &[u8]) -> Answer {
        self.from_server.extend(bytes);
        self.session.answer(&mut self.server, &mut self.from_server, &self.tools)
    }

    /// What the client may have by now, by message type.
    fn seen(&mut self) -> String {
        self.session.take_over(&mut self.from_server);
        let len = self.session.releasable();
        let kinds = kinds(&self.session.out[..len]);
        self.session.written(len);
        kinds
    }

    fn lose(&mut self, sent: bool) -> Loss {
        self.session.lose(sent, &mut self.from_server, None)
    }

    /// The SQLSTATE of the error that the client is given, and the status after it.
    fn told(&mut self) -> (String, char) {
        let len = self.session.releasable();
        let bytes = self.session.out[..len].to_vec();
        self.session.written(len);
        let error = messages(&bytes).into_iter().find(|(kind, _)| *kind == b'E').expect("an error").1;
        let status = messages(&bytes).into_iter().find(|(kind, _)| *kind == b'Z').map_or('-', |(_, body)| char::from(body[0]));
        (crate::wire::read::ErrorFields::read(&error).sqlstate(), status)
    }
}

fn messages(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(header) = frame::header(bytes, MESSAGE_MAX).expect("well formed") {
        all.push((header.kind, bytes[HEADER_BYTES..header.total].to_vec()));
        bytes = &bytes[header.total..];
    }
    assert!(bytes.is_empty(), "half a message");
    all
}

fn kinds(bytes: &[u8]) -> String {
    messages(bytes).iter().map(|(kind, _)| char::from(*kind)).collect()
}

fn made(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn query(sql: &str) -> Vec<u8> {
    made(|out| build::query(out, sql))
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    made(|out| build::message(out, b'P', |out| out.extend_from_slice(format!("{name}\0{sql}\0\0\0").as_bytes())))
}

fn bind(name: &str) -> Vec<u8> {
    made(|out| build::bind(out, "", name))
}

fn execute() -> Vec<u8> {
    made(|out| build::execute(out, ""))
}

fn empty(kind: u8) -> Vec<u8> {
    made(|out| build::empty(out, kind))
}

fn complete(tag: &str) -> Vec<u8> {
    made(|out| build::command_complete(out, tag))
}

fn ready(status: TxStatus) -> Vec<u8> {
    made(|out| build::ready(out, status))
}

fn row() -> Vec<u8> {
    made(|out| build::text_row(out, "x"))
}

fn error(code: &'static str) -> Vec<u8> {
    made(|out| build::error(out, Severity::Error, &Report::new(code, "no")))
}

fn begun() -> Wire {
    let mut wire = Wire::new();
    wire.client(&query("BEGIN"));
    assert_eq!(wire.server(&[complete("BEGIN"), ready(TxStatus::Open)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "CZ");
    wire
}

#[test]
fn a_statement_is_prepared_where_it_is_missing_and_the_client_sees_only_its_own_answers() {
    let mut wire = Wire::new();
    assert_eq!(wire.client(&[parse("s", "SELECT 1"), bind("s"), execute(), empty(b'S')].concat()), "PBES");
    let answer = [empty(b'1'), empty(b'2'), row(), complete("SELECT 1"), ready(TxStatus::Idle)].concat();
    assert_eq!(wire.server(&answer), Answer::UnitEnd);
    assert_eq!(wire.seen(), "12DCZ");
    // Another server connection does not know it.
    wire.server = ServerState::new(false);
    assert_eq!(wire.client(&[bind("s"), execute(), empty(b'S')].concat()), "PBES");
    assert_eq!(wire.server(&answer), Answer::UnitEnd);
    assert_eq!(wire.seen(), "2DCZ");
    // Known now; a Parse of the same text under another name needs no server, but its answer comes in order.
    assert_eq!(wire.client(&[bind("s"), execute(), parse("t", "SELECT 1"), bind("t"), execute(), empty(b'S')].concat()), "BEBES");
    let twice = [empty(b'2'), complete("SELECT 1"), empty(b'2'), complete("SELECT 1"), ready(TxStatus::Idle)].concat();
    assert_eq!(wire.server(&twice), Answer::UnitEnd);
    assert_eq!(wire.seen(), "2C12CZ");
}

#[test]
fn a_write_that_a_follower_refused_runs_again_and_nothing_of_the_first_answer_is_seen() {
    let mut wire = Wire::follower();
    let unit = [parse("s", "SELECT * FROM v"), bind("s"), execute(), empty(b'S')].concat();
    assert_eq!(wire.client(&unit), "PBES");
    assert_eq!(wire.server(&[empty(b'1'), empty(b'2')].concat()), Answer::More(HEADER_BYTES));
    assert_eq!(wire.seen(), "", "held");
    assert_eq!(wire.server(&[error("25006"), ready(TxStatus::Idle)].concat()), Answer::RefusedAsWrite);
    wire.session.rewind(&mut wire.from_client);
    wire.server = ServerState::new(false);
    assert_eq!(wire.translate(), "PBES", "the name is free again");
    let answer = [empty(b'1'), empty(b'2'), row(), complete("SELECT 1"), ready(TxStatus::Idle)].concat();
    assert_eq!(wire.server(&answer), Answer::UnitEnd);
    assert_eq!(wire.seen(), "12DCZ");
}

#[test]
fn a_refusal_after_a_row_is_the_clients() {
    let mut wire = Wire::follower();
    wire.client(&query("SELECT * FROM v"));
    assert_eq!(wire.server(&[row(), error("25006"), ready(TxStatus::Idle)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "DEZ");
}

#[test]
fn what_a_loss_means() {
    for (sql, sent, answered, expected) in [
        ("SELECT 1", true, vec![], None),
        ("UPDATE t SET a = 1", false, vec![], None),
        ("BEGIN", true, vec![], None),
        ("UPDATE t SET a = 1", true, vec![], Some(("08007", 'I'))),
        ("SELECT f()", true, vec![], Some(("08007", 'I'))),
        ("SELECT 1", true, row(), Some(("40001", 'I'))),
        ("BEGIN; UPDATE t SET a = 1; COMMIT", true, vec![], Some(("08007", 'I'))),
    ] {
        let mut wire = Wire::new();
        wire.client(&query(sql));
        wire.server(&answered);
        let loss = wire.lose(sent);
        match expected {
            None => assert_eq!(loss, Loss::Again, "{sql}"),
            Some((code, status)) => {
                assert_eq!(loss, Loss::Told, "{sql}");
                assert_eq!(wire.told(), (code.to_owned(), status), "{sql}");
                assert!(wire.session.can_detach(), "{sql}");
            }
        }
    }
    for (sql, code, status) in
        [("SELECT 1", "40001", 'E'), ("UPDATE t SET a = 1", "40001", 'E'), ("UPDATE t SET a = 1; COMMIT", "08007", 'I')]
    {
        let mut wire = begun();
        wire.client(&query(sql));
        assert_eq!(wire.lose(true), Loss::Told);
        assert_eq!(wire.told(), (code.to_owned(), status), "{sql}");
    }
}

#[test]
fn a_loss_before_the_sync_is_told_once_and_the_rest_of_the_pipeline_counts_for_nothing() {
    let mut wire = begun();
    assert_eq!(wire.client(&[parse("", "SELECT 1"), empty(b'H')].concat()), "PH");
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.told(), ("40001".to_owned(), '-'));
    let rest = [bind(""), execute(), empty(b'S')].concat();
    assert_eq!(wire.plan(&rest), Plan::Unit(Demand { server: None, token: false }));
    wire.session.translate(None, &mut wire.from_client, &mut Vec::new(), &wire.tools).expect("well formed");
    wire.session.drain_replies(None);
    assert_eq!(wire.seen(), "Z");
    assert_eq!(wire.session.status, TxStatus::Failed);
}

#[test]
fn a_pinned_session_ends_with_its_server() {
    let mut wire = Wire::new();
    wire.client(&query("LISTEN news"));
    wire.server(&[complete("LISTEN"), ready(TxStatus::Idle)].concat());
    assert!(!wire.session.can_detach());
    assert!(matches!(wire.lose(true), Loss::End(report) if report.code == "57P01"));
}

#[test]
fn half_a_row_cannot_be_taken_back() {
    let mut wire = Wire::new();
    wire.client(&query("SELECT 1"));
    let huge = made(|out| build::text_row(out, &"x".repeat(100_000)));
    wire.server(&huge[..80_000]);
    assert!(matches!(wire.lose(true), Loss::End(_)));
}

#[test]
fn commits_are_never_cancelled() {
    for (sql, in_transaction, expected) in [
        ("SELECT 1", false, false),
        ("UPDATE t SET a = 1", false, true),
        ("UPDATE t SET a = 1", true, false),
        ("COMMIT", true, true),
        ("ROLLBACK", true, false),
        ("CALL p()", true, true),
        ("COMMIT PREPARED 'x'", false, true),
        ("BEGIN", false, false),
        ("this is no SQL", true, true),
    ] {
        let mut wire = if in_transaction { begun() } else { Wire::new() };
        wire.client(&query(sql));
        assert_eq!(wire.session.is_uncancellable(), expected, "{sql}");
    }
}

#[test]
fn a_transaction_that_is_to_be_prepared_fails() {
    let mut wire = begun();
    wire.from_client.extend(&query("PREPARE TRANSACTION 'x'"));
    let Wire { session, tools, server, from_client, to_server, .. } = &mut wire;
    session.translate(Some(server), from_client, to_server, tools).expect("well formed");
    let sent = String::from_utf8_lossy(to_server);
    assert!(sent.contains("0A000") && !sent.contains("PREPARE TRANSACTION 'x'"), "the server fails its transaction instead: {sent}");
}

#[test]
fn a_commit_whose_wait_was_cut_short_is_not_acknowledged() {
    let warning =
        made(|out| build::message(out, b'N', |out| out.extend_from_slice(b"SWARNING\0C01000\0Mcanceling\0RSyncRepWaitForLSN\0\0")));
    let mut wire = Wire::new();
    wire.client(&query("UPDATE t SET a = 1"));
    let answer = wire.server(&[warning, complete("UPDATE 1"), ready(TxStatus::Idle)].concat());
    assert!(matches!(answer, Answer::Fatal { .. }), "{answer:?}");
    assert_eq!(wire.seen(), "");
    assert_eq!(wire.lose(true), Loss::Told);
    assert_eq!(wire.told(), ("08007".to_owned(), 'I'));
}

#[test]
fn the_sync_that_a_copy_swallowed_is_not_waited_for() {
    let mut wire = Wire::new();
    assert_eq!(wire.client(&[parse("", "COPY t FROM STDIN"), bind(""), execute(), empty(b'S')].concat()), "PBES");
    let copy_in = made(|out| build::message(out, b'G', |out| out.extend_from_slice(&[0, 0, 0])));
    wire.server(&[empty(b'1'), empty(b'2'), copy_in].concat());
    assert_eq!(wire.seen(), "12G");
    let data = made(|out| build::message(out, b'd', |out| out.extend_from_slice(b"1\n")));
    assert_eq!(wire.client(&[data.clone(), data, empty(b'c'), empty(b'S')].concat()), "ddcS");
    assert_eq!(wire.server(&[complete("COPY 2"), ready(TxStatus::Idle)].concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "CZ");
}

#[test]
fn the_capture_of_roles_is_not_seen() {
    let mut wire = Wire::new();
    wire.from_client.extend(&query("CREATE ROLE r -- why\n; SELECT 1"));
    let Wire { session, tools, server, from_client, to_server, .. } = &mut wire;
    session.translate(Some(server), from_client, to_server, tools).expect("well formed");
    let sent = String::from_utf8_lossy(&messages(to_server)[0].1).into_owned();
    assert_eq!(sent.matches("howdah.capture_roles()").count(), 1, "{sent}");
    assert!(sent.find("capture_roles") < sent.find("SELECT 1"), "{sent}");
    let description = made(|out| build::text_column(out, "capture_roles"));
    let answer = [
        complete("CREATE ROLE"),
        description.clone(),
        row(),
        complete("SELECT 1"),
        description,
        row(),
        complete("SELECT 1"),
        ready(TxStatus::Idle),
    ];
    assert_eq!(wire.server(&answer.concat()), Answer::UnitEnd);
    assert_eq!(wire.seen(), "CTDCZ");
}

#[test]
fn an_answer_to_nothing_breaks_the_connection() {
    for stray in [complete("SELECT 1"), empty(b'1'), ready(TxStatus::Idle), vec![b'?', 0, 0, 0, 4], vec![b'C', 0, 0, 0, 1]] {
        let mut wire = begun();
        assert!(matches!(wire.server(&stray), Answer::Broken(_)), "{stray:?}");
    }
    let mut wire = begun();
    let notice = made(|out| build::parameter_status(out, "TimeZone", "UTC"));
    assert_eq!(wire.server(&notice), Answer::More(HEADER_BYTES));
    assert_eq!(wire.seen(), "S", "what may come at any time is passed on");
}

#[test]
fn where_units_go() {
    let read = |mode| Some(Need::Read(mode));
    let leader = |plan: &Plan| matches!(plan, Plan::Unit(Demand { server: Some(Need::Leader(_)), .. }));
    let server = |plan: Plan| match plan {
        Plan::Unit(demand) => demand.server,
        other => panic!("{other:?}"),
    };
    use howdah_protocol::Consistency::{Eventual, Linearizable};
    assert_eq!(server(Wire::new().plan(&query("SELECT 1"))), read(Linearizable));
    assert_eq!(server(Wire::new().plan(&query("/* howdah: eventual */ SELECT 1"))), read(Eventual));
    assert_eq!(server(Wire::new().plan(&query("SET howdah.consistency = eventual; SELECT 1"))), read(Eventual));
    assert_eq!(server(Wire::new().plan(&query("SHOW howdah.token"))), None);
    assert_eq!(server(Wire::new().plan(&query("SET synchronous_commit = off"))), None, "refused here");
    assert!(leader(&Wire::new().plan(&query("SELECT 1; UPDATE t SET a = 1"))));
    assert!(leader(&Wire::new().plan(&query("no SQL"))));
    let reads = [parse("", "SELECT 1"), bind(""), execute(), empty(b'S')].concat();
    assert_eq!(server(Wire::new().plan(&reads)), read(Linearizable));
    // Its end is not known: the leader, under a lease where the mode asks for one.
    assert_eq!(server(Wire::new().plan(&[parse("", "SELECT 1"), empty(b'H')].concat())), read(Linearizable));
    assert!(leader(&Wire::new().plan(&[parse("", "/* howdah: eventual */ SELECT 1"), empty(b'H')].concat())));
    let mixed = [parse("", "SELECT 1"), bind(""), execute(), parse("", "DELETE FROM t"), empty(b'S')].concat();
    assert!(leader(&Wire::new().plan(&mixed)));
    assert_eq!(Wire::new().plan(&reads[..reads.len() - 1]), Plan::Incomplete);
    assert_eq!(Wire::new().plan(&empty(b'X')), Plan::Terminate);
    assert_eq!(Wire::new().plan(&empty(b'c')), Plan::Ignore(5));
}

#[test]
fn malformed_messages_are_violations() {
    for bytes in
        [b"z\0\0\0\x04".to_vec(), b"Q\0\0\0\x05x".to_vec(), b"B\0\0\0\x05x".to_vec(), b"Q\0\0\0\0".to_vec(), b"Q\x7f\xff\xff\xff".to_vec()]
    {
        let mut wire = Wire::new();
        wire.from_client.extend(&bytes);
        assert!(wire.session.plan(wire.from_client.fresh(), &wire.tools).is_err(), "{bytes:?}");
        let Wire { session, tools, server, from_client, to_server, .. } = &mut wire;
        assert!(session.translate(Some(server), from_client, to_server, tools).is_err(), "{bytes:?}");
    }
}

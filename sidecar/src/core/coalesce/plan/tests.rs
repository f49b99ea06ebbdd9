//! Plans over entries: what is executed, and the state after it.

use super::*;
use crate::core::entry::Writer;
use bytes::{BufMut, BytesMut};
use howdah_protocol::{Epoch, Lsn, NodeId};

const WRITER: Writer = Writer { node: NodeId(1), instance: InstanceId(11), epoch: Epoch(1) };
const HERE: InstanceId = InstanceId(12);

fn relation() -> Vec<u8> {
    let mut out = b"R\0\0\0\x05public\0t\0d\0\x01".to_vec();
    out.extend(b"\x01id\0\0\0\0\x17\xff\xff\xff\xff");
    out
}

fn insert(value: u8) -> Vec<u8> {
    let mut out = b"I\0\0\0\x05N\0\x01t\0\0\0\x01".to_vec();
    out.push(b'0' + value);
    out
}

fn ddl() -> Vec<u8> {
    let mut out = BytesMut::from(&b"M\x01\0\0\0\0\0\0\0\0howdah\0"[..]);
    out.put_u32(2);
    out.put_slice(b"{}");
    out.to_vec()
}

fn messages(raw: &[Vec<u8>]) -> Messages {
    let mut bytes = BytesMut::new();
    raw.iter().for_each(|message| Messages::push(&mut bytes, message));
    Messages { streamed: false, bytes: bytes.freeze() }
}

fn commit(end: u64, chunked: bool, raw: &[Vec<u8>]) -> Item {
    let xid = u32::try_from(end).unwrap();
    Item::Commit { xid, commit_lsn: Lsn(end), end_lsn: Lsn(end), commit_time_us: 0, chunked, messages: messages(raw) }
}

fn log(entries: Vec<Option<Entry>>) -> Vec<(LogIndex, Option<Bytes>)> {
    let open = Some(Entry::Open { writer: WRITER, time_ms: 0 });
    let all = std::iter::once(open).chain(entries).map(|entry| entry.map(|entry| entry.encode()));
    all.enumerate().map(|(at, payload)| (LogIndex(at as u64 + 1), payload)).collect()
}

fn batch(items: Vec<Item>) -> Option<Entry> {
    Some(Entry::Batch { writer: WRITER, time_ms: 0, items })
}

/// Plans all entries as the applier does, and lists what each plan inserts ("D" for a message), and where it leaves the position.
fn run(entries: &[(LogIndex, Option<Bytes>)], instance: InstanceId) -> (Vec<String>, State) {
    run_with(entries, instance, None)
}

fn run_with(entries: &[(LogIndex, Option<Bytes>)], instance: InstanceId, replacement: Option<&Arc<Replacement>>) -> (Vec<String>, State) {
    let (mut state, mut done, mut plans) = (State::default(), 0, Vec::new());
    let mut relations = Relations::default();
    while done < entries.len() {
        let plan = plan(instance, &state, &entries[done..], Mode::Net, replacement, None, &mut relations).unwrap();
        let mut text = String::new();
        for part in &plan.parts {
            match part {
                Part::Chunks { transaction, without, .. } => {
                    text += if without.is_some() { "c" } else { "" };
                    text += &format!("C{:?}", transaction.entries.iter().map(|index| index.0).collect::<Vec<_>>())
                }
                Part::Steps(steps) => steps.iter().for_each(|step| match step {
                    Step::Net { upserts, .. } => upserts.iter().for_each(|row| {
                        let [pgoutput::Value::Text(value)] = &row[..] else { panic!("{row:?}") };
                        text += std::str::from_utf8(value).unwrap();
                    }),
                    Step::Logical { .. } => text.push('D'),
                    Step::Append { .. } => text.push('R'),
                    other => panic!("{other:?}"),
                }),
            }
        }
        plans.push(format!("{text}@{}", plan.last.0));
        done += plan.entries;
        state = plan.state;
    }
    (plans, state)
}

#[test]
fn many_entries_are_one_plan() {
    let entries =
        log(vec![batch(vec![commit(1, false, &[relation(), insert(1)])]), None, batch(vec![commit(2, false, &[relation(), insert(2)])])]);
    let (plans, state) = run(&entries, HERE);
    assert_eq!(plans, ["12@4"]);
    assert_eq!(state.decisions.watermark(InstanceId(11)), Lsn(2));
}

#[test]
fn a_plan_ends_behind_each_message_even_within_an_entry() {
    let items = vec![
        commit(1, false, &[relation(), insert(1)]),
        commit(2, false, &[insert(2), ddl(), insert(3)]),
        commit(3, false, &[insert(4)]),
        commit(4, false, &[ddl()]),
        commit(5, false, &[insert(5)]),
    ];
    let entries = log(vec![batch(vec![commit(0, false, &[])]), batch(items), batch(vec![commit(6, false, &[relation(), insert(6)])])]);
    let (plans, state) = run(&entries, HERE);
    assert_eq!(plans, ["@2", "12D3@2", "4D@2", "56@4"]);
    assert_eq!((state.items_done, state.decisions.watermark(InstanceId(11))), (0, Lsn(6)));
}

#[test]
fn own_and_void_batches_only_move_the_position() {
    let entries = log(vec![batch(vec![commit(1, false, &[relation(), insert(1)])])]);
    assert_eq!(run(&entries, WRITER.instance).0, ["@2"]);
    let other = Writer { epoch: Epoch(2), ..WRITER };
    let void = Entry::Batch { writer: other, time_ms: 0, items: vec![commit(1, false, &[relation(), insert(1)])] };
    assert_eq!(run(&log(vec![Some(void)]), HERE).0, ["@2"]);
}

#[test]
fn a_second_copy_is_void_but_its_descriptions_count() {
    let first = commit(1, false, &[relation(), insert(1)]);
    let entries = log(vec![batch(vec![first.clone()]), batch(vec![first, commit(2, false, &[insert(2)])])]);
    assert_eq!(run(&entries, HERE).0, ["12@3"]);
}

#[test]
fn chunks_are_remembered_until_their_end() {
    let chunk = |xid| Item::Chunk { xid, messages: messages(&[relation(), insert(7)]) };
    let entries =
        log(vec![batch(vec![chunk(5), chunk(6)]), batch(vec![chunk(5), Item::SubAbort { xid: 5, subxid: 50 }, Item::Abort { xid: 6 }])]);
    let (plans, state) = run(&entries, HERE);
    assert_eq!(plans, ["@3"]);
    let open = OpenTransaction { entries: vec![LogIndex(2), LogIndex(3)], void: vec![50] };
    assert_eq!(state.open, BTreeMap::from([(5, open)]));
    assert_eq!((state.needs_from(LogIndex(3)), state.needs_from(LogIndex(0))), (LogIndex(2), LogIndex(1)));

    let mut ended = entries.clone();
    ended.extend(
        log(vec![batch(vec![commit(5, true, &[relation(), insert(8)])])]).into_iter().skip(1).map(|(_, payload)| (LogIndex(4), payload)),
    );
    assert_eq!(run(&ended, HERE).0, ["@3", "C[2, 3]8@4"]);

    // A new opening: what was left open never ends.
    let mut reopened = entries;
    reopened.push((LogIndex(4), Some(Entry::Open { writer: WRITER, time_ms: 0 }.encode())));
    assert!(run(&reopened, HERE).1.open.is_empty());
}

/// Key 1 is left out up to LSN 20; "R" stands for putting the leader's rows in.
fn replacement() -> Arc<Replacement> {
    let Message::Relation(relation) = pgoutput::parse(relation().into(), false).unwrap().message else { panic!("a relation") };
    let table = Arc::new(Table::new(TableId(99), relation));
    let steps = vec![Step::Append { table: Arc::clone(&table), rows: vec![vec![pgoutput::Value::Text(Bytes::from_static(b"1"))]] }];
    let mut replacement = Replacement::new(crate::core::coalesce::Cut { instance: InstanceId(11), lsn: Lsn(20) }, steps);
    replacement.replace(&table, [Bytes::from_static(b"1")]);
    Arc::new(replacement)
}

#[test]
fn rows_are_left_out_up_to_the_cut_and_put_in_there() {
    let rows = |end, values: &[u8]| {
        let inserts = values.iter().map(|value| insert(*value));
        commit(end, false, &std::iter::once(relation()).chain(inserts).collect::<Vec<_>>())
    };
    let replacement = replacement();
    let entries = log(vec![batch(vec![rows(10, &[1, 2])]), batch(vec![rows(20, &[1, 3]), rows(30, &[1, 4])]), batch(vec![rows(40, &[5])])]);
    assert_eq!(run_with(&entries, HERE, Some(&replacement)).0, ["23R145@4"]);
    // Wherever the plans are cut, the rows are put in once.
    for cut in 1..entries.len() {
        let mut state = State::default();
        let mut steps = Vec::new();
        for part in [&entries[..cut], &entries[cut..]] {
            let plan = plan(HERE, &state, part, Mode::Ordered, Some(&replacement), None, &mut Relations::default()).unwrap();
            state = plan.state;
            steps.extend(plan.parts);
        }
        let all = format!("{steps:?}");
        assert_eq!(all.matches("Append").count(), 1, "cut at {cut}: {all}");
    }
    // A transaction that changes nothing marks the cut too.
    let marked = log(vec![batch(vec![rows(20, &[1])]), batch(vec![commit(21, false, &[])])]);
    assert_eq!(run_with(&marked, HERE, Some(&replacement)).0, ["R@3"]);
    // Another writer's are before the cut, whatever their LSN.
    let other = Writer { instance: InstanceId(13), ..WRITER };
    let mut foreign = log(vec![Some(Entry::Batch { writer: other, time_ms: 0, items: vec![rows(90, &[1, 2])] })]);
    foreign[0].1 = Some(Entry::Open { writer: other, time_ms: 0 }.encode());
    assert_eq!(run_with(&foreign, HERE, Some(&replacement)).0, ["2@2"]);
}

#[test]
fn the_cut_may_lie_within_an_entry_that_is_done_in_parts() {
    let items = vec![
        commit(20, false, &[relation(), insert(1), ddl(), insert(2)]),
        commit(30, false, &[insert(3), ddl()]),
        commit(40, false, &[insert(1)]),
    ];
    let (plans, _) = run_with(&log(vec![batch(items)]), HERE, Some(&replacement()));
    // The first is the opening.
    assert_eq!(plans, ["@1", "D2@1", "R3D@1", "1@2"]);
}

#[test]
fn a_halt_ends_the_plan_in_front_of_the_cut_also_within_an_entry() {
    let rows = |end, value| commit(end, false, &[relation(), insert(value)]);
    let entries = log(vec![batch(vec![rows(10, 1)]), batch(vec![rows(20, 2), rows(30, 3)]), batch(vec![rows(40, 4)])]);
    let halt = Some(crate::core::coalesce::Cut { instance: WRITER.instance, lsn: Lsn(20) });
    let (mut state, mut done, mut steps) = (State::default(), 0, String::new());
    let mut relations = Relations::default();
    let mut halts = 0;
    while done < entries.len() {
        // Let go when it has stood still twice.
        let halt = halt.filter(|_| halts < 2);
        let plan = plan(HERE, &state, &entries[done..], Mode::Net, None, halt, &mut relations).unwrap();
        if plan.halted {
            halts += 1;
            assert_eq!((plan.last, plan.state.items_done), (LogIndex(2), 1), "halt {halts}");
            assert!(halts == 1 || plan.parts.is_empty(), "it is done twice: {:?}", plan.parts);
        }
        steps += &format!("{:?}|", plan.parts);
        done += plan.entries;
        state = plan.state;
    }
    assert_eq!(halts, 2);
    for value in ["1", "2", "3", "4"] {
        assert_eq!(steps.matches(&format!("Text(b\"{value}\")")).count(), 1, "{value}: {steps}");
    }
}

#[test]
fn chunks_of_a_transaction_before_the_cut_are_filtered_when_they_are_read_again() {
    let chunk = |xid| Item::Chunk { xid, messages: messages(&[relation(), insert(1)]) };
    let entries = |end| log(vec![batch(vec![chunk(end), commit(u64::from(end), true, &[relation(), insert(1), insert(2)])])]);
    assert_eq!(run_with(&entries(20), HERE, Some(&replacement())).0, ["@1", "cC[2]2@2"]);
    assert_eq!(run_with(&entries(21), HERE, Some(&replacement())).0, ["@1", "RC[2]12@2"]);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let mut relations = Relations::default();
    let mut planned = |items| plan(HERE, &State::default(), &log(vec![batch(items)]), Mode::Net, None, None, &mut relations).err();
    assert_eq!(planned(vec![commit(1, false, &[insert(1)])]), Some(Error::UnknownRelation(5)));
    assert_eq!(planned(vec![commit(1, true, &[])]), Some(Error::ChunksUnknown(1)));
    assert_eq!(planned(vec![commit(1, false, &[b"B".to_vec()])]), Some(Error::Message(pgoutput::Error::Short)));
}

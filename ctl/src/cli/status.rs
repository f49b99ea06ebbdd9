//! `howdahctl status`: one line per node, or the JSON that scripts rely on.
//!
//! The JSON is a contract: its keys stay as they are. A node that does not answer is in it with role "unreachable" and null where only the
//! node itself could know.

use super::target::{View, leader};
use super::{Outcome, Status};
use howdah_ctl::admin;
use howdah_ctl::core::table::{Align, render};
use howdah_protocol::NodeId;
use howdah_protocol::admin::{Members, Seeding};
use howdah_protocol::verify::Verified;
use serde::Serialize;
use std::collections::BTreeMap;

const UNREACHABLE: &str = "unreachable";

#[derive(Debug, Serialize)]
struct Json {
    groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    id: u32,
    leader: Option<u64>,
    nodes: Vec<Node>,
}

/// What a node is to the group, as the leader has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Membership {
    /// Counts for the majority.
    Voter,
    /// Follows, and does not count yet.
    Learner,
    /// Not added yet, or removed. It may still believe otherwise.
    None,
}

#[derive(Debug, Serialize)]
struct Node {
    id: Option<u64>,
    role: String,
    /// Null while no leader can be asked.
    membership: Option<Membership>,
    open: bool,
    term: Option<u64>,
    committed_index: Option<u64>,
    applied_index: Option<u64>,
    lag_ms: Option<u64>,
    postgres_version: Option<String>,
    sql_address: Option<String>,
    admin_address: String,
    /// Only of a node that is being filled.
    #[serde(skip_serializing_if = "Option::is_none")]
    seeding: Option<Seeding>,
    /// How the node was when it was last compared with the leader; null where it was not.
    verified: Option<Verified>,
    /// What is wrong with it; null where nothing is known to be.
    trouble: Option<String>,
}

pub(crate) async fn run(arguments: Status) -> anyhow::Result<Outcome> {
    let views = arguments.target.resolve()?.observe().await;
    let members = match leader(&views) {
        Some(leader) => admin::members(&leader.admin).await.ok(),
        None => None,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&json(&views, members.as_ref()))?);
    } else {
        println!("{}", table(&views, members.as_ref()));
        warnings(&views, members.as_ref()).iter().for_each(|warning| println!("\n{warning}"));
    }
    Ok(if leader(&views).is_some() { Outcome::Good } else { Outcome::Bad })
}

/// What a person should do something about: nodes that were not the same as the leader when they were compared last, and those that go on
/// although they were removed.
fn warnings(views: &[View], members: Option<&Members>) -> Vec<String> {
    let removed = |view: &View| {
        let status = view.status.as_ref().ok()?;
        let was = members.is_some_and(|members| members.ids_used.contains(&status.id));
        (was && membership(status.id, members) == Some(Membership::None)).then(|| {
            let node = status.id;
            format!("WARNING: node {node} was removed from the group and still runs: what it serves grows old\nhint: stop its sidecar")
        })
    };
    let differs = |view: &View| {
        let status = view.status.as_ref().ok()?;
        Some(difference(status.id, &status.verified.filter(|last| last.tables_differing > 0)?))
    };
    views.iter().filter_map(differs).chain(views.iter().filter_map(removed)).collect()
}

/// Rows can be brought back, tables cannot.
fn difference(node: NodeId, last: &Verified) -> String {
    let count = |number: u64, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let (rows, unlike, index) = (last.rows_differing, last.tables_unlike, last.index);
    let tables = last.tables_differing.saturating_sub(unlike);
    let in_rows = format!("differs from the leader in {} or more of {}", count(rows, "row"), count(tables, "table"));
    let in_tables = format!("misses {} (or columns of it, or has it and the leader does not)", count(unlike, "table"));
    let (what, hint) = match (unlike, tables) {
        (0, _) => (in_rows, "`howdahctl verify --repair` brings the rows back to the leader's".to_owned()),
        (_, 0) => (in_tables, format!("rows cannot mend that, `howdahctl node replace {node}` does")),
        _ => (format!("{in_tables} and {in_rows}"), format!("rows alone cannot mend that, `howdahctl node replace {node}` does")),
    };
    format!("WARNING: node {node} {what}, as of log index {index}\nhint: `howdahctl verify` shows where, {hint}")
}

fn membership(node: NodeId, members: Option<&Members>) -> Option<Membership> {
    let found = members?.members.iter().find(|member| member.node == node);
    Some(found.map_or(Membership::None, |member| if member.voter { Membership::Voter } else { Membership::Learner }))
}

fn json(views: &[View], members: Option<&Members>) -> Json {
    let mut groups: BTreeMap<u32, Vec<&View>> = BTreeMap::new();
    for view in views {
        // A node that does not answer is taken for one of the home group, the only one that a local cluster has.
        let group = view.status.as_ref().map_or(0, |status| status.group.0);
        groups.entry(group).or_default().push(view);
    }
    let group = |(id, nodes): (u32, Vec<&View>)| Group {
        id,
        leader: leader(views).filter(|found| nodes.iter().any(|view| std::ptr::eq(*view, *found))).and_then(|view| Some(view.id?.0)),
        nodes: nodes.into_iter().map(|view| node(view, members)).collect(),
    };
    Json { groups: groups.into_iter().map(group).collect() }
}

fn node(view: &View, members: Option<&Members>) -> Node {
    let status = view.status.as_ref().ok();
    Node {
        id: view.id.map(|id| id.0),
        role: status.map_or(UNREACHABLE.to_owned(), |status| status.role.to_string()),
        membership: view.id.and_then(|id| membership(id, members)),
        open: status.is_some_and(|status| status.open),
        term: status.map(|status| status.term.0),
        committed_index: status.map(|status| status.committed_index.0),
        applied_index: status.map(|status| status.applied_index.0),
        lag_ms: status.map(|status| status.lag_ms),
        postgres_version: status.map(|status| status.postgres_version.clone()),
        sql_address: status.map(|status| status.sql_address.clone()).or_else(|| view.sql.clone()),
        admin_address: view.admin.clone(),
        seeding: status.and_then(|status| status.seeding),
        verified: status.and_then(|status| status.verified),
        trouble: status.and_then(|status| status.trouble.clone()),
    }
}

pub(crate) fn table(views: &[View], members: Option<&Members>) -> String {
    let columns = [
        ("node", Align::Right),
        ("role", Align::Left),
        ("member", Align::Left),
        ("state", Align::Left),
        ("term", Align::Right),
        ("index", Align::Right),
        ("applied", Align::Right),
        ("lag", Align::Right),
        ("postgres", Align::Left),
        ("sql", Align::Left),
        ("admin", Align::Left),
        ("detail", Align::Left),
    ];
    let row = |view: &View| {
        let node = node(view, members);
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let detail = match &view.status {
            Ok(status) => {
                let seeding = status.seeding.map_or_else(String::new, |seeding| format!("{seeding}; "));
                let trouble = status.trouble.as_ref().map_or_else(String::new, |trouble| format!("; TROUBLE: {trouble}"));
                format!("{seeding}{}{trouble}", status.detail)
            }
            Err(why) => why.clone(),
        };
        vec![
            number(node.id),
            node.role.clone(),
            match node.membership {
                Some(Membership::Voter) => "voter",
                Some(Membership::Learner) => "learner",
                Some(Membership::None) => "none",
                None => "-",
            }
            .to_owned(),
            if node.role == UNREACHABLE {
                "-"
            } else if node.open {
                "open"
            } else {
                "closed"
            }
            .to_owned(),
            number(node.term),
            number(node.committed_index),
            number(node.applied_index),
            node.lag_ms.map_or("-".to_owned(), |ms| format!("{ms} ms")),
            node.postgres_version.unwrap_or("-".to_owned()),
            node.sql_address.unwrap_or("-".to_owned()),
            node.admin_address,
            detail,
        ]
    };
    render(&columns, &views.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use howdah_protocol::admin::{Member, NodeStatus, Role, SeedingStage};
    use howdah_protocol::{GroupId, LogIndex, Term};

    fn view(id: u64, role: Role, open: bool, term: u64) -> View {
        let status = NodeStatus {
            cluster: "c".to_owned(),
            group: GroupId(0),
            id: NodeId(id),
            role,
            open,
            epoch: None,
            term: Term(term),
            leader: None,
            committed_index: LogIndex(9),
            applied_index: LogIndex(8),
            lag_ms: 3,
            postgres_version: "15.1".to_owned(),
            sql_address: "h:1".to_owned(),
            admin_address: "h:2".to_owned(),
            detail: "fine".to_owned(),
            seeding: None,
            verified: None,
            trouble: None,
        };
        View { id: Some(NodeId(id)), admin: "h:2".to_owned(), sql: Some("h:1".to_owned()), status: Ok(status) }
    }

    fn views() -> Vec<View> {
        let lost = View { id: Some(NodeId(3)), admin: "h:6".to_owned(), sql: Some("h:5".to_owned()), status: Err("refused".to_owned()) };
        vec![view(1, Role::Leader, true, 4), view(2, Role::Leader, true, 5), lost]
    }

    #[test]
    fn the_json_has_exactly_the_promised_keys() {
        let value = serde_json::to_value(json(&views(), None)).expect("serialises");
        let keys = |value: &serde_json::Value| {
            let mut keys: Vec<_> = value.as_object().expect("an object").keys().cloned().collect();
            keys.sort();
            keys.join(" ")
        };
        let group = &value["groups"][0];
        assert_eq!(keys(&value), "groups");
        assert_eq!(keys(group), "id leader nodes");
        let expected =
            "admin_address applied_index committed_index id lag_ms membership open postgres_version role sql_address term trouble verified";
        for node in group["nodes"].as_array().expect("nodes") {
            assert_eq!(keys(node), expected);
        }
        assert_eq!(group["leader"], 2, "the higher term leads");
        assert_eq!(group["nodes"][0]["lag_ms"], 3);
        assert_eq!((&group["nodes"][2]["role"], &group["nodes"][2]["term"]), (&"unreachable".into(), &serde_json::Value::Null));
        assert_eq!(group["nodes"][2]["sql_address"], "h:5");
    }

    #[test]
    fn what_is_wrong_with_a_node_is_in_its_line_and_in_the_json() {
        let mut views = views();
        views[1].status.as_mut().expect("it answers").trouble = Some("the disk is full".to_owned());
        assert!(table(&views, None).lines().nth(2).expect("second node").contains("fine; TROUBLE: the disk is full"));
        let value = serde_json::to_value(json(&views, None)).expect("serialises");
        assert_eq!(value["groups"][0]["nodes"][1]["trouble"], "the disk is full");
        assert_eq!(value["groups"][0]["nodes"][0]["trouble"], serde_json::Value::Null);
    }

    #[test]
    fn the_table_shows_the_unreachable_one_with_the_reason() {
        let table = table(&views(), None);
        assert!(table.lines().nth(3).expect("third node").contains("unreachable"), "{table}");
        assert!(table.contains("refused") && table.contains("3 ms"), "{table}");
    }

    #[test]
    fn a_filling_is_shown_with_its_progress() {
        let mut views = views();
        let seeding = Seeding { bytes_done: 1 << 20, bytes_total: 2 << 20, stage: SeedingStage::Rows, ..Seeding::default() };
        if let Ok(status) = &mut views[0].status {
            status.seeding = Some(seeding);
        }
        assert!(table(&views, None).contains("50 %, 1 of 2 MiB"), "{}", table(&views, None));
        let value = serde_json::to_value(json(&views, None)).expect("serialises");
        assert_eq!(value["groups"][0]["nodes"][0]["seeding"]["bytes_done"], 1 << 20);
    }

    #[test]
    fn a_node_that_differs_is_warned_of() {
        let mut views = views();
        assert!(warnings(&views, None).is_empty());
        let last = Verified { at_ms: 1, index: LogIndex(7), tables: 3, tables_differing: 1, tables_unlike: 0, rows_differing: 5 };
        views[1].status.as_mut().expect("it answers").verified = Some(last);
        let said = warnings(&views, None);
        assert!(
            said.len() == 1 && said[0].contains("node 2 differs") && said[0].contains("5 rows") && said[0].contains("--repair"),
            "{said:?}"
        );
        assert_eq!(serde_json::to_value(json(&views, None)).expect("serialises")["groups"][0]["nodes"][1]["verified"]["rows_differing"], 5);
    }

    #[test]
    fn a_table_that_is_missing_is_not_called_rows_that_can_be_brought_back() {
        let last = Verified { at_ms: 1, index: LogIndex(7), tables: 3, tables_differing: 1, tables_unlike: 1, rows_differing: 0 };
        let said = difference(NodeId(2), &last);
        assert!(said.contains("node 2 misses 1 table ") && said.contains("`howdahctl node replace 2`"), "{said}");
        assert!(!said.contains("--repair") && !said.contains("rows or more"), "{said}");
        let both = difference(NodeId(2), &Verified { tables_differing: 3, tables_unlike: 2, rows_differing: 1, ..last });
        assert!(
            both.contains("misses 2 tables ") && both.contains("in 1 row or more of 1 table,") && both.contains("node replace 2"),
            "{both}"
        );
        assert!(!both.contains("--repair"), "refused where a table is missing: {both}");
    }

    #[test]
    fn who_votes_is_what_the_leader_says() {
        let member = |id, voter| Member { node: NodeId(id), admin: "h:2".to_owned(), sql: "h:1".to_owned(), voter };
        let members = Members { members: vec![member(2, true), member(3, false)], ids_used: [1, 2, 3].map(NodeId).to_vec() };
        let value = serde_json::to_value(json(&views(), Some(&members))).expect("serialises");
        let of = |nth: usize| value["groups"][0]["nodes"][nth]["membership"].as_str().expect("a word").to_owned();
        assert_eq!([of(0), of(1), of(2)], ["none", "voter", "learner"]);
        let said = warnings(&views(), Some(&members));
        assert!(said.len() == 1 && said[0].contains("node 1 was removed"), "{said:?}");
        let waits = Members { ids_used: [2, 3].map(NodeId).to_vec(), ..members };
        assert!(warnings(&views(), Some(&waits)).is_empty(), "it is about to join");
        assert!(table(&views(), None).lines().nth(1).expect("first node").contains(" -  "), "nobody to ask");
    }
}

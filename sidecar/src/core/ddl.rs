//! What event triggers and the proxy put into the log beside rows, as JSON in logical messages with Howdah's prefix, and how a follower
//! finds in it the statement to run.
//!
//! The only user of the SQL parser in the sidecar.

pub mod roles;

use pg_raw_parse::Node;
use pg_raw_parse::raw::ObjectType;
use roles::RolesState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("message in the log that this version does not understand ({0}); upgrade this node")]
    Unknown(String),
    #[error("statement {nth} of `{sql}` was executed on the leader, but it has only {count} that fire event triggers")]
    NoSuchStatement { nth: usize, count: usize, sql: String },
}

/// The content of a logical message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Command {
    Ddl(Ddl),
    /// All roles as they are from here on.
    Roles(RolesState),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ddl {
    /// The command tag, for messages.
    pub tag: String,
    /// What the client sent, or inside PL/pgSQL the statement itself.
    pub sql: String,
    /// How many statements of `sql` that fire event triggers came before this one.
    #[serde(default)]
    pub nth: usize,
    pub search_path: String,
    pub role: String,
    /// What the meaning of the statement's literals depends on, such as DateStyle.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// What the defaults of new columns came to for the rows that existed.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// The table that CREATE TABLE AS made: its rows come before this message, because the trigger fires behind them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creates: Option<TableName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub schema: String,
    pub table: String,
    pub column: String,
    pub value: Option<String>,
}

/// Where the sequences are that a statement may give another range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranged {
    /// ALTER SEQUENCE. The same with the sequence at its start, which is within the new range wherever the statement is right.
    Sequence { restarting: String },
    /// ALTER TABLE: those of identity columns. No schema stands for the search path.
    Table { schema: Option<String>, table: String },
}

impl Command {
    pub fn parse(content: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(content).map_err(|error| Error::Unknown(error.to_string()))
    }
}

impl Ddl {
    /// The text to run inside a transaction: one statement, as the client wrote it.
    pub fn statement(&self) -> Result<String, Error> {
        Ok(without_concurrently(&pick(&self.sql, self.nth)?))
    }

    /// Of a statement that may check a sequence's value against a new range of it: followers may be ahead of the leader's, or behind.
    #[must_use]
    pub fn ranged(&self, statement: &str) -> Option<Ranged> {
        let tree = pg_raw_parse::parse(statement).ok()?;
        match tree.iter().next()?.stmt() {
            Node::AlterSeqStmt(_) => Some(Ranged::Sequence { restarting: format!("{statement}\nRESTART") }),
            Node::AlterTableStmt(alter) => {
                let table = alter.relation()?;
                let schema = table.schemaname().map(str::to_owned);
                Some(Ranged::Table { schema, table: table.relname()?.to_owned() })
            }
            _ => None,
        }
    }
}

/// The `nth` statement that fires event triggers. Text that the parser does not know (a newer server's) is taken as it is; the server refuses
/// it if it is more than one statement.
fn pick(sql: &str, nth: usize) -> Result<String, Error> {
    let Ok(tree) = pg_raw_parse::parse(sql) else { return Ok(sql.to_owned()) };
    let text = |location: i32, len: i32| {
        let start = usize::try_from(location).unwrap_or(0);
        let end = usize::try_from(len).ok().filter(|len| *len > 0).map_or(sql.len(), |len| start + len);
        sql.get(start..end).unwrap_or(sql).trim().to_owned()
    };
    if tree.len() == 1 {
        return Ok(tree.iter().next().map_or_else(|| sql.to_owned(), |only| text(only.stmt_location, only.stmt_len)));
    }
    let mut firing = tree.iter().filter(|raw| fires_event_triggers(raw.stmt()));
    let found = firing.clone().nth(nth).map(|raw| text(raw.stmt_location, raw.stmt_len));
    found.ok_or_else(|| Error::NoSuchStatement { nth, count: firing.by_ref().count(), sql: sql.to_owned() })
}

/// PostgreSQL documentation, "Event Trigger Firing Matrix": commands on local objects. Global objects (roles, databases) fire none.
fn fires_event_triggers(node: Node<'_>) -> bool {
    match node {
        Node::SelectStmt(select) => select.into_clause().is_some(),
        Node::GrantStmt(grant) => !is_global(grant.objtype),
        Node::DropStmt(drop) => !is_global(drop.remove_type),
        Node::RenameStmt(rename) => !is_global(rename.rename_type),
        Node::AlterOwnerStmt(alter) => !is_global(alter.object_type),
        Node::CommentStmt(comment) => !is_global(comment.objtype),
        Node::SecLabelStmt(label) => !is_global(label.objtype),
        Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_)
        | Node::TransactionStmt(_)
        | Node::VariableSetStmt(_)
        | Node::VariableShowStmt(_)
        | Node::ConstraintsSetStmt(_)
        | Node::CopyStmt(_)
        | Node::ExplainStmt(_)
        | Node::PrepareStmt(_)
        | Node::ExecuteStmt(_)
        | Node::DeallocateStmt(_)
        | Node::DeclareCursorStmt(_)
        | Node::FetchStmt(_)
        | Node::ClosePortalStmt(_)
        | Node::ListenStmt(_)
        | Node::UnlistenStmt(_)
        | Node::NotifyStmt(_)
        | Node::LockStmt(_)
        | Node::TruncateStmt(_)
        | Node::VacuumStmt(_)
        | Node::ClusterStmt(_)
        | Node::ReindexStmt(_)
        | Node::CheckPointStmt(_)
        | Node::DiscardStmt(_)
        | Node::DoStmt(_)
        | Node::CallStmt(_)
        | Node::LoadStmt(_)
        | Node::CreatedbStmt(_)
        | Node::AlterDatabaseStmt(_)
        | Node::AlterDatabaseSetStmt(_)
        | Node::DropdbStmt(_)
        | Node::CreateTableSpaceStmt(_)
        | Node::DropTableSpaceStmt(_)
        | Node::AlterSystemStmt(_)
        | Node::AlterDatabaseRefreshCollStmt(_)
        | Node::CreateRoleStmt(_)
        | Node::AlterRoleStmt(_)
        | Node::AlterRoleSetStmt(_)
        | Node::DropRoleStmt(_)
        | Node::GrantRoleStmt(_)
        | Node::CreateEventTrigStmt(_)
        | Node::AlterEventTrigStmt(_) => false,
        _ => true,
    }
}

fn is_global(object: ObjectType::Type) -> bool {
    use ObjectType::{OBJECT_DATABASE, OBJECT_EVENT_TRIGGER, OBJECT_PARAMETER_ACL, OBJECT_ROLE, OBJECT_TABLESPACE};
    [OBJECT_DATABASE, OBJECT_EVENT_TRIGGER, OBJECT_PARAMETER_ACL, OBJECT_ROLE, OBJECT_TABLESPACE].contains(&object)
}

/// CONCURRENTLY cannot run inside a transaction, and on a follower nobody writes meanwhile: the plain form does the same.
fn without_concurrently(sql: &str) -> String {
    let words = words(sql);
    let word = |at: usize| words.get(at).map(|(_, text)| text.to_ascii_uppercase());
    let at_index = match (word(0).as_deref(), word(1).as_deref()) {
        (Some("CREATE"), Some("UNIQUE")) => Some(2),
        (Some("CREATE" | "DROP"), _) => Some(1),
        _ => None,
    };
    let cut = match at_index {
        Some(at) if word(at).as_deref() == Some("INDEX") => Some(at + 1).filter(|at| word(*at).as_deref() == Some("CONCURRENTLY")),
        Some(_) => None,
        None => detach_concurrently(&words),
    };
    let Some((start, text)) = cut.map(|at| words[at]) else { return sql.to_owned() };
    format!("{}{}", &sql[..start], &sql[start + text.len()..])
}

/// ALTER TABLE ... DETACH PARTITION name CONCURRENTLY.
fn detach_concurrently(words: &[(usize, &str)]) -> Option<usize> {
    let is = |at: usize, text: &str| words.get(at).is_some_and(|(_, word)| word.eq_ignore_ascii_case(text));
    let last = words.len().checked_sub(1)?;
    let detaches = is(0, "ALTER") && is(1, "TABLE") && (2..last).any(|at| is(at, "DETACH") && is(at + 1, "PARTITION"));
    (detaches && is(last, "CONCURRENTLY")).then_some(last)
}

/// The bare words of a statement and where they are; comments, strings and quoted names are passed over.
fn words(sql: &str) -> Vec<(usize, &str)> {
    let bytes = sql.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let rest = &sql.as_bytes()[at..];
        at += match rest[0] {
            b'-' if rest.starts_with(b"--") => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => comment_len(rest),
            quote @ (b'"' | b'\'') => rest[1..].iter().position(|byte| *byte == quote).map_or(rest.len(), |end| end + 2),
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                let len = rest.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').unwrap_or(rest.len());
                out.push((at, &sql[at..at + len]));
                len
            }
            _ => 1,
        };
    }
    out
}

/// Comments nest.
fn comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ddl(sql: &str, nth: usize) -> Result<String, Error> {
        let (tag, search_path, role) = (String::new(), String::new(), String::new());
        Ddl { tag, sql: sql.to_owned(), nth, search_path, role, settings: BTreeMap::new(), missing: Vec::new(), creates: None }.statement()
    }

    #[test]
    fn the_statement_is_found_among_others_and_keeps_its_text() {
        let sql = "BEGIN; GRANT CONNECT ON DATABASE d TO r; COMMENT ON ROLE r IS ''; INSERT INTO t VALUES (';'); CREATE  TABLE a (x int) /* one */; SELECT 1;\n\
                   CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; SELECT 2 $$; SELECT 1 AS x INTO b; CREATE ROLE r; DROP TABLE a; COMMIT";
        assert_eq!(ddl(sql, 0).unwrap(), "CREATE  TABLE a (x int) /* one */");
        assert_eq!(ddl(sql, 1).unwrap(), "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; SELECT 2 $$");
        assert_eq!(ddl(sql, 2).unwrap(), "SELECT 1 AS x INTO b");
        assert_eq!(ddl(sql, 3).unwrap(), "DROP TABLE a");
        assert!(matches!(ddl(sql, 4), Err(Error::NoSuchStatement { nth: 4, .. })));
    }

    #[test]
    fn text_that_the_parser_does_not_know_is_taken_as_it_is() {
        assert_eq!(ddl("CREATE SPACESHIP s", 0).unwrap(), "CREATE SPACESHIP s");
    }

    #[test]
    fn names_outside_ascii_do_not_shift_the_text() {
        assert_eq!(ddl("SELECT 'ä'; CREATE TABLE \"größe\" (x int); SELECT 1", 0).unwrap(), "CREATE TABLE \"größe\" (x int)");
    }

    #[test]
    fn concurrently_goes_where_it_is_the_keyword() {
        for (given, expected) in [
            ("CREATE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX  i ON t (a)"),
            ("create unique /* CONCURRENTLY */ index concurrently on t (a)", "create unique /* CONCURRENTLY */ index  on t (a)"),
            ("DROP INDEX CONCURRENTLY IF EXISTS i", "DROP INDEX  IF EXISTS i"),
            ("ALTER TABLE p DETACH PARTITION q CONCURRENTLY", "ALTER TABLE p DETACH PARTITION q "),
            ("CREATE INDEX \"CONCURRENTLY\" ON t (a)", "CREATE INDEX \"CONCURRENTLY\" ON t (a)"),
            ("CREATE TABLE concurrently (x int)", "CREATE TABLE concurrently (x int)"),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", "REFRESH MATERIALIZED VIEW CONCURRENTLY m"),
        ] {
            assert_eq!(without_concurrently(given), expected);
        }
    }

    #[test]
    fn statements_that_may_give_a_sequence_another_range_are_told() {
        let (tag, sql, search_path, role) = (String::new(), String::new(), String::new(), String::new());
        let any = Ddl { tag, sql, nth: 0, search_path, role, settings: BTreeMap::new(), missing: Vec::new(), creates: None };
        let restarting = "ALTER SEQUENCE s MAXVALUE 5 -- five\nRESTART".to_owned();
        assert_eq!(any.ranged("ALTER SEQUENCE s MAXVALUE 5 -- five"), Some(Ranged::Sequence { restarting }));
        let table = |schema: Option<&str>, table: &str| Some(Ranged::Table { schema: schema.map(str::to_owned), table: table.to_owned() });
        assert_eq!(any.ranged("ALTER TABLE \"A\".t ALTER id TYPE smallint"), table(Some("A"), "t"));
        assert_eq!(any.ranged("ALTER TABLE ONLY t ALTER id SET MAXVALUE 9"), table(None, "t"));
        assert_eq!(any.ranged("ALTER SEQUENCE s RENAME TO t"), None);
        assert_eq!(any.ranged("CREATE TABLE t ()"), None);
    }

    #[test]
    fn messages_are_read() {
        let json =
            r#"{"kind":"ddl","tag":"CREATE TABLE","sql":"CREATE TABLE a ()","nth":0,"search_path":"public","role":"app","missing":[]}"#;
        assert!(matches!(Command::parse(json.as_bytes()), Ok(Command::Ddl(_))));
        assert!(matches!(Command::parse(br#"{"kind":"roles","roles":[],"members":[],"db_settings":[]}"#), Ok(Command::Roles(_))));
        assert!(matches!(Command::parse(br#"{"kind":"spaceship"}"#), Err(Error::Unknown(_))));
    }
}

//! Statements that change or show the state of the session: transactions, settings, DISCARD, DEALLOCATE.

use super::effects::const_bool;
use super::statement::{Begin, Discard, Isolation, Kind, PinReasons, Refusal, Scope, SetValue};
use super::utility::{Judged, owned, unpinned};
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{DiscardMode, FuncCall, SelectStmt, TransactionStmt, TransactionStmtKind, VariableSetKind, VariableSetStmt};
use pg_raw_parse::{ConstValue, Node};
use std::borrow::Cow;

/// None where the statement is not of these.
pub(super) fn kind(node: Node<'_>) -> Option<Judged> {
    let kind = match node {
        Node::TransactionStmt(transaction) => self::transaction(transaction),
        Node::VariableSetStmt(set) => return Some(self::set(set)),
        Node::VariableShowStmt(show) => Kind::Show(setting_name(show.name())),
        Node::DiscardStmt(discard) => Kind::Discard(match discard.target {
            DiscardMode::DISCARD_PLANS => Discard::Plans,
            DiscardMode::DISCARD_SEQUENCES => Discard::Sequences,
            DiscardMode::DISCARD_TEMP => Discard::Temp,
            _ => Discard::All,
        }),
        Node::DeallocateStmt(deallocate) => Kind::Deallocate(deallocate.name().filter(|_| !deallocate.isall).map(Into::into)),
        _ => return None,
    };
    Some(unpinned(kind))
}

fn transaction(transaction: &TransactionStmt) -> Kind {
    let chain = transaction.chain;
    let name = || owned(transaction.savepoint_name());
    match transaction.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN | TransactionStmtKind::TRANS_STMT_START => {
            Kind::Begin(transaction_modes(transaction.options()))
        }
        TransactionStmtKind::TRANS_STMT_COMMIT => Kind::Commit { chain },
        TransactionStmtKind::TRANS_STMT_ROLLBACK => Kind::Rollback { chain },
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => Kind::Savepoint(name()),
        TransactionStmtKind::TRANS_STMT_RELEASE => Kind::Release(name()),
        TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => Kind::RollbackTo(name()),
        TransactionStmtKind::TRANS_STMT_PREPARE => Kind::Refused(Refusal::PrepareTransaction),
        TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED => Kind::CommitPrepared,
        TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => Kind::RollbackPrepared,
        _ => Kind::Write,
    }
}

fn transaction_modes(options: &NodeList) -> Begin {
    let mut begin = Begin::default();
    for option in options {
        let Node::DefElem(option) = option else { continue };
        match option.defname() {
            Some("transaction_read_only") => begin.read_only = mode_bool(option.arg()),
            Some("transaction_deferrable") => begin.deferrable = mode_bool(option.arg()),
            Some("transaction_isolation") => begin.isolation = isolation(option.arg()),
            _ => {}
        }
    }
    begin
}

fn mode_bool(arg: Node<'_>) -> Option<bool> {
    match arg {
        Node::A_Const(constant) => match constant.val()? {
            ConstValue::Integer(value) => Some(value != 0),
            ConstValue::Boolean(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

fn isolation(arg: Node<'_>) -> Option<Isolation> {
    match &*const_text(arg)? {
        "read uncommitted" => Some(Isolation::ReadUncommitted),
        "read committed" => Some(Isolation::ReadCommitted),
        "repeatable read" => Some(Isolation::RepeatableRead),
        "serializable" => Some(Isolation::Serializable),
        _ => None,
    }
}

/// Settings that a client must not choose: they let a commit be acknowledged before the group has it, or hide it from the capture.
const GATE_SETTINGS: [&str; 4] = ["event_triggers", "session_replication_role", "synchronous_commit", "synchronous_standby_names"];

pub(super) fn is_gate_setting(name: &str) -> bool {
    GATE_SETTINGS.iter().any(|setting| setting.eq_ignore_ascii_case(name))
}

/// Gives such a setting a value, whatever the statement gives it to: the session, a role, a database, a function.
pub(super) fn sets_gate(set: &VariableSetStmt) -> bool {
    let gives_value = matches!(set.kind, VariableSetKind::VAR_SET_VALUE | VariableSetKind::VAR_SET_CURRENT);
    gives_value && set.name().is_some_and(is_gate_setting)
}

fn set(set: &VariableSetStmt) -> Judged {
    if sets_gate(set) {
        return unpinned(Kind::Refused(Refusal::GateSetting));
    }
    let scope = if set.is_local { Scope::Local } else { Scope::Session };
    let name = setting_name(set.name());
    let kind = match set.kind {
        VariableSetKind::VAR_SET_VALUE => Kind::Set { scope, value: set_value(&name, set.args()), name },
        VariableSetKind::VAR_SET_DEFAULT => Kind::Set { scope, name, value: SetValue::Default },
        VariableSetKind::VAR_RESET => Kind::Reset(name),
        VariableSetKind::VAR_RESET_ALL => Kind::ResetAll,
        VariableSetKind::VAR_SET_MULTI => match &*name {
            "transaction" => Kind::SetTransaction { scope: Scope::Local, begin: transaction_modes(set.args()) },
            "session characteristics" => Kind::SetTransaction { scope: Scope::Session, begin: transaction_modes(set.args()) },
            "transaction snapshot" => Kind::SetSnapshot,
            _ => Kind::Set { scope, name, value: SetValue::Opaque },
        },
        _ => Kind::Set { scope, name, value: SetValue::Opaque },
    };
    let opaque = matches!(kind, Kind::Set { scope: Scope::Session, value: SetValue::Opaque, .. });
    (kind, if opaque { PinReasons::SETTING } else { PinReasons::NONE })
}

/// Names of settings are compared without case by the server.
fn setting_name(name: Option<&str>) -> Box<str> {
    name.unwrap_or_default().to_ascii_lowercase().into_boxed_str()
}

/// Settings whose value is a list of names, each quoted where it needs it.
const LISTS_OF_NAMES: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Puts the arguments of SET together as the server does before it parses the value.
fn set_value(name: &str, args: &NodeList) -> SetValue {
    let quoted = LISTS_OF_NAMES.contains(&name);
    let mut value = String::new();
    for (nth, arg) in args.iter().enumerate() {
        let Some(text) = const_text(arg) else { return SetValue::Opaque };
        if nth > 0 {
            value.push_str(", ");
        }
        if quoted {
            value.push_str(&quote_name(&text));
        } else {
            value.push_str(&text);
        }
    }
    SetValue::Text(value.into_boxed_str())
}

/// As the server prints it, but for reserved words, which need no quotes inside a value.
fn quote_name(name: &str) -> Cow<'_, str> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let rest = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if first && rest { Cow::Borrowed(name) } else { Cow::Owned(format!("\"{}\"", name.replace('"', "\"\""))) }
}

fn const_text(arg: Node<'_>) -> Option<Box<str>> {
    let Node::A_Const(constant) = arg else { return None };
    match constant.val()? {
        ConstValue::Integer(value) => Some(value.to_string().into()),
        ConstValue::Boolean(value) => Some(value.to_string().into()),
        ConstValue::Float(text) | ConstValue::String(text) => Some(text.into()),
        _ => None,
    }
}

/// `SELECT set_config(name, value, is_local)` with constants and nothing beside it.
pub(super) fn set_config_call(select: &SelectStmt) -> Option<Kind> {
    let bare = select.from_clause().is_empty()
        && matches!(select.where_clause(), Node::None)
        && matches!(select.having_clause(), Node::None)
        && matches!(select.limit_count(), Node::None)
        && matches!(select.limit_offset(), Node::None)
        && select.into_clause().is_none()
        && select.with_clause().is_none()
        && select.larg().is_none();
    if !bare || select.target_list().len() != 1 {
        return None;
    }
    let Node::FuncCall(call) = select.target_list().first()?.val() else { return None };
    if !is_set_config(call) || call.args().len() != 3 {
        return None;
    }
    let name = const_text(call.args().get(0)?).filter(|name| !is_gate_setting(name))?;
    let value = const_text(call.args().get(1)?)?;
    let scope = if const_bool(call.args().get(2)?)? { Scope::Local } else { Scope::Session };
    Some(Kind::SetConfig { scope, name: setting_name(Some(&name)), value })
}

fn is_set_config(call: &FuncCall) -> bool {
    let mut name = call.funcname().iter().map(Node::as_str);
    matches!(
        (name.next(), name.next(), name.next()),
        (Some(Some("set_config")), None, None) | (Some(Some("pg_catalog")), Some(Some("set_config")), None)
    )
}

impl Begin {
    /// The settings that SET SESSION CHARACTERISTICS stands for.
    pub(crate) fn session_settings(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let on_off = |on| if on { "on" } else { "off" };
        [
            self.isolation.map(|isolation| ("default_transaction_isolation", isolation.as_str())),
            self.read_only.map(|on| ("default_transaction_read_only", on_off(on))),
            self.deferrable.map(|on| ("default_transaction_deferrable", on_off(on))),
        ]
        .into_iter()
        .flatten()
    }
}

impl Isolation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ReadUncommitted => "read uncommitted",
            Self::ReadCommitted => "read committed",
            Self::RepeatableRead => "repeatable read",
            Self::Serializable => "serializable",
        }
    }
}

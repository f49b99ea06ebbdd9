//! One statement of the parser to one [`Kind`], with what it pins.

use super::effects::{Effects, inspect};
use super::statement::{Kind, PinReasons, Refusal, Route};
use super::{ddl, session};
use pg_raw_parse::Node;
use pg_raw_parse::list::CastNodeList;
use pg_raw_parse::nodes::{CopyStmt, DeclareCursorStmt, DefElem, ExplainStmt, IntoClause, LockStmt, RangeVar, SelectStmt};
use pg_raw_parse::raw::CURSOR_OPT_HOLD;

/// A kind and what keeps the session on its connection afterwards.
pub(super) type Judged = (Kind, PinReasons);

pub(super) fn kind(node: Node<'_>) -> Judged {
    match node {
        Node::SelectStmt(select) => self::select(select),
        Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => query(node),
        Node::CopyStmt(copy) => self::copy(copy),
        Node::ExplainStmt(explain) => self::explain(explain),
        Node::PrepareStmt(prepare) => {
            let (inner, _) = kind(prepare.query());
            match inner {
                Kind::Refused(why) => unpinned(Kind::Refused(why)),
                inner => (Kind::Prepare { name: owned(prepare.name()), inner: Box::new(inner) }, PinReasons::PREPARED),
            }
        }
        Node::ExecuteStmt(execute) => with_effects(Kind::Execute(owned(execute.name())), inspect(Node::NodeList(execute.params()))),
        Node::DeclareCursorStmt(declare) => self::declare_cursor(declare),
        Node::FetchStmt(_) => unpinned(Kind::Fetch),
        Node::ClosePortalStmt(_) => unpinned(Kind::Close),
        Node::ListenStmt(listen) => (Kind::Listen(owned(listen.conditionname())), PinReasons::LISTEN),
        Node::UnlistenStmt(unlisten) => unpinned(Kind::Unlisten(unlisten.conditionname().map(Into::into))),
        Node::NotifyStmt(notify) => unpinned(Kind::Notify(owned(notify.conditionname()))),
        Node::LockStmt(lock) => unpinned(self::lock_table(lock)),
        Node::CallStmt(call) => {
            with_effects(Kind::Call, call.funccall().map_or_else(|| inspect(Node::None), |call| inspect(Node::FuncCall(call))))
        }
        Node::DoStmt(_) => unpinned(Kind::Do),
        Node::LoadStmt(_) => (Kind::Write, PinReasons::LIBRARY),
        node => session::kind(node).unwrap_or_else(|| ddl::kind(node)),
    }
}

pub(super) fn unpinned(kind: Kind) -> Judged {
    (kind, PinReasons::NONE)
}

pub(super) fn owned(name: Option<&str>) -> Box<str> {
    name.unwrap_or_default().into()
}

/// The kind, unless something in the statement is refused, with the pins of what it calls.
pub(super) fn with_effects(kind: Kind, effects: Effects) -> Judged {
    (effects.refused.map_or(kind, Kind::Refused), effects.pins)
}

/// Anything that is planned and executed: a read only where that is proven.
pub(super) fn query(node: Node<'_>) -> Judged {
    let effects = inspect(node);
    with_effects(if effects.read { Kind::Read } else { Kind::Write }, effects)
}

fn select(select: &SelectStmt) -> Judged {
    if let Some(call) = session::set_config_call(select) {
        return unpinned(call);
    }
    let (kind, pins) = query(Node::SelectStmt(select));
    match (kind, into_clause(select)) {
        (Kind::Write, Some(into)) => {
            let (kind, temporary) = ddl::created_into(into);
            (kind, pins | temporary)
        }
        (kind, _) => (kind, pins),
    }
}

/// SELECT ... INTO; of a set operation it stands in the first branch.
fn into_clause(mut select: &SelectStmt) -> Option<&IntoClause> {
    while let Some(left) = select.larg() {
        select = left;
    }
    select.into_clause()
}

fn copy(copy: &CopyStmt) -> Judged {
    let piped = copy.filename().is_none() && !copy.is_program;
    if copy.is_from {
        return with_effects(Kind::CopyFrom { stdin: piped }, inspect(copy.where_clause()));
    }
    let (inner, pins) = match copy.query() {
        Node::None => unpinned(Kind::Read),
        inner => kind(inner),
    };
    match inner {
        Kind::Refused(why) => (Kind::Refused(why), pins),
        inner => (Kind::CopyTo { stdout: piped, read: inner.route() == Route::Read }, pins),
    }
}

/// Without ANALYZE nothing is executed, so nothing is refused and nothing stays behind.
fn explain(explain: &ExplainStmt) -> Judged {
    let analyze = option(explain.options(), "analyze");
    match kind(explain.query()) {
        (Kind::Refused(why), pins) if analyze => (Kind::Refused(why), pins),
        (inner, pins) => {
            (Kind::Explain { analyze, inner: Box::new(inner) }, if analyze { pins.beyond_transaction() } else { PinReasons::NONE })
        }
    }
}

/// Whether the option is on: named, and not with a value that says no. The last one counts.
pub(super) fn option(options: &CastNodeList<DefElem>, name: &str) -> bool {
    let last = options.iter().rfind(|option| option.defname() == Some(name));
    last.is_some_and(|option| match option.arg() {
        Node::Integer(value) => value.ival != 0,
        Node::Boolean(value) => value.boolval,
        Node::String(value) => {
            !matches!(value.sval(), Some(no) if ["false", "off", "no", "0", "f", "n"].iter().any(|word| no.eq_ignore_ascii_case(word)))
        }
        _ => true,
    })
}

fn declare_cursor(declare: &DeclareCursorStmt) -> Judged {
    let (inner, pins) = kind(declare.query());
    if let Kind::Refused(why) = inner {
        return (Kind::Refused(why), pins);
    }
    let hold = declare.options.cast_unsigned() & CURSOR_OPT_HOLD != 0;
    let pin = if hold { PinReasons::HOLD_CURSOR } else { PinReasons::CURSOR };
    (Kind::DeclareCursor { name: owned(declare.portalname()), hold }, pins | pin)
}

fn lock_table(lock: &LockStmt) -> Kind {
    let catalog = lock.relations().iter().any(|relation| matches!(relation, Node::RangeVar(relation) if is_catalog(relation)));
    if catalog { Kind::Refused(Refusal::CatalogLock) } else { Kind::LockTable }
}

/// A table of `pg_catalog`. Its tables' names begin with `pg_`, and no user table may shadow them.
pub(super) fn is_catalog(relation: &RangeVar) -> bool {
    match relation.schemaname() {
        Some(schema) => schema == "pg_catalog" || schema == "pg_toast",
        None => relation.relname().is_some_and(|name| name.starts_with("pg_")),
    }
}

//! Statements that define things: what each belongs to decides how it gets to the other nodes, or that it cannot.
//!
//! | belongs to | carried by | kind |
//! |---|---|---|
//! | the database | event triggers on the leader | [`Kind::Ddl`] |
//! | the server, known to Howdah | the proxy calls the capture function in the same transaction | [`Kind::GlobalDdl`] |
//! | the session | nothing: the session stays on its connection | [`Kind::CreateTemp`] |
//! | one server for good reason | nothing | [`Kind::Refused`] |

use super::effects::inspect;
use super::session::sets_gate;
use super::statement::{Kind, PinReasons, Refusal};
use super::utility::{Judged, is_catalog, kind as kind_of_inner, option, unpinned};
use pg_raw_parse::Node;
use pg_raw_parse::list::CastNodeList;
use pg_raw_parse::nodes::{
    AlterTableStmt, AlterTableType, CreateTableAsStmt, DefElem, IntoClause, ObjectType, OnCommitAction, RangeVar, ReindexObjectType,
    ReindexStmt, VacuumStmt,
};

/// Everything that is no query and does not speak of the session.
pub(super) fn kind(node: Node<'_>) -> Judged {
    match node {
        Node::CreateStmt(create) => created(create.relation(), create.oncommit),
        Node::ViewStmt(view) => created(view.view(), OnCommitAction::ONCOMMIT_NOOP),
        Node::CreateSeqStmt(create) => created(create.sequence(), OnCommitAction::ONCOMMIT_NOOP),
        Node::CreateTableAsStmt(create) => create_table_as(create),
        node => {
            unpinned(maintenance(node).or_else(|| refused(node).map(Kind::Refused)).or_else(|| global(node)).unwrap_or_else(|| local(node)))
        }
    }
}

/// The relation that a statement creates: is it the session's own?
fn created(relation: Option<&RangeVar>, on_commit: OnCommitAction::Type) -> Judged {
    const TEMPORARY: u8 = b't';
    let temporary = relation.is_some_and(|relation| {
        relation.relpersistence.cast_unsigned() == TEMPORARY || relation.schemaname().is_some_and(|schema| schema.starts_with("pg_temp"))
    });
    match (temporary, on_commit) {
        (false, _) => unpinned(Kind::Ddl),
        // Gone with the transaction, which is on one connection anyway.
        (true, OnCommitAction::ONCOMMIT_DROP) => unpinned(Kind::CreateTemp),
        (true, _) => (Kind::CreateTemp, PinReasons::TEMP_TABLE),
    }
}

pub(super) fn created_into(into: &IntoClause) -> Judged {
    created(into.rel(), into.on_commit)
}

fn create_table_as(create: &CreateTableAsStmt) -> Judged {
    let (inner, inner_pins) = kind_of_inner(create.query());
    if let Kind::Refused(why) = inner {
        return (Kind::Refused(why), inner_pins);
    }
    let (kind, pins) = create.into().map_or_else(|| unpinned(Kind::Ddl), created_into);
    (kind, pins | inspect(create.query()).pins)
}

/// What names the session's own schema in another way than as a table: a function, a type.
pub(super) fn temporary_schema_pin(kind: &Kind, text: &str) -> PinReasons {
    const SCHEMA: &[u8] = b"pg_temp";
    let names_it = || text.as_bytes().windows(SCHEMA.len()).any(|word| word.eq_ignore_ascii_case(SCHEMA));
    if *kind == Kind::Ddl && names_it() { PinReasons::TEMP_TABLE } else { PinReasons::NONE }
}

/// Work on files and statistics, and what cannot run in a transaction block.
fn maintenance(node: Node<'_>) -> Option<Kind> {
    match node {
        Node::VacuumStmt(vacuum) => Some(self::vacuum(vacuum)),
        Node::ReindexStmt(reindex) => Some(self::reindex(reindex)),
        Node::ClusterStmt(cluster) => Some(match cluster.relation() {
            Some(relation) if is_catalog(relation) => Kind::Refused(Refusal::CatalogLock),
            Some(_) => Kind::Write,
            None => Kind::NonTransactional,
        }),
        Node::IndexStmt(index) if index.concurrent => Some(Kind::NonTransactional),
        Node::DropStmt(drop) if drop.concurrent => Some(Kind::NonTransactional),
        Node::AlterTableStmt(alter) if detaches_concurrently(alter) => Some(Kind::NonTransactional),
        Node::CheckPointStmt(_) | Node::ConstraintsSetStmt(_) | Node::TruncateStmt(_) => Some(Kind::Write),
        _ => None,
    }
}

/// A commit waits for the gate with its locks held, and the gate reads the catalogs: a lock on one of them would wait for itself.
fn vacuum(vacuum: &VacuumStmt) -> Kind {
    if !vacuum.is_vacuumcmd {
        return Kind::Write;
    }
    let mut relations = vacuum.rels().iter();
    let catalogs = vacuum.rels().is_empty() || relations.any(|one| one.relation().is_some_and(is_catalog));
    if catalogs && option(vacuum.options(), "full") { Kind::Refused(Refusal::CatalogLock) } else { Kind::NonTransactional }
}

fn reindex(reindex: &ReindexStmt) -> Kind {
    match reindex.kind {
        ReindexObjectType::REINDEX_OBJECT_SYSTEM | ReindexObjectType::REINDEX_OBJECT_DATABASE => Kind::Refused(Refusal::CatalogLock),
        _ if reindex.relation().is_some_and(is_catalog) => Kind::Refused(Refusal::CatalogLock),
        _ if reindex.name() == Some("pg_catalog") => Kind::Refused(Refusal::CatalogLock),
        ReindexObjectType::REINDEX_OBJECT_SCHEMA => Kind::NonTransactional,
        _ if option(reindex.params(), "concurrently") => Kind::NonTransactional,
        _ => Kind::Write,
    }
}

fn detaches_concurrently(alter: &AlterTableStmt) -> bool {
    alter.cmds().iter().any(|command| match command {
        Node::AlterTableCmd(command) => {
            command.subtype == AlterTableType::AT_DetachPartition
                && matches!(command.def(), Node::PartitionCmd(partition) if partition.concurrent)
        }
        _ => false,
    })
}

fn refused(node: Node<'_>) -> Option<Refusal> {
    match node {
        Node::CreatedbStmt(_) | Node::DropdbStmt(_) | Node::AlterDatabaseStmt(_) | Node::AlterDatabaseRefreshCollStmt(_) => {
            Some(Refusal::Database)
        }
        Node::AlterSystemStmt(_) => Some(Refusal::AlterSystem),
        Node::CreateTableSpaceStmt(_)
        | Node::DropTableSpaceStmt(_)
        | Node::AlterTableSpaceOptionsStmt(_)
        | Node::AlterTableMoveAllStmt(_) => Some(Refusal::Tablespace),
        Node::CreatePublicationStmt(_) | Node::AlterPublicationStmt(_) => Some(Refusal::Publication),
        Node::CreateSubscriptionStmt(_) | Node::AlterSubscriptionStmt(_) | Node::DropSubscriptionStmt(_) => Some(Refusal::Subscription),
        Node::CreateEventTrigStmt(_) | Node::AlterEventTrigStmt(_) => Some(Refusal::EventTrigger),
        Node::AlterRoleSetStmt(alter) => alter.setstmt().filter(|set| sets_gate(set)).map(|_| Refusal::GateSetting),
        Node::AlterDatabaseSetStmt(alter) => alter.setstmt().filter(|set| sets_gate(set)).map(|_| Refusal::GateSetting),
        Node::CreateFunctionStmt(create) => function_sets_gate(create.options()),
        Node::AlterFunctionStmt(alter) => function_sets_gate(alter.actions()),
        Node::SecLabelStmt(_) => Some(Refusal::SecurityLabel),
        Node::DropStmt(drop) => refused_object(drop.remove_type),
        Node::RenameStmt(rename) => refused_object(rename.rename_type),
        Node::AlterOwnerStmt(owner) => refused_object(owner.object_type),
        Node::GrantStmt(grant) => match grant.objtype {
            ObjectType::OBJECT_DATABASE | ObjectType::OBJECT_PARAMETER_ACL => Some(Refusal::SharedGrant),
            object => refused_object(object),
        },
        Node::CommentStmt(comment) => match comment.objtype {
            ObjectType::OBJECT_DATABASE | ObjectType::OBJECT_ROLE | ObjectType::OBJECT_TABLESPACE => Some(Refusal::CommentOnShared),
            object => refused_object(object),
        },
        _ => None,
    }
}

/// CREATE FUNCTION ... SET name = value.
fn function_sets_gate(options: &CastNodeList<DefElem>) -> Option<Refusal> {
    let sets = options.iter().any(|option| matches!(option.arg(), Node::VariableSetStmt(set) if sets_gate(set)));
    sets.then_some(Refusal::GateSetting)
}

fn refused_object(object: ObjectType::Type) -> Option<Refusal> {
    match object {
        ObjectType::OBJECT_DATABASE => Some(Refusal::Database),
        ObjectType::OBJECT_TABLESPACE => Some(Refusal::Tablespace),
        ObjectType::OBJECT_PUBLICATION => Some(Refusal::Publication),
        ObjectType::OBJECT_SUBSCRIPTION => Some(Refusal::Subscription),
        ObjectType::OBJECT_EVENT_TRIGGER => Some(Refusal::EventTrigger),
        ObjectType::OBJECT_LARGEOBJECT => Some(Refusal::LargeObject),
        _ => None,
    }
}

/// What belongs to the server and is carried by capturing roles and their settings after it.
fn global(node: Node<'_>) -> Option<Kind> {
    let global = match node {
        Node::CreateRoleStmt(_)
        | Node::AlterRoleStmt(_)
        | Node::AlterRoleSetStmt(_)
        | Node::DropRoleStmt(_)
        | Node::GrantRoleStmt(_)
        | Node::ReassignOwnedStmt(_)
        | Node::DropOwnedStmt(_)
        | Node::AlterDatabaseSetStmt(_) => true,
        Node::RenameStmt(rename) => rename.rename_type == ObjectType::OBJECT_ROLE,
        _ => false,
    };
    global.then_some(Kind::GlobalDdl)
}

/// What event triggers see, and what this grammar's binding has no name for.
fn local(node: Node<'_>) -> Kind {
    match node {
        Node::None | Node::Invalid(_) => Kind::Write,
        _ => Kind::Ddl,
    }
}

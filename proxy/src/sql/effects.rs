//! What a query does, found by a walk over its tree.
//!
//! The parser's own walker recurses without a guard, and `1+1+1+...` makes a tree as deep as the text is long. So it is asked for one
//! level of children at a time, and the nodes still to visit wait on a stack in the heap, never more than the tree has. It fails on
//! nodes of utility statements; those are not expanded and count as a write, as does any node that is not known here.

use super::functions::{Effect, effect};
use super::session;
use super::statement::{PinReasons, Refusal};
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{FuncCall, RangeVar};
use pg_raw_parse::walk::{Recurse, walk_manual};
use pg_raw_parse::{ConstValue, Node};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effects {
    /// Nothing was found that could change anything.
    pub(super) read: bool,
    pub(super) pins: PinReasons,
    pub(super) refused: Option<Refusal>,
}

/// Looks at everything below and including this statement or expression.
pub(super) fn inspect(root: Node<'_>) -> Effects {
    let mut effects = Effects { read: true, pins: PinReasons::NONE, refused: None };
    let mut unvisited = vec![root];
    while let Some(node) = unvisited.pop() {
        match node {
            // The walker expects a list to hold nodes that it knows; pushing them ourselves lets every one be looked at first.
            Node::NodeList(list) => unvisited.extend(list),
            node => {
                effects.note(node);
                if is_expandable(node) {
                    walk_manual::<()>(node, |child| {
                        unvisited.push(child);
                        Recurse::no()
                    });
                }
            }
        }
    }
    effects
}

impl Effects {
    /// What this one node does, without its children.
    fn note(&mut self, node: Node<'_>) {
        match node {
            Node::None => {}
            Node::SelectStmt(select) => {
                self.read &= select.into_clause().is_none() && select.locking_clause().is_empty();
            }
            Node::FuncCall(call) => self.note_call(call),
            Node::RangeTableSample(sample) => self.read &= is_built_in_sampling(sample.method()),
            Node::UpdateStmt(update) => {
                self.read = false;
                // A rule of that view calls set_config.
                if update.relation().and_then(RangeVar::relname) == Some("pg_settings") {
                    self.pins |= PinReasons::SETTING;
                }
            }
            Node::InsertStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => self.read = false,
            node => self.read &= is_expandable(node) || is_leaf(node),
        }
    }

    fn note_call(&mut self, call: &FuncCall) {
        let effect = effect(call.funcname());
        self.read &= effect == Effect::Harmless;
        match effect {
            Effect::Harmless | Effect::Write => {}
            Effect::SessionLock => self.pins |= PinReasons::SESSION_LOCK,
            Effect::Seed => self.pins |= PinReasons::SEED,
            Effect::SetConfig if call.args().get(0).is_some_and(is_gate_setting) => self.refused = Some(Refusal::GateSetting),
            // What is set until the end of the transaction needs no connection beyond it.
            Effect::SetConfig if call.args().get(2).and_then(const_bool) == Some(true) => {}
            Effect::SetConfig => self.pins |= PinReasons::SETTING,
            Effect::Refused(why) => self.refused = Some(why),
        }
    }
}

/// The constant truth value of this expression, in the spellings that clients use.
pub(super) fn const_bool(node: Node<'_>) -> Option<bool> {
    let Node::A_Const(constant) = node else { return None };
    match constant.val()? {
        ConstValue::Boolean(value) => Some(value),
        ConstValue::String(text) => match text.to_ascii_lowercase().as_str() {
            "t" | "true" | "on" | "yes" | "1" => Some(true),
            "f" | "false" | "off" | "no" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn is_gate_setting(name: Node<'_>) -> bool {
    let Node::A_Const(constant) = name else { return false };
    matches!(constant.val(), Some(ConstValue::String(name)) if session::is_gate_setting(name))
}

fn is_built_in_sampling(method: &NodeList) -> bool {
    method.iter().all(|part| matches!(part.as_str(), Some("pg_catalog" | "system" | "bernoulli")))
}

/// Nodes without children that stand in expressions and mean nothing by themselves.
fn is_leaf(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::Integer(_)
            | Node::Float(_)
            | Node::Boolean(_)
            | Node::String(_)
            | Node::BitString(_)
            | Node::ParamRef(_)
            | Node::A_Const(_)
            | Node::A_Star(_)
            | Node::Alias(_)
            | Node::SQLValueFunction(_)
            | Node::SetToDefault(_)
            | Node::CurrentOfExpr(_)
            | Node::JsonFormat(_)
            | Node::MergeSupportFunc(_)
            | Node::ReturningOption(_)
    )
}

/// Nodes that the parser's walker knows and that have children.
fn is_expandable(node: Node<'_>) -> bool {
    is_expandable_query_part(node) || is_expandable_expression(node)
}

fn is_expandable_query_part(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_)
            | Node::MergeWhenClause(_)
            | Node::ReturningClause(_)
            | Node::OnConflictClause(_)
            | Node::InferClause(_)
            | Node::IndexElem(_)
            | Node::IntoClause(_)
            | Node::WithClause(_)
            | Node::CommonTableExpr(_)
            | Node::ResTarget(_)
            | Node::MultiAssignRef(_)
            | Node::RangeVar(_)
            | Node::RangeSubselect(_)
            | Node::RangeFunction(_)
            | Node::RangeTableSample(_)
            | Node::RangeTableFunc(_)
            | Node::RangeTableFuncCol(_)
            | Node::JoinExpr(_)
            | Node::SortBy(_)
            | Node::WindowDef(_)
            | Node::GroupingSet(_)
            | Node::LockingClause(_)
            | Node::TypeName(_)
            | Node::ColumnDef(_)
    )
}

fn is_expandable_expression(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::A_Expr(_)
            | Node::BoolExpr(_)
            | Node::ColumnRef(_)
            | Node::FuncCall(_)
            | Node::NamedArgExpr(_)
            | Node::A_Indices(_)
            | Node::A_Indirection(_)
            | Node::A_ArrayExpr(_)
            | Node::TypeCast(_)
            | Node::CollateClause(_)
            | Node::SubLink(_)
            | Node::CaseExpr(_)
            | Node::RowExpr(_)
            | Node::CoalesceExpr(_)
            | Node::MinMaxExpr(_)
            | Node::GroupingFunc(_)
            | Node::NullTest(_)
            | Node::BooleanTest(_)
            | Node::XmlExpr(_)
            | Node::XmlSerialize(_)
            | Node::JsonReturning(_)
            | Node::JsonValueExpr(_)
            | Node::JsonParseExpr(_)
            | Node::JsonScalarExpr(_)
            | Node::JsonSerializeExpr(_)
            | Node::JsonConstructorExpr(_)
            | Node::JsonIsPredicate(_)
            | Node::JsonArgument(_)
            | Node::JsonFuncExpr(_)
            | Node::JsonBehavior(_)
            | Node::JsonTable(_)
            | Node::JsonTableColumn(_)
            | Node::JsonTablePathSpec(_)
            | Node::JsonOutput(_)
            | Node::JsonKeyValue(_)
            | Node::JsonObjectConstructor(_)
            | Node::JsonArrayConstructor(_)
            | Node::JsonArrayQueryConstructor(_)
            | Node::JsonAggConstructor(_)
            | Node::JsonObjectAgg(_)
            | Node::JsonArrayAgg(_)
    )
}

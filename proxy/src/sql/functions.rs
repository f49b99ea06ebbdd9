//! What a call of a function does, by its name.
//!
//! A name counts as built in when it is not qualified or qualified with `pg_catalog`, which is searched first unless a session says
//! otherwise. Anything that is not on the list of harmless built-ins is taken for a write: the leader is always right.

use super::statement::Refusal;
use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use std::collections::HashSet;
use std::sync::LazyLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Harmless,
    /// Writes, or is not known.
    Write,
    /// Takes an advisory lock that the session holds until it ends or unlocks.
    SessionLock,
    SetConfig,
    /// `setseed`: later calls of `random` on this connection depend on it.
    Seed,
    Refused(Refusal),
}

/// One name per line, `information_schema.` where it is not `pg_catalog`.
const HARMLESS: &str = include_str!("harmless.txt");

static HARMLESS_NAMES: LazyLock<HashSet<&'static str>> = LazyLock::new(|| HARMLESS.lines().filter(|line| !line.starts_with('#')).collect());

/// The effect of calling the function of this possibly qualified name.
pub(super) fn effect(name: &NodeList) -> Effect {
    let mut parts = name.iter().map(Node::as_str);
    match (parts.next().flatten(), parts.next().flatten(), parts.next()) {
        (Some(function), None, None) | (Some("pg_catalog"), Some(function), None) => built_in(function),
        (Some("information_schema"), Some(function), None) if HARMLESS_NAMES.contains(&*format!("information_schema.{function}")) => {
            Effect::Harmless
        }
        _ => Effect::Write,
    }
}

/// A call by this name, where it is a built-in.
fn built_in(name: &str) -> Effect {
    match name {
        "set_config" => Effect::SetConfig,
        "setseed" => Effect::Seed,
        "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" | "pg_try_advisory_lock_shared" => Effect::SessionLock,
        "lo_creat" | "lo_create" | "lo_from_bytea" | "lo_import" | "lo_put" | "lo_truncate" | "lo_truncate64" | "lo_unlink" | "lowrite" => {
            Effect::Refused(Refusal::LargeObject)
        }
        "pg_cancel_backend" | "pg_terminate_backend" => Effect::Refused(Refusal::CancelBackend),
        "pg_logical_emit_message"
        | "pg_create_logical_replication_slot"
        | "pg_create_physical_replication_slot"
        | "pg_copy_logical_replication_slot"
        | "pg_copy_physical_replication_slot"
        | "pg_drop_replication_slot"
        | "pg_replication_slot_advance"
        | "pg_logical_slot_get_changes"
        | "pg_logical_slot_get_binary_changes"
        | "pg_replication_origin_advance"
        | "pg_replication_origin_create"
        | "pg_replication_origin_drop"
        | "pg_replication_origin_session_reset"
        | "pg_replication_origin_session_setup"
        | "pg_replication_origin_xact_reset"
        | "pg_replication_origin_xact_setup" => Effect::Refused(Refusal::Replication),
        name if HARMLESS_NAMES.contains(name) => Effect::Harmless,
        _ => Effect::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_has_no_double() {
        let names: Vec<_> = HARMLESS.lines().skip(1).collect();
        assert!(names.is_sorted_by(|a, b| a < b));
        assert!(names.len() > 1500);
    }

    #[test]
    fn what_writes_locks_or_belongs_to_one_server_is_not_on_it() {
        for name in [
            "nextval",
            "setval",
            "currval",
            "lastval",
            "set_config",
            "setseed",
            "pg_notify",
            "txid_current",
            "pg_current_xact_id",
            "txid_current_snapshot",
            "pg_current_snapshot",
            "pg_export_snapshot",
            "pg_advisory_xact_lock",
            "pg_advisory_lock",
            "pg_advisory_unlock_all",
            "lo_get",
            "lo_export",
            "loread",
            "pg_read_file",
            "pg_ls_dir",
            "pg_stat_file",
            "pg_reload_conf",
            "pg_rotate_logfile",
            "pg_switch_wal",
            "pg_create_restore_point",
            "pg_promote",
            "pg_stat_reset",
            "query_to_xml",
            "cursor_to_xml",
            "ts_stat",
            "ts_rewrite",
            "brin_summarize_new_values",
            "gin_clean_pending_list",
            "dblink",
            "dblink_exec",
            "pg_import_system_collations",
            "pg_terminate_backend",
            "pg_logical_emit_message",
            "pg_drop_replication_slot",
        ] {
            assert_ne!(built_in(name), Effect::Harmless, "{name}");
        }
    }

    #[test]
    fn ordinary_functions_are_on_it() {
        for name in [
            "lower",
            "count",
            "sum",
            "json_agg",
            "row_number",
            "generate_series",
            "unnest",
            "now",
            "clock_timestamp",
            "random",
            "gen_random_uuid",
            "pg_sleep",
            "format_type",
            "pg_table_is_visible",
            "current_setting",
            "version",
            "pg_backend_pid",
            "pg_is_in_recovery",
            "inet_server_addr",
            "pg_stat_get_activity",
            "pg_relation_size",
            "to_regclass",
            "timezone",
        ] {
            assert_eq!(built_in(name), Effect::Harmless, "{name}");
        }
    }
}

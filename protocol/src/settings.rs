//! Names that the binaries and the servers share.

/// `application_name` of the gate's replication connection, and the constant value of `synchronous_standby_names`.
pub const GATE_APPLICATION_NAME: &str = "howdah";
/// The replication slot of the gate, one per node.
pub const SLOT: &str = "howdah";
/// The publication, `FOR ALL TABLES`.
pub const PUBLICATION: &str = "howdah";
/// Replication origin that marks what a node applied itself.
pub const ORIGIN: &str = "howdah";
/// Schema of Howdah's own tables and functions in every node. Never captured.
pub const SCHEMA: &str = "howdah";
/// Role with which proxies ask for password verifiers.
pub const PROXY_ROLE: &str = "howdah_proxy";
/// Clocks of two machines are taken to run at rates that differ by less than one part in this many. Quartz is a hundred times better.
pub const CLOCK_DRIFT_PARTS: u32 = 100;
/// Prefix of the session settings that the proxy understands.
pub const SETTING_PREFIX: &str = "howdah.";
/// The oldest server that is taken: 15.13 closed a start-up race in which commits did not wait for the gate.
pub const POSTGRES_VERSION_MIN: u32 = 150_013;
/// Settings of PostgreSQL on which the promises rest: not for the operator to change.
const FIXED: &[&str] = &[
    "wal_level",
    "synchronous_standby_names",
    "synchronous_commit",
    "restart_after_crash",
    "fsync",
    "full_page_writes",
    "data_directory",
    "config_file",
    "hba_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "session_replication_role",
    "default_transaction_read_only",
];

/// Howdah sets this setting of PostgreSQL itself. Their names are the same in upper and lower case.
#[must_use]
pub fn is_fixed(name: &str) -> bool {
    FIXED.iter().any(|fixed| fixed.eq_ignore_ascii_case(name))
}

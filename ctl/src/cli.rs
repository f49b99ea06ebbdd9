//! Commands and their options, and the words that explain them.

pub(crate) mod down;
pub(crate) mod live;
pub(crate) mod node;
pub(crate) mod progress;
pub(crate) mod signals;
pub(crate) mod status;
pub(crate) mod switchover;
pub(crate) mod target;
pub(crate) mod up;
pub(crate) mod verify;

use clap::{Args, Parser, Subcommand};
use howdah_protocol::NodeId;
use std::path::PathBuf;

/// The command was carried out and what it checked is not as it must be.
pub(crate) const EXIT_BAD: u8 = 1;
/// The command could not be carried out. (2 is clap's, for a wrong command line.)
pub(crate) const EXIT_NOT_DONE: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    Bad,
}

const EXAMPLES: &str = "\
Examples:
  howdahctl up                            three nodes and a proxy on port 6432, until Ctrl-C
  howdahctl up --data ~/try --nodes 5     five nodes in a folder of your choice
  howdahctl status                        who leads, who lags
  howdahctl status --json | jq .          the same for scripts
  howdahctl switchover 2                  node 2 takes over; clients notice a short pause
  howdahctl node add                      one more node, filled while the others serve
  howdahctl node replace 2                a new node in the place of node 2
  howdahctl verify                        do all nodes hold the same data?
  howdahctl verify --repair               bring rows that differ back to the leader's
  howdahctl demo --exit                   load, kill the leader, count what was lost

Exit codes:
  0  done, and as it must be
  1  done, and something is wrong: data differs (verify), no open leader (status), a commit was lost (demo)
  2  the command line is wrong
  3  not done: the message says why

Environment:
  HOWDAH_DATA            data folder of the local cluster, as --data; --admin counts for more
  HOWDAH_SECRET          the cluster's secret, as --secret, where --admin is given
  HOWDAH_BIN_DIR         folder of howdah-sidecar and howdah-proxy, where they are not beside howdahctl
  HOWDAH_PG_BIN_DIR      folder of PostgreSQL's programs, where it is not found by itself";

/// A Raft quorum under unmodified PostgreSQL: start, watch and steer it.
#[derive(Debug, Parser)]
#[command(name = "howdahctl", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine, or go on with the one in the data folder.
    ///
    /// Of one that runs already by itself, `up --detach` starts the nodes that died, and the proxy; what runs is left alone.
    Up(Up),
    /// Show every node: role, who votes, term, positions, lag.
    Status(Status),
    /// Hand leadership to another node, without an error for any client.
    Switchover(Switchover),
    /// Add, remove or replace a node of the local cluster, while it serves.
    #[command(subcommand)]
    Node(node::Node),
    /// Stop the cluster of the data folder. Its data stays.
    Down(Down),
    /// Compare checksums of every table on every node at one log index.
    ///
    /// Clients go on meanwhile: each node stops applying the log for a moment, takes a snapshot at the same place, and goes on. Where a
    /// table differs, the ranges of its key that do are searched down to the rows. Needs the cluster's secret.
    Verify(Verify),
    /// Show what this is for: load, kill the leader in the middle, count.
    Demo(Demo),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Data {
    /// Data folder of the local cluster [default: /var/lib/howdah/local as root, else ~/.local/share/howdah/local]
    #[arg(long, value_name = "DIR", env = "HOWDAH_DATA")]
    data: Option<PathBuf>,
}

impl Data {
    pub(crate) fn dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| default_root().join("local"))
    }
}

/// As root not below /root, which the user that Postgres runs as cannot enter.
pub(crate) fn default_root() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let shared = || std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/lib/howdah")
    } else {
        shared().or_else(home).unwrap_or_else(std::env::temp_dir).join("howdah")
    }
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) data: Data,
    /// How many nodes a new cluster gets (1 to 9) [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<u32>,
    /// Port of the proxy; N+1 to N+29 are used too [default: 6432]
    ///
    /// N+1 is the proxy's admin API, N+10+p a node's admin API, N+20+p its Postgres. p is the node's place: its id at first; a node that is added
    /// later gets the first place that is free. `howdahctl status` shows the addresses.
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// A setting for every Postgres of a new cluster, e.g. shared_buffers=512MB (repeatable); afterwards edit nodeN/data/pg/postgresql.conf
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,
    /// Return once it serves and leave it running; `howdahctl down` stops it
    #[arg(long)]
    pub(crate) detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: target::Arguments,
    /// Print JSON: {"groups":[{"id","leader","nodes":[...]}]}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Switchover {
    /// The node that is to lead; the most caught-up follower when left out
    #[arg(value_name = "NODE", value_parser = node_id)]
    pub(crate) to: Option<NodeId>,
    #[command(flatten)]
    pub(crate) target: target::Arguments,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) data: Data,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) target: target::Arguments,
    /// Bring rows that differ back to the leader's, each node at one place of the log, and compare again
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print JSON: {"leader","index","identical","tables":[{"table","identical","nodes":{"1":{"rows","sum"},...},"key","differences":
    /// [{"node","changed","missing","surplus","complete","from","to","keys"}]}],"absent","repairs"}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End after the report, and remove the demo's data where all went well
    #[arg(long)]
    pub(crate) exit: bool,
    /// Folder of the demo's cluster, made anew each time [default: `demo` beside the default folder of `up`]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Port of the proxy; N+1 to N+29 are used too
    #[arg(long, value_name = "N", default_value_t = 6432)]
    pub(crate) port: u16,
    /// Connections that write at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) clients: u32,
    /// pgbench scale: 100,000 accounts each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) scale: u32,
    /// Seconds of load before the leader is killed, and again between kill and restart, and after it
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) phase: u64,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, e.g. work_mem=16MB".to_owned()),
    }
}

fn node_id(text: &str) -> Result<NodeId, String> {
    match text.parse() {
        Ok(id) if id > 0 => Ok(NodeId(id)),
        _ => Err("expected a node's number, as `howdahctl status` shows it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, String> {
        let words = std::iter::once("howdahctl").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn good_lines() {
        assert!(matches!(parse("up"), Ok(Command::Up(Up { nodes: None, port: None, detach: false, .. }))));
        assert!(matches!(
            parse("up --nodes 5 --port 7000 --detach"),
            Ok(Command::Up(Up { nodes: Some(5), port: Some(7000), detach: true, .. }))
        ));
        assert!(matches!(parse("switchover 2"), Ok(Command::Switchover(Switchover { to: Some(NodeId(2)), .. }))));
        assert!(matches!(parse("switchover"), Ok(Command::Switchover(Switchover { to: None, .. }))));
        assert!(matches!(parse("status --json"), Ok(Command::Status(Status { json: true, .. }))));
        assert!(matches!(parse("node add --json"), Ok(Command::Node(node::Node::Add(node::Add { id: None, .. })))));
        assert!(matches!(
            parse("node replace 2 --id 7"),
            Ok(Command::Node(node::Node::Replace(node::Replace { node: NodeId(2), id: Some(NodeId(7)), .. })))
        ));
        assert!(matches!(parse("demo --exit"), Ok(Command::Demo(Demo { exit: true, port: 6432, .. }))));
        match parse("up --set work_mem=16MB --set application_name=a=b") {
            Ok(Command::Up(up)) => assert_eq!(up.set[1], ("application_name".to_owned(), "a=b".to_owned())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        for (line, expected) in [
            ("up --nodes three", "invalid"),
            ("up --port 99999", "99999"),
            ("up --set work_mem", "NAME=VALUE"),
            ("switchover zwei", "node's number"),
            ("switchover 0", "node's number"),
            ("status --admin 1:1 --data x", "cannot be used with"),
            ("demo --clients 0", "1..=64"),
            ("node remove", "<NODE>"),
            ("node replace 0", "node's number"),
            ("explode", "unrecognized subcommand"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}

//! The words in which the rest of the proxy speaks about SQL. Plain values, nothing of the parser's.

use howdah_protocol::Consistency;
use howdah_protocol::consistency::BadValue;
use std::fmt;
use std::ops::{BitOr, BitOrAssign, Range};

/// Where an execution outside of an open transaction may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    /// Proven to change nothing: any node that satisfies the session's mode.
    Read,
    /// The leader.
    Write,
}

/// `/* howdah: eventual */` before the first statement. A value that is no mode is kept, so that the client can be told.
pub(crate) type Hint = Result<Consistency, BadValue>;

/// One text of a Query or Parse message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Classified {
    /// In order. Empty for an empty text, and where the text was not parsed.
    pub(crate) statements: Box<[Statement]>,
    /// The grammar refused the text, or it was too long to be parsed: nothing is known of it.
    pub(crate) parse_error: bool,
    pub(crate) hint: Option<Hint>,
    /// Of all statements, and [`PinReasons::UNPARSED`] where the text was too long to look.
    pub(crate) pins: PinReasons,
    route: Route,
}

impl Classified {
    pub(super) fn new(statements: Box<[Statement]>, hint: Option<Hint>) -> Self {
        let route = if statements.iter().all(|one| one.kind.route() == Route::Read) { Route::Read } else { Route::Write };
        let pins = statements.iter().fold(PinReasons::NONE, |pins, one| pins | one.pins);
        Self { statements, parse_error: false, hint, pins, route }
    }

    pub(super) fn unparsed(hint: Option<Hint>, pins: PinReasons) -> Self {
        Self { statements: Box::default(), parse_error: true, hint, pins, route: Route::Write }
    }

    /// Read only where every statement is; an empty text is a read.
    pub(crate) fn route(&self) -> Route {
        self.route
    }

    /// The statement, where the text is exactly one.
    pub(crate) fn only(&self) -> Option<&Statement> {
        match &*self.statements {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Why the text must not reach a server, where any of its statements must not.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.statements.iter().find_map(|one| match &one.kind {
            Kind::Refused(why) => Some(*why),
            _ => None,
        })
    }

    /// Approximate bytes, for the cache's bound, without the names and values that are copied out of the text.
    pub(super) fn bytes(&self) -> usize {
        const BOXED_KIND_BYTES: usize = size_of::<Kind>();
        size_of::<Self>() + self.statements.len() * (size_of::<Statement>() + BOXED_KIND_BYTES)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) kind: Kind,
    /// What keeps the session on its server connection once this has run.
    pub(crate) pins: PinReasons,
    /// The statement's text, in bytes of the whole text, without the semicolon and without white space around it.
    pub(crate) range: Range<usize>,
}

/// What a statement does, as far as routing and pooling must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Proven to change nothing.
    Read,
    /// Changes rows, or is not proven to be a read.
    Write,
    /// BEGIN, START TRANSACTION.
    Begin(Begin),
    /// COMMIT, END.
    Commit {
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        chain: bool,
    },
    Savepoint(Box<str>),
    Release(Box<str>),
    RollbackTo(Box<str>),
    CommitPrepared,
    RollbackPrepared,
    /// SET TRANSACTION (scope Local) and SET SESSION CHARACTERISTICS (scope Session).
    SetTransaction {
        scope: Scope,
        begin: Begin,
    },
    /// SET TRANSACTION SNAPSHOT: means something on the exporting server only.
    SetSnapshot,
    Set {
        scope: Scope,
        name: Box<str>,
        value: SetValue,
    },
    Reset(Box<str>),
    ResetAll,
    /// SHOW; the name is "all" for SHOW ALL.
    Show(Box<str>),
    /// `SELECT set_config('name', 'value', is_local)` and nothing else, all three constant.
    SetConfig {
        scope: Scope,
        name: Box<str>,
        value: Box<str>,
    },
    Discard(Discard),
    /// PREPARE, with what it prepares.
    Prepare {
        name: Box<str>,
        inner: Box<Self>,
    },
    Execute(Box<str>),
    /// None: ALL.
    Deallocate(Option<Box<str>>),
    DeclareCursor {
        name: Box<str>,
        hold: bool,
    },
    /// FETCH, MOVE.
    Fetch,
    /// CLOSE of one cursor or all.
    Close,
    Listen(Box<str>),
    /// None: all.
    Unlisten(Option<Box<str>>),
    Notify(Box<str>),
    CopyFrom {
        stdin: bool,
    },
    CopyTo {
        stdout: bool,
        read: bool,
    },
    /// CREATE TEMPORARY anything.
    CreateTemp,
    LockTable,
    /// Roles and other things that belong to the server, not to a database: no event trigger sees them.
    GlobalDdl,
    Ddl,
    /// Cannot run inside a transaction block: VACUUM, CREATE INDEX CONCURRENTLY and the like.
    NonTransactional,
    Explain {
        analyze: bool,
        inner: Box<Self>,
    },
    Call,
    Do,
    /// Must not run through Howdah.
    Refused(Refusal),
}

impl Kind {
    /// Where this may run outside of an open transaction.
    pub(crate) fn route(&self) -> Route {
        let read = match self {
            Self::Read | Self::Show(_) => true,
            Self::Begin(begin) => begin.read_only == Some(true),
            Self::CopyTo { stdout, read } => *stdout && *read,
            // A prepared statement lives on one connection.
            Self::Explain { analyze, inner } => match &**inner {
                Self::Execute(_) => false,
                inner => !analyze || inner.route() == Route::Read,
            },
            _ => false,
        };
        if read { Route::Read } else { Route::Write }
    }

    /// Starts or ends a transaction block.
    pub(crate) fn is_transaction_boundary(&self) -> bool {
        matches!(self, Self::Begin(_) | Self::Commit { .. } | Self::Rollback { .. } | Self::CommitPrepared | Self::RollbackPrepared)
    }
}

/// The modes that a transaction is begun with; None where the statement is silent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Begin {
    pub(crate) read_only: Option<bool>,
    pub(crate) isolation: Option<Isolation>,
    pub(crate) deferrable: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Session,
    /// Until the end of the transaction.
    Local,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetValue {
    Default,
    /// As `set_config(name, value, ..)` takes it: list elements joined, quoted where the setting is a list of names.
    Text(Box<str>),
    /// FROM CURRENT, or an interval for TIME ZONE: only the statement itself can repeat it.
    Opaque,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Discard {
    All,
    Plans,
    Temp,
    Sequences,
}

/// Why a statement is answered with 0A000 instead of being run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    Database,
    /// GRANT ON DATABASE, ON PARAMETER.
    SharedGrant,
    AlterSystem,
    Tablespace,
    Publication,
    Subscription,
    LargeObject,
    SecurityLabel,
    EventTrigger,
    CommentOnShared,
    CatalogLock,
    Replication,
    CancelBackend,
    GateSetting,
    PrepareTransaction,
}

impl Refusal {
    /// For the error's message.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Database => "databases cannot be created, changed or dropped: a group replicates one database",
            Self::SharedGrant => {
                "privileges on databases and parameters are not replicated yet: a follower would not have them after a failover"
            }
            Self::AlterSystem => "ALTER SYSTEM is not replicated: the sidecar owns the server's configuration",
            Self::Tablespace => "tablespaces are directories of one server and cannot be replicated",
            Self::Publication => "publications are not supported: the capture of row changes depends on the one that Howdah made",
            Self::Subscription => "subscriptions are not supported: what they apply would not survive a failover",
            Self::LargeObject => "large objects cannot be replicated: logical decoding does not carry them",
            Self::SecurityLabel => "security labels cannot be replicated",
            Self::EventTrigger => "event triggers cannot be replicated: PostgreSQL fires no event trigger for them",
            Self::CommentOnShared => "comments on roles, databases and tablespaces cannot be replicated",
            Self::CatalogLock => "locking or rewriting system catalogs would stall logical decoding, and with it every commit",
            Self::Replication => "replication slots, origins and messages belong to the sidecar",
            Self::GateSetting => "the setting decides when commits are acknowledged or what is captured of them, and belongs to Howdah",
            Self::CancelBackend => "ending another session's wait could show a commit that the group has not decided",
            Self::PrepareTransaction => {
                "PREPARE TRANSACTION is not replicated: only this server would have the prepared transaction, and a failover would lose it"
            }
        }
    }

    /// For the error's hint.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Database => "Use a schema instead.",
            Self::AlterSystem => "Use ALTER ROLE ... SET or ALTER DATABASE ... SET, or change the sidecar's configuration on every node.",
            Self::Tablespace => "Put the data directory of each node on the storage that it should use.",
            Self::Publication | Self::Subscription => "Replicate into or out of another cluster with a client of your own.",
            Self::LargeObject => "Use a bytea column.",
            Self::SecurityLabel | Self::CommentOnShared | Self::SharedGrant => "Run it on every node, connected to the server directly.",
            Self::EventTrigger => "Use ordinary triggers.",
            Self::CatalogLock => "Name the user tables that you mean, or run it on every node, connected to the server directly.",
            Self::Replication => "Connect to the server directly if you know what you are doing.",
            Self::GateSetting => "Use SET howdah.replication = sync or async.",
            Self::PrepareTransaction => "End the transaction with COMMIT; two-phase commit with other databases is not possible.",
            Self::CancelBackend => {
                "Send a cancel request from the session's own client, or connect to the server directly as a member of pg_signal_backend."
            }
        }
    }
}

/// Why a session must keep its server connection. A set.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct PinReasons(u16);

impl PinReasons {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const TEMP_TABLE: Self = Self(1);
    pub(crate) const SESSION_LOCK: Self = Self(1 << 1);
    pub(crate) const LISTEN: Self = Self(1 << 2);
    pub(crate) const HOLD_CURSOR: Self = Self(1 << 3);
    /// A cursor that ends with its transaction: pins no longer than that.
    pub(crate) const CURSOR: Self = Self(1 << 4);
    /// SQL's PREPARE, as opposed to the protocol's.
    pub(crate) const PREPARED: Self = Self(1 << 5);
    /// A setting that is changed in a way that cannot be repeated elsewhere.
    pub(crate) const SETTING: Self = Self(1 << 6);
    pub(crate) const SEED: Self = Self(1 << 7);
    /// LOAD.
    pub(crate) const LIBRARY: Self = Self(1 << 8);
    /// The text was too long to look.
    pub(crate) const UNPARSED: Self = Self(1 << 9);

    const NAMES: [(Self, &'static str); 10] = [
        (Self::TEMP_TABLE, "temp_table"),
        (Self::SESSION_LOCK, "session_lock"),
        (Self::LISTEN, "listen"),
        (Self::HOLD_CURSOR, "hold_cursor"),
        (Self::CURSOR, "cursor"),
        (Self::PREPARED, "prepared"),
        (Self::SETTING, "setting"),
        (Self::SEED, "seed"),
        (Self::LIBRARY, "library"),
        (Self::UNPARSED, "unparsed"),
    ];

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What outlives the transaction.
    #[must_use]
    pub(crate) const fn beyond_transaction(self) -> Self {
        self.without(Self::CURSOR)
    }

    /// The reasons by name, as `SHOW howdah.pin` and the metrics say them.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(reason, _)| self.contains(*reason)).map(|(_, name)| name)
    }
}

impl BitOr for PinReasons {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for PinReasons {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for PinReasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, name) in self.names().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PinReasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

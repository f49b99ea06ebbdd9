//! The kinds of faults and their names.

/// What can be done to the system. Where it says leader, the node that is the open leader when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// SIGKILL of the leader's Postgres; its sidecar lives on.
    KillPostgres,
    /// SIGKILL of the leader's sidecar; its Postgres lives on.
    KillSidecar,
    /// SIGKILL of both at once.
    KillNode,
    KillFollower,
    KillProxy,
    /// SIGKILL of all processes of all hosts at once.
    KillEverything,
    /// SIGSTOP, and SIGCONT when it is healed.
    PausePostgres,
    PauseSidecar,
    PauseNode,
    PauseFollower,
    PauseProxy,
    /// SIGINT to the leader's postmaster.
    FastShutdown,
    /// SIGQUIT to the leader's postmaster.
    ImmediateShutdown,
    /// SIGTERM to the leader's sidecar, which hands over and takes its Postgres along.
    StopNode,
    Switchover,
    /// A node joins and is seeded, and a follower leaves for good.
    ReplaceNode,
    /// Cancel requests for every connection in the middle of a COMMIT, over and over.
    CancelStorm,
    /// The same, and the leader's host dies in the middle.
    CancelStormAndKill,
    /// Every fsync of the leader's log takes long.
    SlowLog,
    /// Every fsync of the leader's Postgres.
    SlowPostgresDisk,
    /// Every fsync on one follower.
    SlowFollower,
    /// Not a block is left where the leader has its log.
    FullLog,
    /// Not a block is left where the leader's Postgres is.
    FullPostgresDisk,
    /// Not a block is left on a follower.
    FullFollower,
    /// The leader and everybody else, the proxy too, do not reach each other.
    LeaderAlone,
    /// The leader and the followers do not reach each other; the proxy reaches all.
    LeaderCutFromFollowers,
    FollowerAlone,
    /// The leader is on the smaller side; the proxy on either.
    LeaderInMinority,
    /// Every node reaches two others only; asks for four nodes or more.
    Ring,
    /// What the leader sends is lost.
    LeaderMute,
    /// What is sent to the leader is lost.
    LeaderDeaf,
    /// The leader and one follower do not reach each other.
    OneLink,
    /// The leader is alone, and is not, and is.
    Flapping,
    /// The proxy reaches nobody.
    ProxyAlone,
    /// Every host gets few bytes per second.
    NarrowNetwork,
    /// Every host gets its packets late, and not all of them.
    LossyNetwork,
    /// The leader and the proxy reach each other, and nobody else: a proxy that cannot know of the next leader.
    LeaderWithProxy,
}

impl Fault {
    pub const PROCESS: &[Self] = &[
        Self::KillPostgres,
        Self::KillSidecar,
        Self::KillNode,
        Self::KillFollower,
        Self::KillProxy,
        Self::KillEverything,
        Self::PausePostgres,
        Self::PauseSidecar,
        Self::PauseNode,
        Self::PauseFollower,
        Self::PauseProxy,
        Self::FastShutdown,
        Self::ImmediateShutdown,
        Self::StopNode,
        Self::Switchover,
        Self::ReplaceNode,
        Self::CancelStorm,
        Self::CancelStormAndKill,
    ];

    pub const DISK: &[Self] =
        &[Self::SlowLog, Self::SlowPostgresDisk, Self::SlowFollower, Self::FullLog, Self::FullPostgresDisk, Self::FullFollower];

    pub const NETWORK: &[Self] = &[
        Self::LeaderAlone,
        Self::LeaderCutFromFollowers,
        Self::FollowerAlone,
        Self::LeaderInMinority,
        Self::Ring,
        Self::LeaderWithProxy,
        Self::LeaderMute,
        Self::LeaderDeaf,
        Self::OneLink,
        Self::Flapping,
        Self::ProxyAlone,
        Self::NarrowNetwork,
        Self::LossyNetwork,
    ];

    /// Everything that is known.
    #[must_use]
    pub fn all() -> Vec<Self> {
        [Self::PROCESS, Self::DISK, Self::NETWORK].concat()
    }

    #[must_use]
    pub fn needs_network(self) -> bool {
        Self::NETWORK.contains(&self)
    }

    #[must_use]
    pub fn needs_disks(self) -> bool {
        Self::DISK.contains(&self)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillPostgres => "SIGKILL Postgres",
            Self::KillSidecar => "SIGKILL sidecar",
            Self::KillNode => "SIGKILL Postgres and sidecar",
            Self::KillFollower => "SIGKILL a follower's Postgres and sidecar",
            Self::KillProxy => "SIGKILL proxy",
            Self::KillEverything => "SIGKILL everything",
            Self::PausePostgres => "SIGSTOP Postgres",
            Self::PauseSidecar => "SIGSTOP sidecar",
            Self::PauseNode => "SIGSTOP Postgres and sidecar",
            Self::PauseFollower => "SIGSTOP a follower's Postgres and sidecar",
            Self::PauseProxy => "SIGSTOP proxy",
            Self::FastShutdown => "Postgres fast shutdown",
            Self::ImmediateShutdown => "Postgres immediate shutdown",
            Self::StopNode => "SIGTERM sidecar",
            Self::Switchover => "switchover",
            Self::ReplaceNode => "node added, another removed",
            Self::CancelStorm => "cancel storm",
            Self::CancelStormAndKill => "cancel storm and SIGKILL",
            Self::SlowLog => "slow disk under the leader's log",
            Self::SlowPostgresDisk => "slow disk under the leader's Postgres",
            Self::SlowFollower => "slow disks of a follower",
            Self::FullLog => "full disk under the leader's log",
            Self::FullPostgresDisk => "full disk under the leader's Postgres",
            Self::FullFollower => "full disks of a follower",
            Self::LeaderAlone => "leader alone",
            Self::LeaderCutFromFollowers => "leader cut from followers",
            Self::FollowerAlone => "follower alone",
            Self::LeaderInMinority => "leader in the minority",
            Self::Ring => "ring",
            Self::LeaderMute => "leader mute",
            Self::LeaderDeaf => "leader deaf",
            Self::OneLink => "one link cut",
            Self::Flapping => "flapping leader",
            Self::ProxyAlone => "proxy alone",
            Self::NarrowNetwork => "narrow network",
            Self::LossyNetwork => "late and lossy network",
            Self::LeaderWithProxy => "leader alone with the proxy",
        }
    }
}

//! Hosts as network namespaces, joined by a router that loses what it is told to lose.
//!
//! ```text
//!   this process ---- router ---- host 0     every line a veth pair and a /30 of its own
//!                       | \------ host 1     a cut: a blackhole rule in the router, for one source and one destination
//!                     host 2                 packets vanish without a word, as on a real network; connections stay half open
//! ```
//!
//! A router instead of a bridge, because then a one-way cut needs a routing rule only: no nftables, no kernel module.
//!
//! Invariants:
//! - Nothing of the machine's own network is changed but one link and one route to addresses for benchmarks (198.18.0.0/15, RFC 2544).
//! - All of it carries the pid of its maker, goes with the value, and, after a crash, with the next network that is made.

mod ip;
mod probe;

pub use probe::Probe;

use crate::cluster::{Host, Hosts};
use ip::ip;
use rand::seq::SliceRandom;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "howdah";
/// The fourth octets of a /24 in steps of 4: the last /30 is this process' own.
const HOSTS_MAX: usize = 32;
const OWN: usize = 63;
const CUT_PRIORITY: &str = "1000";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{program}` (package iproute2) does not run: {source}")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} {words}: {said}")]
    Failed { program: &'static str, words: String, said: String },
    #[error("at most {HOSTS_MAX} hosts, not {0}")]
    TooMany(usize),
    #[error("all of 198.18.0.0/16 is in use")]
    NoSubnet,
    #[error("{what}: {source}")]
    Probe { what: String, source: io::Error },
}

/// How a host's lines are slowed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slowness {
    /// Few bytes per second, and a queue before them.
    Narrow,
    /// Delay and loss; not in every kernel.
    Lossy,
}

impl Slowness {
    fn discipline(self) -> &'static [&'static str] {
        match self {
            Self::Narrow => &["tbf", "rate", "2mbit", "burst", "16kb", "latency", "200ms"],
            Self::Lossy => &["netem", "delay", "30ms", "10ms", "loss", "3%"],
        }
    }
}

#[derive(Debug)]
pub struct Network {
    name: String,
    /// Third octet.
    subnet: u8,
    hosts: usize,
    cuts: BTreeSet<(usize, usize)>,
    slow: BTreeSet<usize>,
}

/// Why no network can be made here, if so.
#[must_use]
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let name = format!("{PREFIX}-{}-try{}", std::process::id(), TRIED.fetch_add(1, Ordering::Relaxed));
    let tried = ip(&["netns", "add", &name]).and_then(|()| {
        let rule = ip(&["-n", &name, "rule", "add", "blackhole", "from", "198.18.0.1", "to", "198.18.0.2"]);
        ip(&["netns", "del", &name])?;
        rule
    });
    tried.err().map(|error| error.to_string())
}

impl Network {
    pub fn make(hosts: usize) -> Result<Self, Error> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if hosts > HOSTS_MAX {
            return Err(Error::TooMany(hosts));
        }
        remove_leftovers()?;
        let name = format!("{PREFIX}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let network = Self { subnet: free_subnet()?, name, hosts, cuts: BTreeSet::new(), slow: BTreeSet::new() };
        // From here on dropping it removes what there is.
        network.build()?;
        Ok(network)
    }

    fn build(&self) -> Result<(), Error> {
        let router = self.router();
        ip(&["netns", "add", &router])?;
        ip(&["netns", "exec", &router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        for host in 0..self.hosts {
            let (namespace, port) = (self.namespace(host), port(host));
            ip(&["netns", "add", &namespace])?;
            ip(&["link", "add", "eth0", "netns", &namespace, "type", "veth", "peer", "name", &port, "netns", &router])?;
            ip(&["-n", &namespace, "addr", "add", &self.with_prefix(host, 2), "dev", "eth0"])?;
            ip(&["-n", &router, "addr", "add", &self.with_prefix(host, 1), "dev", &port])?;
            for (namespace, link) in [(&namespace, "lo"), (&namespace, "eth0"), (&router, port.as_str())] {
                ip(&["-n", namespace, "link", "set", link, "up"])?;
            }
            ip(&["-n", &namespace, "route", "add", "default", "via", &self.at(host, 1).to_string()])?;
        }
        let link = self.own_link();
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "own", "netns", &router])?;
        ip(&["addr", "add", &self.with_prefix(OWN, 2), "dev", &link])?;
        ip(&["-n", &router, "addr", "add", &self.with_prefix(OWN, 1), "dev", "own"])?;
        ip(&["link", "set", &link, "up"])?;
        ip(&["-n", &router, "link", "set", "own", "up"])?;
        ip(&["route", "add", &format!("198.18.{}.0/24", self.subnet), "via", &self.at(OWN, 1).to_string()])
    }

    /// For a cluster of as many nodes as there are hosts but one, which is the proxy's.
    #[must_use]
    pub fn cluster_hosts(&self) -> Hosts {
        let host = |nth| Host { address: IpAddr::V4(self.address(nth)), namespace: self.namespace(nth) };
        let mut nodes: Vec<Host> = (0..self.hosts).map(host).collect();
        let proxy = nodes.pop().expect("a network for a cluster has a host for the proxy");
        Hosts { nodes, proxy }
    }

    #[must_use]
    pub fn address(&self, host: usize) -> Ipv4Addr {
        self.at(host, 2)
    }

    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&mut self, from: usize, to: usize) -> Result<(), Error> {
        if from != to && self.cuts.insert((from, to)) {
            self.rule("add", from, to)?;
        }
        Ok(())
    }

    /// Neither reaches the other.
    pub fn cut_both(&mut self, one: usize, other: usize) -> Result<(), Error> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// Slows down everything that is sent to the host.
    pub fn slow_down(&mut self, host: usize, how: Slowness) -> Result<(), Error> {
        let port = port(host);
        let mut words = vec!["qdisc", "replace", "dev", &port, "root"];
        words.extend(how.discipline());
        ip::tc(&self.router(), &words)?;
        self.slow.insert(host);
        Ok(())
    }

    /// Everybody reaches everybody again, at full speed.
    pub fn heal(&mut self) -> Result<(), Error> {
        for (from, to) in std::mem::take(&mut self.cuts) {
            self.rule("del", from, to)?;
        }
        for host in std::mem::take(&mut self.slow) {
            ip::tc(&self.router(), &["qdisc", "del", "dev", &port(host), "root"])?;
        }
        Ok(())
    }

    /// The proof of a cut, and of its direction.
    #[must_use]
    pub fn probe(&self, from: usize, to: usize) -> Probe {
        Probe { from: self.namespace(from), to: self.namespace(to), address: self.address(to) }
    }

    fn rule(&self, verb: &str, from: usize, to: usize) -> Result<(), Error> {
        let (from, to) = (self.address(from).to_string(), self.address(to).to_string());
        ip(&["-n", &self.router(), "rule", verb, "blackhole", "from", &from, "to", &to, "priority", CUT_PRIORITY])
    }

    fn router(&self) -> String {
        format!("{}-r", self.name)
    }

    fn namespace(&self, host: usize) -> String {
        format!("{}-h{host}", self.name)
    }

    /// Names of links have 15 characters at most.
    fn own_link(&self) -> String {
        format!("howdah{}", self.subnet)
    }

    /// The router's (1) or the host's (2) end of a host's /30.
    fn at(&self, host: usize, end: u8) -> Ipv4Addr {
        let fourth = u8::try_from(host * 4).expect("hosts are few") + end;
        Ipv4Addr::new(198, 18, self.subnet, fourth)
    }

    fn with_prefix(&self, host: usize, end: u8) -> String {
        format!("{}/30", self.at(host, end))
    }
}

fn port(host: usize) -> String {
    format!("h{host}")
}

impl Drop for Network {
    fn drop(&mut self) {
        // A link goes with either of its ends; what is missing was never made.
        let _ = ip(&["link", "del", &self.own_link()]);
        for namespace in (0..self.hosts).map(|host| self.namespace(host)).chain([self.router()]) {
            let _ = ip(&["netns", "del", &namespace]);
        }
    }
}

/// A subnet to which no address of this machine belongs.
fn free_subnet() -> Result<u8, Error> {
    let used = ip::output(&["-4", "-o", "addr", "show"])? + &ip::output(&["-4", "route", "show"])?;
    let mut subnets: Vec<u8> = (0..=255).collect();
    subnets.shuffle(&mut rand::rng());
    subnets.into_iter().find(|subnet| !used.contains(&format!("198.18.{subnet}."))).ok_or(Error::NoSubnet)
}

/// Namespaces whose maker is gone.
fn remove_leftovers() -> Result<(), Error> {
    for line in ip::output(&["netns", "list"])?.lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')?.split('-').next());
        if maker.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            ip(&["netns", "del", name])?;
        }
    }
    Ok(())
}

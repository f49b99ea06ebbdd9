//! The block of ports of a cluster.
//!
//! A port that is taken is found out before anything starts, so that the message can name it; a process that finds out later fails with
//! its own words in its log.

use super::options::{NODES_MAX, PORT_DEFAULT, Port};
use super::{Error, Info};
use rand::seq::SliceRandom;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PROXY_ADMIN: u16 = 1;
const NODE_ADMIN: u16 = 10;
const NODE_SQL: u16 = 20;
/// Last offset of the block.
pub(crate) const SPAN: u16 = NODE_SQL + NODES_MAX as u16;
/// Bound by the owner of a block that was chosen at random, so that two choosers cannot take the same one before their processes listen.
const CLAIM: u16 = 5;

/// Below the kernel's ephemeral ports, which would otherwise take one of ours now and then.
const RANDOM_FROM: u16 = 12_000;
const RANDOM_TO: u16 = 32_000;
/// Single ports are below the blocks.
const SINGLE_FROM: u16 = 5_000;

/// Keeps a randomly chosen block from being chosen again.
#[derive(Debug)]
pub(crate) struct Claim {
    _listener: TcpListener,
}

const fn address(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

pub(crate) const fn proxy(base: u16) -> SocketAddr {
    address(base)
}

pub(crate) const fn proxy_admin(base: u16) -> SocketAddr {
    address(base + PROXY_ADMIN)
}

pub(crate) fn node_admin(base: u16, place: u32) -> SocketAddr {
    address(base + NODE_ADMIN + small(place))
}

pub(crate) fn node_sql(base: u16, place: u32) -> SocketAddr {
    address(base + NODE_SQL + small(place))
}

fn small(place: u32) -> u16 {
    u16::try_from(place).expect("a place in a range of ports")
}

/// One port for a process of no cluster. Nobody else in this process gets it, and no cluster that chooses its ports at random.
pub fn free_port() -> Result<u16, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(RANDOM_FROM - SINGLE_FROM);
    // Another process begins elsewhere.
    let place = || std::process::id().wrapping_mul(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
    let mut ports = std::iter::repeat_with(|| SINGLE_FROM + small(place())).take(count as usize);
    ports.find(|port| is_free(address(*port))).ok_or(Error::NoPorts)
}

/// The base for a new cluster, and the claim to it where it was chosen at random.
pub(crate) fn choose(port: Port, nodes: u32) -> Result<(u16, Option<Claim>), Error> {
    match port {
        Port::Default => fixed(PORT_DEFAULT).map(|base| (base, None)),
        Port::Fixed(base) => fixed(base).map(|base| (base, None)),
        Port::Any => {
            let mut bases: Vec<u16> = (RANDOM_FROM..RANDOM_TO).step_by(usize::from(SPAN) + 1).collect();
            bases.shuffle(&mut rand::rng());
            let claim = |base: u16| {
                let listener = TcpListener::bind(address(base + CLAIM)).ok()?;
                block(base, nodes).all(|(at, _)| is_free(at)).then_some((base, Some(Claim { _listener: listener })))
            };
            bases.into_iter().find_map(claim).ok_or(Error::NoPorts)
        }
    }
}

fn fixed(base: u16) -> Result<u16, Error> {
    if base == 0 || base.checked_add(SPAN).is_none() { Err(Error::PortTooHigh { base, span: SPAN }) } else { Ok(base) }
}

fn block(base: u16, nodes: u32) -> impl Iterator<Item = (SocketAddr, String)> {
    let nodes = (1..=nodes).flat_map(move |node| {
        [(node_admin(base, node), format!("admin API of node {node}")), (node_sql(base, node), format!("Postgres of node {node}"))]
    });
    [(proxy(base), "proxy".to_owned()), (proxy_admin(base), "admin API of the proxy".to_owned())].into_iter().chain(nodes)
}

/// The standard library binds with SO_REUSEADDR, so connections in TIME_WAIT are not in the way; a listener is.
fn is_free(at: SocketAddr) -> bool {
    TcpListener::bind(at).is_ok()
}

/// Whether a port is taken for longer than another thread's child may hold what was tried here, or there, a moment ago: from its fork to its exec.
fn is_taken(at: SocketAddr) -> bool {
    const TRIES: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(20);
    !(0..TRIES).any(|nth| {
        std::thread::sleep(PAUSE * nth.min(1));
        is_free(at)
    })
}

/// Checks the ports of a cluster that is about to be made; others may be chosen still.
pub(crate) fn must_be_free_for_new(base: u16, nodes: u32) -> Result<(), Error> {
    match block(base, nodes).find(|(at, _)| is_taken(*at)) {
        Some((at, what)) => Err(Error::PortInUse { port: at.port(), what, span: SPAN }),
        None => Ok(()),
    }
}

/// Checks the ports of what is about to start: the nodes that `starting` names by their place, and the proxy.
pub(crate) fn must_be_free(info: &Info, starting: impl Fn(usize) -> bool, proxy_starts: bool) -> Result<(), Error> {
    let mut wanted = Vec::new();
    if proxy_starts {
        wanted.push((info.proxy, "proxy".to_owned()));
        wanted.push((info.proxy_admin, "admin API of the proxy".to_owned()));
    }
    for (_, node) in info.nodes.iter().enumerate().filter(|(nth, _)| starting(*nth)) {
        wanted.push((node.admin, format!("admin API of node {}", node.id)));
        wanted.push((node.sql, format!("Postgres of node {}", node.id)));
    }
    // Another host's ports cannot be tried from here.
    match wanted.into_iter().find(|(at, _)| at.ip().is_loopback() && is_taken(*at)) {
        Some((at, what)) => Err(Error::PortTaken { port: at.port(), what }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_choosers_get_blocks_that_do_not_touch() {
        let (one, _claim) = choose(Port::Any, 3).expect("ports");
        let (two, _other) = choose(Port::Any, 3).expect("ports");
        assert!(one.abs_diff(two) > SPAN, "{one} {two}");
    }

    #[test]
    fn nobody_gets_a_single_port_twice() {
        let (one, two) = (free_port().expect("a port"), free_port().expect("a port"));
        assert_ne!(one, two);
        assert!([one, two].iter().all(|port| (SINGLE_FROM..RANDOM_FROM).contains(port)), "{one} {two}");
    }

    #[test]
    fn the_block_must_fit() {
        assert!(matches!(choose(Port::Fixed(65_530), 3), Err(Error::PortTooHigh { .. })));
        assert!(matches!(choose(Port::Fixed(0), 3), Err(Error::PortTooHigh { .. })));
        assert_eq!(choose(Port::Default, 3).expect("fits").0, PORT_DEFAULT);
    }

    #[test]
    fn no_two_ports_of_a_block_are_the_same() {
        let mut all: Vec<_> = block(7000, NODES_MAX).map(|(at, _)| at.port()).collect();
        all.push(7000 + CLAIM);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|port| *port <= 7000 + SPAN));
    }
}

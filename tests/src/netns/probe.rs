//! Does a datagram get from one namespace to another? Both ends are in this process: a socket belongs to the namespace in which it was made.

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

const DATAGRAMS: u8 = 5;
/// The way takes microseconds; a slow line under test some hundred milliseconds.
const WAIT: Duration = Duration::from_millis(400);

pub(super) fn passes(from: &str, to: &str, address: Ipv4Addr) -> Result<bool> {
    let (from, to) = (from.to_owned(), to.to_owned());
    // A thread that has moved is not given back.
    std::thread::spawn(move || {
        enter(&to)?;
        let receiver = UdpSocket::bind((address, 0))?;
        receiver.set_read_timeout(Some(WAIT))?;
        let goal: SocketAddr = receiver.local_addr()?;
        enter(&from)?;
        let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for nth in 0..DATAGRAMS {
            sender.send_to(&[nth], goal)?;
        }
        Ok(receiver.recv(&mut [0]).is_ok())
    })
    .join()
    .expect("the thread reports its failures")
}

fn enter(namespace: &str) -> Result<()> {
    let file = File::open(format!("/run/netns/{namespace}")).with_context(|| format!("the namespace {namespace}"))?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

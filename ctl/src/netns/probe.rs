//! Does a datagram get from one namespace to another? Both ends are in this process: a socket belongs to the namespace in which it was made.

use super::Error;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

const DATAGRAMS: u8 = 5;
/// The way takes microseconds; a slow line under test some hundred milliseconds.
const WAIT: Duration = Duration::from_millis(400);

/// Sends datagrams from one namespace to another.
#[derive(Debug, Clone)]
pub struct Probe {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) address: Ipv4Addr,
}

impl Probe {
    /// Whether any came through. Blocks for some hundred milliseconds.
    pub fn passes(self) -> Result<bool, Error> {
        // A thread that has moved to another namespace is not given back.
        let thread = std::thread::spawn(move || {
            let what = format!("probing the way from {} to {}", self.from, self.to);
            self.send_and_receive().map_err(|source| Error::Probe { what, source })
        });
        thread.join().expect("the thread reports its failures")
    }

    fn send_and_receive(&self) -> io::Result<bool> {
        enter(&self.to)?;
        let receiver = UdpSocket::bind((self.address, 0))?;
        receiver.set_read_timeout(Some(WAIT))?;
        let goal: SocketAddr = receiver.local_addr()?;
        enter(&self.from)?;
        let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for nth in 0..DATAGRAMS {
            sender.send_to(&[nth], goal)?;
        }
        Ok(receiver.recv(&mut [0]).is_ok())
    }
}

fn enter(namespace: &str) -> io::Result<()> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

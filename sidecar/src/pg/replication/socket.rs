//! A Unix or TCP socket, split into its two directions.

use super::Error;
use crate::pg::connect::Target;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

#[derive(Debug)]
pub(super) enum ReadHalf {
    Unix(unix::OwnedReadHalf),
    Tcp(tcp::OwnedReadHalf),
}

#[derive(Debug)]
pub(super) enum WriteHalf {
    Unix(unix::OwnedWriteHalf),
    Tcp(tcp::OwnedWriteHalf),
}

/// Opens the socket: in the target's directory if its host is an absolute path, over TCP otherwise.
pub(super) async fn connect(target: &Target) -> Result<(ReadHalf, WriteHalf), Error> {
    let failed = |address: String| move |source| Error::Connect { address, source };
    if target.host.is_absolute() {
        let path = target.host.join(format!(".s.PGSQL.{}", target.port));
        let socket = UnixStream::connect(&path).await.map_err(failed(path.display().to_string()))?;
        let (read, write) = socket.into_split();
        return Ok((ReadHalf::Unix(read), WriteHalf::Unix(write)));
    }
    let address = format!("{}:{}", target.host.display(), target.port);
    let socket = TcpStream::connect(&address).await.map_err(failed(address.clone()))?;
    // A status update is small, and a COMMIT waits for it.
    socket.set_nodelay(true).map_err(failed(address))?;
    let (read, write) = socket.into_split();
    Ok((ReadHalf::Tcp(read), WriteHalf::Tcp(write)))
}

impl WriteHalf {
    /// Writes what the socket takes right now.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(half) => half.try_write(bytes),
            Self::Tcp(half) => half.try_write(bytes),
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Unix(half) => half.writable().await,
            Self::Tcp(half) => half.writable().await,
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(half) => Pin::new(half).poll_read(cx, buf),
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(half) => Pin::new(half).poll_write(cx, buf),
            Self::Tcp(half) => Pin::new(half).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(half) => Pin::new(half).poll_flush(cx),
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}

//! The last words to a client, and the time that it needs to hear them.
//!
//! A socket that is closed while bytes of the client lie there unread, or are still on their way, is reset, and a reset takes from the client
//! what it has not read yet: it would never learn why its connection ended. So the proxy stops writing, and goes on to read and throw away
//! until the client closes, too. A client gets only so much time and only so many bytes for that; it counts as connected meanwhile.

use crate::wire::build::{self, Report, Severity};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For the words. A client that takes nothing does not hear them.
const SAY_TIMEOUT: Duration = Duration::from_secs(2);
/// For what the client still sends, and its close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Four times the largest message that is taken by default.
const LINGER_BYTES_MAX: usize = 256 * 1024 * 1024;
const LINGER_CHUNK_BYTES: usize = 64 * 1024;

/// Writes `rest` and why the connection ends, and stays until the client is gone, `hurry` is over, or the limits are reached.
pub(super) async fn say(stream: &mut TcpStream, rest: &[u8], report: &Report, hurry: impl Future<Output = ()>) {
    let mut words = rest.to_vec();
    build::error(&mut words, Severity::Fatal, report);
    let (mut reader, mut writer) = stream.split();
    let saying = async {
        writer.write_all(&words).await?;
        writer.shutdown().await
    };
    let lingering = async {
        tokio::select! {
            biased;
            () = discard(&mut reader, LINGER_BYTES_MAX) => {}
            () = hurry => {}
        }
    };
    // Both at once: a client may read only when all is written. It may also be gone already, which is no news.
    let _ = tokio::join!(tokio::time::timeout(SAY_TIMEOUT, saying), tokio::time::timeout(LINGER_TIMEOUT, lingering));
}

/// Reads to the end of what comes, or this many bytes.
async fn discard(reader: &mut (impl AsyncRead + Unpin), mut bytes_max: usize) {
    let mut chunk = vec![0; LINGER_CHUNK_BYTES];
    while let Ok(len @ 1..) = reader.read(&mut chunk).await {
        bytes_max = bytes_max.saturating_sub(len);
        if bytes_max == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reading_on_ends_with_the_input_or_at_its_bound() {
        let mut short = &[0; 100][..];
        discard(&mut short, 1000).await;
        assert!(short.is_empty());
        let mut endless = tokio::io::repeat(0);
        tokio::time::timeout(Duration::from_secs(30), discard(&mut endless, 10 * LINGER_CHUNK_BYTES)).await.expect("bounded");
    }
}

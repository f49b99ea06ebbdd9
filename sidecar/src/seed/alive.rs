//! The joining node's sign of life.
//!
//! Whoever gives a filling drops one of which it hears nothing for a minute. It hears of the rows while they are copied; but the schema of
//! thousands of tables takes longer to restore, and so may what is waited for in the log before it. If that were silence, the filling would come
//! to the same end at every attempt.

use super::sink::Error;
use crate::admin::client;
use bytes::Bytes;
use std::time::Duration;

/// Several of them may be lost before the giver takes it for silence.
pub(super) const KEEP_EVERY: Duration = Duration::from_secs(10);
const KEEP_TIMEOUT: Duration = Duration::from_secs(5);
const GONE: u16 = 410;

/// A filling on the node that gives it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept<'a> {
    pub(super) giver: &'a str,
    pub(super) secret: &'a str,
    pub(super) id: u64,
}

impl Kept<'_> {
    /// Does `work`, during which the giver is told now and then that it goes on. Ends it if the giver has dropped the filling.
    pub(super) async fn during<T>(&self, every: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            done = work => done,
            gone = self.until_gone(every) => Err(gone.into()),
        }
    }

    async fn until_gone(&self, every: Duration) -> client::Error {
        let path = format!("/v1/seed/keep?id={}", self.id);
        loop {
            tokio::time::sleep(every).await;
            match tokio::time::timeout(KEEP_TIMEOUT, client::post(self.giver, &path, self.secret, Bytes::new())).await {
                Ok(Ok(_)) => {}
                Ok(Err(gone @ client::Error::Refused { status: GONE, .. })) => return gone,
                // Whether that matters is known when something is asked of it: what is restored meanwhile needs no giver.
                Ok(Err(error)) => tracing::debug!(%error, "the filling could not be kept"),
                Err(_) => tracing::debug!("{} does not answer: the filling could not be kept", self.giver),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::SECRET_HEADER;
    use std::future::pending;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    const SOON: Duration = Duration::from_millis(5);
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Gives one answer after the other, and what it was asked.
    async fn giver(answers: &'static [&'static str]) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let mut stream = listener.accept().await.unwrap().0;
                let mut said = Vec::new();
                while !said.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut said).await.unwrap(), 0, "a whole head");
                }
                stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
                asked.push(String::from_utf8(said).unwrap());
            }
            asked
        });
        (address, asked)
    }

    #[tokio::test]
    async fn it_goes_on_until_the_giver_has_dropped_it() {
        let (address, asked) = giver(&["200 OK", "503 Service Unavailable", "404 Not Found", "200 OK", "410 Gone"]).await;
        let kept = Kept { giver: &address, secret: "hush", id: 7 };
        let ended = tokio::time::timeout(PATIENCE, kept.during(SOON, pending::<Result<(), Error>>())).await.expect("it ends");
        assert!(matches!(ended, Err(Error::Client(client::Error::Refused { status: GONE, .. }))), "{ended:?}");
        let asked = asked.await.unwrap();
        let secret = format!("{SECRET_HEADER}: hush");
        assert!(asked.iter().all(|said| said.starts_with("POST /v1/seed/keep?id=7 ") && said.contains(&secret)), "{asked:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_work_is_the_end_of_it() {
        let (address, asked) = giver(&["200 OK"]).await;
        let kept = Kept { giver: &address, secret: "hush", id: 7 };
        let work = async { Ok(asked.await.unwrap().len()) };
        let done = tokio::time::timeout(PATIENCE, kept.during(SOON, work)).await.expect("it ends");
        assert_eq!(done.unwrap(), 1);
    }
}

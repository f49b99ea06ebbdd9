//! The log as its two users inside the sidecar ask for it: the gate proposes, the applier reads.

use crate::{apply, capture, raft};
use bytes::Bytes;
use howdah_protocol::LogIndex;

impl capture::Proposer for raft::Proposer {
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<LogIndex, capture::ProposeError>> + Send + 'static + use<> {
        let decided = Self::propose(self, entry);
        async move {
            decided.await.map_err(|error| {
                if error.is_refusal() {
                    capture::ProposeError::Refused(error.to_string())
                } else {
                    capture::ProposeError::Unknown(error.to_string())
                }
            })
        }
    }
}

impl apply::Log for raft::Handle {
    fn decided(&self) -> LogIndex {
        Self::decided(self).borrow().index
    }

    async fn decided_past(&self, index: LogIndex) {
        // The log ends with the process; until then there is nothing to apply.
        if Self::decided(self).wait_for(|decided| decided.index > index).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn read(&self, from: LogIndex, bytes_max: usize) -> Result<Vec<(LogIndex, Option<Bytes>)>, apply::LogError> {
        Self::read(self, from, bytes_max).map_err(|error| match error {
            raft::ReadError::Purged { first } => apply::LogError::Purged { first },
            raft::ReadError::Log(error) => apply::LogError::Failed(error.to_string()),
        })
    }
}

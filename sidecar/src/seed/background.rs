//! A thread for the copying: what it costs must not delay the gate, which has the process' first thread.

use std::future::Future;
use tokio::runtime::{Builder, Handle, Runtime};

/// Ends with the value, and with it what runs on it.
#[derive(Debug)]
pub(super) struct Background {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Background {
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("howdah-seed").enable_all().build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    pub(super) fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("it is taken by drop alone").handle()
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle().spawn(work);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A plain drop waits for the thread, which async code must not.
            runtime.shutdown_background();
        }
    }
}

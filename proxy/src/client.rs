//! Client connections: from the first byte to the last.

mod acquire;
pub(crate) mod connection;
mod goodbye;
mod handshake;
pub(crate) mod link;
mod outcome;
mod relay;

use crate::auth::MockSecret;
use crate::backend::pool::Pools;
use crate::backend::roles::Roles;
use crate::config::Config;
use crate::core::params::ServerParameters;
use crate::core::session::Tools;
use crate::metrics::Metrics;
use crate::routing::Routes;
use crate::routing::positions::Positions;
use link::Registry;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Startup parameters whose ParameterStatus is remembered, per worker.
const GREETINGS_MAX: usize = 1024;

/// Questions to the leader's sidecar about lost commits, at one time, per worker.
const OUTCOME_QUESTIONS_MAX: usize = 16;

/// What a server reports at the start of a connection, by role and startup parameters.
type Greetings = HashMap<(Arc<str>, Arc<ServerParameters>), Greeting>;
/// ParameterStatus by name.
type Greeting = Arc<Vec<(String, String)>>;

/// What the sessions of one worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) roles: Roles,
    pub(crate) positions: Positions,
    pub(crate) routes: Routes,
    pub(crate) pools: Pools,
    pub(crate) tools: Tools,
    pub(crate) mock: Arc<MockSecret>,
    outcome_slots: Semaphore,
    greetings: Mutex<Greetings>,
}

impl Worker {
    pub(crate) fn new(shared: Shared) -> Self {
        let Shared { config, metrics, registry, roles, positions, routes, cache, mock } = shared;
        Self {
            pools: Pools::new(config.pool_size_per_worker(), Arc::clone(&metrics)),
            tools: Tools::new(cache, config.autocommit_outcomes),
            outcome_slots: Semaphore::new(OUTCOME_QUESTIONS_MAX),
            greetings: Mutex::default(),
            config,
            metrics,
            registry,
            roles,
            positions,
            routes,
            mock,
        }
    }

    /// What a server said to these startup parameters, with the parameters as others hold them, so that equal ones are the same.
    fn greeting(&self, role: &Arc<str>, parameters: &Arc<ServerParameters>) -> Option<(Arc<ServerParameters>, Greeting)> {
        let greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        let ((_, parameters), greeting) = greetings.get_key_value(&(Arc::clone(role), Arc::clone(parameters)))?;
        Some((Arc::clone(parameters), Arc::clone(greeting)))
    }

    /// Forgets what servers say at the start: a new leader may say something else, and a role's settings may be altered.
    pub(crate) fn forget_greetings(&self) {
        self.greetings.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn remember_greeting(&self, role: &Arc<str>, parameters: &Arc<ServerParameters>, greeting: &Greeting) {
        let mut greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        if greetings.len() >= GREETINGS_MAX {
            greetings.clear();
        }
        greetings.insert((Arc::clone(role), Arc::clone(parameters)), Arc::clone(greeting));
    }
}

/// What all workers share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) roles: Roles,
    pub(crate) positions: Positions,
    pub(crate) routes: Routes,
    pub(crate) cache: Arc<crate::sql::Cache>,
    pub(crate) mock: Arc<MockSecret>,
}

//! Password verifiers of roles, looked up on a server as `howdah_proxy` and kept for a short while.
//!
//! One task asks, so that a thousand clients that log in at once make one connection and, per role, one question.

use super::Error;
use super::connection::{self, Connection, Target};
use crate::auth::{Secret, Verifier};
use crate::clock::{self, Millis};
use crate::core::params::ServerParameters;
use crate::core::view::{Node, Serving};
use crate::routing::Routes;
use howdah_protocol::settings::PROXY_ROLE;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A changed password is known everywhere after this, and at once to a client that failed with the old verifier.
const KEPT: Duration = Duration::from_secs(10);
const KEPT_MAX: usize = 10_000;
const QUEUE_MAX: usize = 1024;
/// Between attempts, when nothing changes.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the cluster knows of a role; `None` for one that does not exist, may not log in, or has no SCRAM password.
pub(crate) type Known = Option<Verifier>;

struct Question {
    role: String,
    /// Do not answer from memory.
    anew: bool,
    /// Closed when the client has waited for long enough.
    answer: oneshot::Sender<Option<Known>>,
}

/// Asks for verifiers.
#[derive(Debug, Clone)]
pub(crate) struct Roles {
    questions: mpsc::Sender<Question>,
}

impl Roles {
    /// Starts the task that asks.
    pub(crate) fn start(routes: Routes, database: String, password: String, connect: Duration) -> Self {
        let (questions, receiver) = mpsc::channel(QUEUE_MAX);
        let asker = Asker {
            routes,
            database,
            secret: Secret::Password(password),
            parameters: Arc::new(ServerParameters {
                pairs: vec![("application_name".to_owned(), PROXY_ROLE.to_owned())],
                options: Vec::new(),
            }),
            connect,
            connection: None,
            known: HashMap::new(),
        };
        tokio::spawn(asker.run(receiver));
        Self { questions }
    }

    /// The role's verifier; `None` where no server could be asked within `limit`.
    pub(crate) async fn look_up(&self, role: &str, anew: bool, limit: Duration) -> Option<Known> {
        let (answer, receiver) = oneshot::channel();
        let question = Question { role: role.to_owned(), anew, answer };
        let answered = async {
            self.questions.send(question).await.ok()?;
            receiver.await.ok()?
        };
        tokio::time::timeout(limit, answered).await.ok()?
    }
}

struct Asker {
    routes: Routes,
    database: String,
    secret: Secret,
    parameters: Arc<ServerParameters>,
    connect: Duration,
    connection: Option<Connection>,
    known: HashMap<String, (Millis, Known)>,
}

impl Asker {
    async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        while let Some(Question { role, anew, answer }) = questions.recv().await {
            if answer.is_closed() {
                continue;
            }
            let kept = self.known.get(&role).filter(|(since, _)| !anew && clock::now().since(*since) < KEPT);
            let known = match kept {
                Some((_, known)) => Some(known.clone()),
                None => self.ask(&role, &answer).await,
            };
            // It may have waited for long enough.
            let _ = answer.send(known);
        }
    }

    /// Asks until there is an answer, for as long as somebody waits for it: while no server is open, all questions wait for the same.
    async fn ask(&mut self, role: &str, answer: &oneshot::Sender<Option<Known>>) -> Option<Known> {
        while !answer.is_closed() {
            match self.attempt(role).await {
                Ok(known) => {
                    if self.known.len() >= KEPT_MAX {
                        self.known.clear();
                    }
                    self.known.insert(role.to_owned(), (clock::now(), known.clone()));
                    return Some(known);
                }
                Err(error) => {
                    self.connection = None;
                    tracing::debug!(%error, "role look-up failed");
                    if !error.is_transient() {
                        tracing::error!(%error, "cannot look up roles: check proxy_password and that howdah.user_lookup exists");
                        return None;
                    }
                    self.routes.changed(ATTEMPT_PAUSE).await;
                }
            }
        }
        tracing::warn!("no server could be asked for a role");
        None
    }

    async fn attempt(&mut self, role: &str) -> Result<Known, Error> {
        let view = self.routes.view();
        let now = clock::now();
        let serving = |node: &Node| node.serving();
        let node = view.leader(now).or_else(|| view.followers(now).next());
        let (node, serving) = node.and_then(|node| Some((node, serving(node)?))).ok_or(Error::Protocol("no node is open"))?;
        let usable = self.connection.take_if(|known| view.is_current(known.serving) && known.is_quiet());
        let serving = usable.as_ref().map_or(serving, |known| known.serving);
        let mut routes = self.routes.clone();
        tokio::select! {
            biased;
            known = self.ask_at(role, &node.status.sql_address, serving, usable) => known,
            // Its host may be gone without a word, and another open by now.
            () = routes.until_gone(serving) => Err(Error::Protocol("the node stopped serving")),
        }
    }

    async fn ask_at(&mut self, role: &str, address: &str, serving: Serving, usable: Option<Connection>) -> Result<Known, Error> {
        let mut connection = match usable {
            Some(known) => known,
            None => self.open(address, serving).await?,
        };
        let mut sql = "SELECT verifier, can_login FROM howdah.user_lookup(".to_owned();
        crate::core::vars::literal(&mut sql, role);
        sql.push(')');
        let row = tokio::time::timeout(QUERY_TIMEOUT, connection.query(&sql)).await.map_err(|_| Error::Timeout(QUERY_TIMEOUT))??;
        self.connection = Some(connection);
        let Some(row) = row else { return Ok(None) };
        let [verifier, can_login] = &row[..] else { return Err(Error::Protocol("howdah.user_lookup has other columns")) };
        if can_login.as_deref() != Some("t") {
            return Ok(None);
        }
        let verifier = verifier.as_deref().map(str::parse::<Verifier>).transpose();
        verifier.or_else(|error| {
            tracing::warn!(role, %error, "the role cannot log in");
            Ok(None)
        })
    }

    async fn open(&self, address: &str, serving: Serving) -> Result<Connection, Error> {
        let target =
            Target { address, role: PROXY_ROLE, secret: &self.secret, database: &self.database, parameters: &self.parameters, serving };
        connection::open(target, self.connect).await
    }
}

//! Health, metrics and routing over HTTP. Reads what is published and never calls into a session.

use crate::clock::{self, Millis};
use crate::core::view::View;
use crate::metrics::Metrics;
use crate::routing::Routes;
use bytes::Bytes;
use howdah_protocol::admin::{NodeStatus, Problem};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the answers are made of.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) routes: Routes,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) draining: Arc<AtomicBool>,
}

/// `GET /v1/routing`.
#[derive(Debug, Serialize)]
struct Routing {
    leader: Option<u64>,
    draining: bool,
    nodes: Vec<RoutedNode>,
}

#[derive(Debug, Serialize)]
struct RoutedNode {
    #[serde(flatten)]
    status: NodeStatus,
    connected: bool,
    heard_ms_ago: u64,
    used_for_reads: bool,
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, state: State) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin: accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let mut state = state.clone();
                async move { Ok::<_, Infallible>(state.answer(&request)) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin: connection");
            }
            drop(slot);
        });
    }
}

impl State {
    fn answer(&mut self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return problem(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.ready(),
            "/metrics" => text(StatusCode::OK, self.metrics.render()),
            "/v1/routing" => {
                let view = self.routes.view();
                json(StatusCode::OK, &routing(&view, clock::now(), self.draining.load(Ordering::Relaxed)))
            }
            _ => problem(StatusCode::NOT_FOUND, "known are /healthz, /readyz, /metrics and /v1/routing"),
        }
    }

    fn ready(&mut self) -> Response<Full<Bytes>> {
        let now = clock::now();
        let view = self.routes.view();
        if self.draining.load(Ordering::Relaxed) {
            problem(StatusCode::SERVICE_UNAVAILABLE, "shutting down")
        } else if view.leader(now).is_some() || view.followers(now).next().is_some() {
            text(StatusCode::OK, "ready\n".to_owned())
        } else {
            problem(StatusCode::SERVICE_UNAVAILABLE, "no node of the group is open")
        }
    }
}

fn routing(view: &View, now: Millis, draining: bool) -> Routing {
    let nodes = view.nodes().map(|node| RoutedNode {
        status: (*node.status).clone(),
        connected: node.connected,
        heard_ms_ago: u64::try_from(now.since(node.heard).as_millis()).unwrap_or(u64::MAX),
        used_for_reads: node.is_fresh(now) && node.serving().is_some(),
    });
    Routing { leader: view.leader(now).map(|node| node.status.id.0), draining, nodes: nodes.collect() }
}

fn problem(status: StatusCode, error: &str) -> Response<Full<Bytes>> {
    json(status, &Problem { error: error.to_owned(), hint: None })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    respond(status, "application/json", body.into())
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; version=0.0.4", body.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

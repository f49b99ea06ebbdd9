//! The proxy's binary, with a configuration of its own.

use super::DEADLINE;
use super::postgres::{DATABASE, PASSWORD, PROXY_PASSWORD, USER};
use super::sidecar::Group;
use howdah_ctl::cluster::free_port;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

pub struct Proxy {
    child: Child,
    pub port: u16,
    pub admin_port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_howdah-proxy"))
}

impl Proxy {
    pub fn start(group: &Group) -> Self {
        Self::start_with(group, "")
    }

    /// `extra`: lines of configuration.
    pub fn start_with(group: &Group, extra: &str) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (port, admin_port) = (free_port().expect("a free port"), free_port().expect("a free port"));
        let file = folder.path().join("proxy.toml");
        let sidecars: Vec<_> = group.addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin_port}\"\nsidecars = [{}]\ndatabase = \"{DATABASE}\"\n\
             proxy_password = \"{PROXY_PASSWORD}\"\n{extra}\n",
            sidecars.join(", ")
        );
        std::fs::write(&file, text).expect("written");
        let child = binary().arg("--config").arg(&file).stderr(Stdio::inherit()).spawn().expect("the proxy runs");
        let proxy = Self { child, port, admin_port, _folder: folder };
        let until = Instant::now() + DEADLINE;
        while proxy.admin("/readyz").is_none_or(|(status, _)| status != 200) {
            assert!(Instant::now() < until, "the proxy did not become ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        proxy
    }

    /// GET on the admin address: status and body. None while nobody listens.
    pub fn admin(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin_port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.admin("/metrics").expect("metrics");
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).expect("a known metric")
    }

    pub fn settings(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(USER).password(PASSWORD).dbname(DATABASE);
        config
    }

    pub async fn connect(&self) -> Client {
        self.connect_with(&self.settings()).await
    }

    pub async fn connect_with(&self, config: &tokio_postgres::Config) -> Client {
        let (client, connection) = config.connect(NoTls).await.expect("connected");
        tokio::spawn(connection);
        client
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    pub fn wait_for_exit(&mut self) -> bool {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Runs a client program (psql, pgbench) against the proxy.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER])
            .args(arguments)
            .env("PGPASSWORD", PASSWORD)
            .env("PGCONNECT_TIMEOUT", "20")
            .output()
            .expect("the client program runs")
    }
}

/// The SQLSTATE of an error that must be one of the server's kind.
pub fn sqlstate(error: &tokio_postgres::Error) -> String {
    error.code().unwrap_or_else(|| panic!("no SQLSTATE: {error:?}")).code().to_owned()
}

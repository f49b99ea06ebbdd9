//! The binary `howdah-proxy`.

use clap::Parser;
use howdah_proxy::{config::Config, service};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// One address for a Howdah group: writes go to the leader, reads where the session's consistency mode allows.
///
/// Stop it with SIGTERM: it takes no new clients, and lets busy ones go on for `drain_ms`.
#[derive(Debug, Parser)]
#[command(version, after_help = "The log level is set by HOWDAH_LOG, such as HOWDAH_LOG=info,howdah_proxy=debug.")]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "HOWDAH_PROXY_CONFIG")]
    config: PathBuf,
    /// Read and check the configuration, then exit.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("howdah-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("HOWDAH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let config = Config::load(&arguments.config)?;
    if arguments.check {
        println!("{}: valid", arguments.config.display());
        return Ok(());
    }
    Ok(service::run(config)?)
}

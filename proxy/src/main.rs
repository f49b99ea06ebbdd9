//! The binary `howdah-proxy`.

use anyhow::Context as _;
use clap::Parser;
use howdah_proxy::{config::Config, service};
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// One address for a Howdah group: writes go to the leader, reads where the session's consistency mode allows.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Read and check the configuration, then exit.
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    let config = Config::load(&arguments.config).context("configuration")?;
    if arguments.check {
        println!("{}: valid", arguments.config.display());
        return Ok(());
    }
    Ok(service::run(config)?)
}

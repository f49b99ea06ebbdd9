//! `howdahctl`: the operator's command line. Parsing and exit codes here, the commands in [`cli`] and [`demo`].

mod cli;
mod demo;

use clap::Parser;
use cli::{Command, Outcome};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            Command::Up(up) => cli::up::run(up).await,
            Command::Status(status) => cli::status::run(status).await,
            Command::Switchover(switchover) => cli::switchover::run(switchover).await,
            Command::Node(node) => cli::node::run(node).await,
            Command::Down(down) => cli::down::run(down).await,
            Command::Verify(verify) => cli::verify::run(verify).await,
            Command::Demo(demo) => demo::run(demo).await,
        }
    });
    // A reader that closed the pipe is no failure of ours, and a connection attempt may still hang: do not wait for either.
    runtime.shutdown_background();
    match outcome {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::from(cli::EXIT_BAD),
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("howdahctl: {error:#}");
    ExitCode::from(cli::EXIT_NOT_DONE)
}

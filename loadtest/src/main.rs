//! The command `ringway-loadtest`: argv in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    loadtest::cli::main()
}

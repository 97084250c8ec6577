//! The command `ringway`: arguments in, exit code out.

mod cli;

/// The command chooses its allocator; the library leaves that to whoever embeds it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}

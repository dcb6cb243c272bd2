use std::process::ExitCode;

fn main() -> ExitCode {
    weave_net::cli::main(std::env::args_os())
}

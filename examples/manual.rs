//! Writes man pages and shell completions of the `weave` command below the directory that is named, as
//! they belong below `/usr/local/share`.

use std::path::Path;
use std::{env, fs, io};

use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let to = env::args()
        .nth(1)
        .unwrap_or_else(|| "target/manual".to_owned());
    let to = Path::new(&to);
    let man = to.join("man/man1");
    fs::create_dir_all(&man)?;
    clap_mangen::generate_to(weave_net::cli::command(), &man)?;
    for (shell, directory, file) in [
        (Shell::Bash, "bash-completion/completions", "weave"),
        (Shell::Zsh, "zsh/site-functions", "_weave"),
        (Shell::Fish, "fish/vendor_completions.d", "weave.fish"),
    ] {
        let directory = to.join(directory);
        fs::create_dir_all(&directory)?;
        let written = generate_to(shell, &mut weave_net::cli::command(), "weave", &directory)?;
        fs::rename(written, directory.join(file))?;
    }
    Ok(())
}

//! Writes man pages and shell completions of the `weave` command into the directory that is named.

use std::path::Path;
use std::{env, fs, io};

use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let to = env::args()
        .nth(1)
        .unwrap_or_else(|| "target/manual".to_owned());
    let to = Path::new(&to);
    let [man, completions] = ["man1", "completions"].map(|name| to.join(name));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(weave_net::cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut weave_net::cli::command(), "weave", &completions)?;
    }
    Ok(())
}

//! Standard output, terminal or not.

use std::io::{self, IsTerminal, Write};

use crate::control::render::Style;

/// Whether standard output shows colours (no-color.org).
pub(super) fn style() -> Style {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    match io::stdout().is_terminal() && !set("NO_COLOR") && !dumb {
        true => Style::Coloured,
        false => Style::Plain,
    }
}

/// Writes; a reader that has gone away, as `head` does, has seen enough.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Says what takes its time, to people alone.
pub(super) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("weave: {text} ...");
    }
}

/// Writes in place of what a terminal shows; below it, when there is none.
pub(super) fn redraw(text: &str) -> io::Result<()> {
    match io::stdout().is_terminal() {
        // To the top, the text, and nothing of the former text below it (ECMA-48, CUP, EL, ED).
        true => print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))),
        false => print(&format!("{text}\n")),
    }
}

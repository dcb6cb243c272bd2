//! Signals by the names that containers' configurations give them.

use nix::sys::signal::Signal;

/// The first of the real-time signals (signal(7), of glibc), which have numbers but no names.
const FIRST_REAL_TIME: i32 = 34;

/// The number of a signal that is called `SIGQUIT`, `QUIT`, `3`, or `SIGRTMIN+3`.
pub(super) fn number(signal: &str) -> Option<i32> {
    if let Ok(number) = signal.parse() {
        return Some(number);
    }
    let name = signal.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return Some(FIRST_REAL_TIME + offset.parse::<i32>().ok()?);
    }
    let signal: Signal = format!("SIG{name}").parse().ok()?;
    Some(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers() {
        for (name, expected) in [
            ("SIGQUIT", Some(3)),
            ("quit", Some(3)),
            ("15", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("", None),
        ] {
            assert_eq!(number(name), expected, "{name}");
        }
    }
}

//! How long a container takes to start on each kind of network: asked of real engines.

use std::path::Path;
use std::process::{Command, Stdio};

/// Milliseconds of `docker run --rm` by network, or why they are not known.
pub(crate) type Attach = Result<Vec<(String, f64)>, String>;

/// Measures them in the lab of engines.
pub(crate) fn measure() -> Attach {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/attach_figures.sh");
    let output = Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{} does not run: {error}", script.display()))?;
    if !output.status.success() {
        return Err(format!("the lab of engines ended with {}", output.status));
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let row = |line: &str| {
        let (network, milliseconds) = line.split_once('\t')?;
        Some((network.to_owned(), milliseconds.parse().ok()?))
    };
    let rows: Vec<_> = lines.lines().filter_map(row).collect();
    if rows.is_empty() {
        return Err(format!("expected lines with medians, got {lines:?}"));
    }
    Ok(rows)
}

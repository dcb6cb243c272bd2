//! Commands that read.

use std::io;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::template::Template;
use super::terminal;
use crate::control::render::{Section, Style};

/// How often `--watch` looks again.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Status {
    /// The part to show in full
    #[arg(value_parser = sections())]
    section: Option<Section>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// Look again every second until interrupted
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Report {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// Print what a template in the language of Go makes of the JSON, as `{{.dns.domain}}` or
    /// `{{json .mesh.peers}}`
    #[arg(short, long, value_name = "TEMPLATE", conflicts_with = "json")]
    format: Option<String>,
}

/// Sections by their names, which shells complete.
fn sections() -> impl TypedValueParser<Value = Section> {
    PossibleValuesParser::new(Section::ALL.map(Section::name)).try_map(|name| name.parse())
}

impl Status {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        if self.json {
            let report = client.get("/report").await?;
            return Ok(terminal::print(&part(&report, self.section)?)?);
        }
        let url = url(self.section, terminal::style());
        if !self.watch {
            return Ok(terminal::print(&client.get(&url).await?)?);
        }
        loop {
            // A daemon that is being restarted comes back.
            let text = client.get(&url).await;
            let text = text.unwrap_or_else(|error| format!("weave: {error}\n"));
            terminal::redraw(&text)?;
            tokio::time::sleep(WATCH).await;
        }
    }
}

impl Report {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        if self.json {
            return Ok(terminal::print(&client.get("/report").await?)?);
        }
        if let Some(format) = &self.format {
            let wrong = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
            let template = Template::parse(format).map_err(wrong)?;
            let report: Value =
                serde_json::from_str(&client.get("/report").await?).map_err(io::Error::from)?;
            let text = template.render(&report).map_err(wrong)?;
            return Ok(terminal::print(&(text + "\n"))?);
        }
        let style = terminal::style();
        let mut text = client.get(&url(None, style)).await?;
        for section in Section::ALL {
            let table = client.get(&url(Some(section), style)).await?;
            text += &format!("\n--- {section}\n{table}");
        }
        Ok(terminal::print(&text)?)
    }
}

#[derive(Debug, Args)]
pub(super) struct Version {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

impl Version {
    /// Shows the versions; a daemon that is not there is no failure.
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let daemon = match client.get("/report").await {
            Ok(report) => {
                let report: Value = serde_json::from_str(&report).map_err(io::Error::from)?;
                report["version"].as_str().unwrap_or("unknown").to_owned()
            }
            Err(ClientError::NotRunning { .. }) => "not running".to_owned(),
            Err(ClientError::NotRoot { .. }) => "not known, only root may ask it".to_owned(),
            Err(error) => return Err(error),
        };
        let command = env!("CARGO_PKG_VERSION");
        let text = match self.json {
            true => json!({"command": command, "daemon": daemon}).to_string() + "\n",
            false => format!("command {command}\ndaemon  {daemon}\n"),
        };
        Ok(terminal::print(&text)?)
    }
}

fn url(section: Option<Section>, style: Style) -> String {
    let section = section.map_or_else(String::new, |section| format!("/{section}"));
    match style {
        Style::Coloured => format!("/status{section}?colour=true"),
        Style::Plain => format!("/status{section}"),
    }
}

/// The part of a report that belongs to a section, as JSON.
fn part(report: &str, section: Option<Section>) -> Result<String, io::Error> {
    let report: Value = serde_json::from_str(report)?;
    let part = match section {
        None => report,
        Some(Section::Connections) => report["mesh"]["connections"].clone(),
        Some(Section::Peers) => report["mesh"]["peers"].clone(),
        Some(Section::Targets) => report["mesh"]["targets"].clone(),
        Some(Section::Networks) => report["segments"].clone(),
        Some(Section::Endpoints) => report["endpoints"].clone(),
        Some(Section::Services) => report["services"].clone(),
        Some(Section::Ipam) => report["ipam"].clone(),
        Some(Section::Dns) => report["dns"].clone(),
        Some(Section::Proxy) => report["proxy"].clone(),
        Some(Section::Tunnel) => report["tunnel"].clone(),
        Some(Section::Plugin) => json!({
            "scope": report["scope"],
            "plugin_sockets": report["plugin_sockets"],
            "capabilities": report["capabilities"],
        }),
        Some(Section::Settings) => json!({
            "settings": report["settings"],
            "rejected": report["rejected"],
        }),
    };
    Ok(serde_json::to_string_pretty(&part)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::examples;

    #[test]
    fn each_section_has_its_part_of_the_report() {
        let report = serde_json::to_string(&examples::report()).unwrap();
        for section in Section::ALL {
            let part: Value = serde_json::from_str(&part(&report, Some(section)).unwrap()).unwrap();
            match part {
                Value::Array(entries) => assert!(!entries.is_empty(), "{section}"),
                Value::Object(parts) => assert!(parts.len() >= 2, "{section}"),
                other => panic!("{section}: {other}"),
            }
        }
    }
}

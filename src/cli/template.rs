//! Templates over a report, in the language of Go's `text/template` as far as reports need it:
//! fields, `if`, `range`, `with`, variables, pipelines, and a handful of functions.
//!
//! Fields are found in any case and without underscores: `.DNS.Entries` is `dns.entries`.

mod functions;
mod parse;

use serde_json::Value;
use thiserror::Error;

use self::parse::{Action, Block, Operand, Pipeline};

/// Deepest nesting of parentheses and blocks.
const MAX_DEPTH: usize = 64;

/// Why a template cannot be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(super) enum TemplateError {
    /// It is not written as templates are.
    #[error("template: expected {expected}, got {got}")]
    Syntax {
        /// What would be right.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// It does not fit what it is about.
    #[error("template: {0}")]
    Value(String),
}

/// A template that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template(Block);

impl Template {
    /// Reads a template.
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        parse::template(text).map(Self)
    }

    /// What it makes of a value.
    pub(super) fn render(&self, value: &Value) -> Result<String, TemplateError> {
        let mut writer = Writer {
            out: String::new(),
            variables: vec![("$".to_owned(), value.clone())],
        };
        writer.block(&self.0, value)?;
        Ok(writer.out)
    }
}

struct Writer {
    out: String,
    /// Those that are in scope, the innermost last.
    variables: Vec<(String, Value)>,
}

impl Writer {
    fn block(&mut self, block: &[Action], dot: &Value) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        for action in block {
            self.action(action, dot)?;
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn action(&mut self, action: &Action, dot: &Value) -> Result<(), TemplateError> {
        match action {
            Action::Text(text) => self.out.push_str(text),
            Action::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                self.out.push_str(&functions::text(&value));
            }
            Action::Set(name, pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                self.variables.push((name.clone(), value));
            }
            Action::If(pipeline, then, otherwise) => {
                let value = self.pipeline(pipeline, dot)?;
                let block = if functions::truth(&value) {
                    then
                } else {
                    otherwise
                };
                self.block(block, dot)?;
            }
            Action::With(pipeline, then, otherwise) => {
                let value = self.pipeline(pipeline, dot)?;
                match functions::truth(&value) {
                    true => self.block(then, &value)?,
                    false => self.block(otherwise, dot)?,
                }
            }
            Action::Range {
                variables,
                over,
                body,
                otherwise,
            } => {
                let over = self.pipeline(over, dot)?;
                let elements = elements(&over)?;
                if elements.is_empty() {
                    return self.block(otherwise, dot);
                }
                for (key, element) in elements {
                    let outer = self.variables.len();
                    // With one variable, it is the element.
                    let values = [key, element.clone()];
                    let skipped = 2 - variables.len();
                    let named = variables.iter().cloned();
                    self.variables
                        .extend(named.zip(values.into_iter().skip(skipped)));
                    let done = self.block(body, &element);
                    self.variables.truncate(outer);
                    done?;
                }
            }
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut piped: Option<Value> = None;
        for command in &pipeline.0 {
            let mut operands = command.iter();
            // The parser lets no command be empty.
            let value = match operands.next() {
                Some(Operand::Function(name)) => {
                    let arguments = operands.map(|operand| self.operand(operand, dot));
                    let mut arguments = arguments.collect::<Result<Vec<_>, _>>()?;
                    arguments.extend(piped.take());
                    functions::call(name, &arguments)?
                }
                Some(operand) if command.len() == 1 && piped.is_none() => {
                    self.operand(operand, dot)?
                }
                _ => {
                    let text = "only a function takes arguments".to_owned();
                    return Err(TemplateError::Value(text));
                }
            };
            piped = Some(value);
        }
        Ok(piped.unwrap_or_default())
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => Ok(at(dot, path)),
            Operand::Variable(name, path) => {
                let mut known = self.variables.iter().rev();
                match known.find(|(known, _)| known == name) {
                    Some((_, value)) => Ok(at(value, path)),
                    None => Err(TemplateError::Value(format!("{name} is not set"))),
                }
            }
            Operand::Pipeline(pipeline, path) => Ok(at(&self.pipeline(pipeline, dot)?, path)),
            Operand::Function(name) => functions::call(name, &[]),
        }
    }
}

/// The field that a path leads to; nothing where there is none.
fn at(value: &Value, path: &[String]) -> Value {
    let mut value = value;
    for name in path {
        let Some(field) = field(value, name) else {
            return Value::Null;
        };
        value = field;
    }
    value.clone()
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    let alike = || {
        let mut fields = fields.iter();
        let found = fields.find(|(known, _)| plain(known) == plain(name));
        found.map(|(_, value)| value)
    };
    fields.get(name).or_else(alike)
}

/// What `range` goes through, with the keys.
fn elements(value: &Value) -> Result<Vec<(Value, Value)>, TemplateError> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(all) => {
            let all = all.iter().enumerate();
            Ok(all.map(|(at, value)| (at.into(), value.clone())).collect())
        }
        Value::Object(all) => {
            let all = all.iter();
            Ok(all
                .map(|(key, value)| (key.clone().into(), value.clone()))
                .collect())
        }
        other => Err(TemplateError::Value(format!(
            "range needs a list, got {other}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> String {
        let value = json!({
            "version": "3.0.0",
            "dns": {"domain": "weave.local", "tombstones": 2, "entries": [
                {"name": "foo", "address": "10.1.0.1"}, {"name": "bar", "address": "10.1.0.2"}]},
            "uptime_seconds": 7,
            "mesh": {"peers": [], "nickname": "<one>"},
            "ipam": null,
        });
        match Template::parse(template).and_then(|template| template.render(&value)) {
            Ok(text) => text,
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn a_template_shows_what_go_s_would() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.version}}!", "3.0.0!"),
            ("{{.DNS.Domain}} {{.UptimeSeconds}}", "weave.local 7"),
            ("{{.nothing.at.all}}", "<no value>"),
            (
                "{{range .dns.entries}}{{.name}}={{.address}} {{end}}",
                "foo=10.1.0.1 bar=10.1.0.2 ",
            ),
            (
                "{{range $i, $e := .dns.entries}}{{$i}}{{$e.name}}{{$.version}} {{end}}",
                "0foo3.0.0 1bar3.0.0 ",
            ),
            ("{{range $e := .dns.entries}}{{$e.name}}{{end}}", "foobar"),
            ("{{range .mesh.peers}}x{{else}}nobody{{end}}", "nobody"),
            (
                "{{if .ipam}}yes{{else if .dns}}names{{else}}no{{end}}",
                "names",
            ),
            (
                "{{with .mesh}}{{.nickname}}{{end}}{{with .ipam}}x{{end}}",
                "<one>",
            ),
            ("a  {{- /* nothing */ -}}  b {{- .version -}} c", "ab3.0.0c"),
            (
                "{{json .dns.entries}}",
                r#"[{"address":"10.1.0.1","name":"foo"},{"address":"10.1.0.2","name":"bar"}]"#,
            ),
            ("{{.dns.entries | len}} {{len .version}}", "2 5"),
            (
                "{{(index .dns.entries 1).name}} {{index .dns \"domain\"}}",
                "bar weave.local",
            ),
            (
                "{{if and .dns (eq .version \"3.0.0\" \"4\")}}same{{end}}",
                "same",
            ),
            ("{{if or .ipam (not .mesh.peers)}}{{ne 1 2}}{{end}}", "true"),
            (
                "{{$n := .dns.tombstones}}{{if gt $n 1}}{{$n}}{{end}}{{lt 1.5 1}}",
                "2false",
            ),
            (
                "{{printf \"%s has %d, %q%%\" .version .dns.tombstones `x`}}",
                "3.0.0 has 2, \"x\"%",
            ),
            ("{{\"\\t{{}}\" }}", "\t{{}}"),
        ] {
            assert_eq!(rendered(template), expected, "{template}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (template, expected) in [
            ("{{.a", "expected }}"),
            ("{{if .a}}", "expected {{end}}"),
            ("{{end}}", "expected an action"),
            ("{{}}", "expected a value"),
            ("{{nonsense .a}}", "expected a function"),
            ("{{.version .dns}}", "only a function"),
            ("{{range .version}}{{end}}", "range needs a list"),
            ("{{$x}}", "$x is not set"),
            ("{{index .dns.entries 9}}", "no element 9"),
            ("{{len 5}}", "len needs"),
            ("{{\"open}}", "expected a closing quote"),
        ] {
            let shown = rendered(template);
            assert!(shown.contains(expected), "{template}: {shown}");
        }
        let deep = "(".repeat(100_000);
        assert!(rendered(&format!("{{{{{deep}}}}}")).contains("expected at most"));
        let nested = "{{if 1}}".repeat(100_000);
        assert!(rendered(&nested).contains("expected at most"));
    }

    proptest! {
        #[test]
        fn no_template_panics(parts in proptest::collection::vec(
            "(\\{\\{|\\}\\}|\\.dns|range |if |end|else|\\$x|:=|[ (|)\"-]|len|[a-z1é])", 0..20,
        )) {
            rendered(&parts.concat());
        }
    }
}

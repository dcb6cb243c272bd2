//! What templates can do with values.

use std::cmp::Ordering;

use serde_json::Value;

use super::TemplateError;

/// The functions that there are.
pub(super) const NAMES: [&str; 14] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lt", "ne", "not", "or",
    "printf",
];

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let wrong = |needs: &str| {
        let got: Vec<_> = arguments.iter().map(text).collect();
        let got = got.join(" ");
        TemplateError::Value(format!("{name} needs {needs}, got {got}"))
    };
    let compared = |holds: fn(Ordering) -> bool| match arguments {
        [one, two] => match compare(one, two) {
            Some(ordering) => Ok(holds(ordering).into()),
            None => Err(wrong("two numbers or two texts")),
        },
        _ => Err(wrong("two values")),
    };
    match (name, arguments) {
        ("and", [.., last]) => {
            let first = arguments.iter().find(|value| !truth(value));
            Ok(first.unwrap_or(last).clone())
        }
        ("or", [.., last]) => {
            let first = arguments.iter().find(|value| truth(value));
            Ok(first.unwrap_or(last).clone())
        }
        ("not", [value]) => Ok((!truth(value)).into()),
        ("eq", [one, others @ ..]) if !others.is_empty() => {
            Ok(others.iter().any(|other| alike(one, other)).into())
        }
        ("ne", [one, two]) => Ok((!alike(one, two)).into()),
        ("lt", _) => compared(Ordering::is_lt),
        ("le", _) => compared(Ordering::is_le),
        ("gt", _) => compared(Ordering::is_gt),
        ("ge", _) => compared(Ordering::is_ge),
        ("len", [value]) => match value {
            Value::String(text) => Ok(text.len().into()),
            Value::Array(all) => Ok(all.len().into()),
            Value::Object(all) => Ok(all.len().into()),
            Value::Null => Ok(0.into()),
            _ => Err(wrong("a text or a list")),
        },
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), element),
        ("join", [Value::Array(all), Value::String(between)]) => {
            let all: Vec<_> = all.iter().map(text).collect();
            Ok(all.join(between).into())
        }
        ("json", [value]) => Ok(value.to_string().into()),
        ("printf", [Value::String(format), values @ ..]) => Ok(formatted(format, values).into()),
        _ => Err(wrong("other arguments")),
    }
}

/// A value as text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(all) => {
            let all: Vec<_> = all.iter().map(text).collect();
            format!("[{}]", all.join(" "))
        }
        Value::Object(all) => {
            let all = all
                .iter()
                .map(|(key, value)| format!("{key}:{}", text(value)));
            format!("map[{}]", all.collect::<Vec<_>>().join(" "))
        }
    }
}

/// Whether a value counts as true: nothing, zero and what is empty do not.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
    }
}

fn element(value: Value, key: &Value) -> Result<Value, TemplateError> {
    let found = match (&value, key) {
        (Value::Array(all), Value::Number(at)) => {
            let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
            at.and_then(|at| all.get(at)).cloned()
        }
        // As in Go, what a map does not have is nothing.
        (Value::Object(all), Value::String(key)) => Some(all.get(key).cloned().unwrap_or_default()),
        _ => None,
    };
    let missing = || TemplateError::Value(format!("there is no element {}", text(key)));
    found.ok_or_else(missing)
}

fn alike(one: &Value, two: &Value) -> bool {
    one == two || compare(one, two) == Some(Ordering::Equal)
}

fn compare(one: &Value, two: &Value) -> Option<Ordering> {
    match (one, two) {
        (Value::Number(one), Value::Number(two)) => one.as_f64()?.partial_cmp(&two.as_f64()?),
        (Value::String(one), Value::String(two)) => Some(one.cmp(two)),
        _ => None,
    }
}

/// `%s`, `%d` and `%v` stand for the values in order, `%q` for one in quotes.
fn formatted(format: &str, values: &[Value]) -> String {
    let mut values = values.iter();
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('%') => out.push('%'),
            Some('q') => {
                let shown = values.next().map(text).unwrap_or_default();
                out.push_str(&Value::String(shown).to_string());
            }
            Some(_) => out.push_str(&values.next().map(text).unwrap_or_default()),
            None => out.push('%'),
        }
    }
    out
}

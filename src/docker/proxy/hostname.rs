//! The host name of a container, made of its name.

use regex_lite::Regex;

/// The longest host name, with its domain (`HOST_NAME_MAX` of the kernel).
const MAX_HOSTNAME: usize = 64;

/// Of what host names are made.
#[derive(Debug, Clone, Default)]
pub struct HostnameRule {
    /// The label whose value is taken in place of the container's name.
    pub label: Option<String>,
    /// What of it is replaced by what.
    pub replacement: Option<(Regex, String)>,
}

impl HostnameRule {
    /// The host name within a domain; `None` where none can be made.
    pub(super) fn hostname(
        &self,
        name: Option<&str>,
        label: impl Fn(&str) -> Option<String>,
        domain: &str,
    ) -> Option<String> {
        let labelled = self.label.as_deref().and_then(label);
        let text = labelled.or_else(|| name.map(str::to_owned))?;
        let text = match &self.replacement {
            Some((pattern, replacement)) => pattern
                .replace_all(&text, replacement.as_str())
                .into_owned(),
            None => text,
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let fits = text.len() + 1 + domain.len() <= MAX_HOSTNAME;
        (!text.is_empty() && fits && text.chars().all(allowed)).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_of_name_or_label_by_the_rule() {
        let label = |wanted: &str| (wanted == "host").then(|| "aws-1-web".to_owned());
        let made = |rule: &HostnameRule, name| rule.hostname(name, label, "weave.local");
        let mut rule = HostnameRule::default();
        assert_eq!(made(&rule, Some("db")).as_deref(), Some("db"));
        assert_eq!(made(&rule, None), None);
        rule.label = Some("host".to_owned());
        assert_eq!(made(&rule, Some("db")).as_deref(), Some("aws-1-web"));
        let pattern = Regex::new("^aws-[0-9]+-(.*)$").unwrap();
        rule.replacement = Some((pattern, "my-app-$1".to_owned()));
        assert_eq!(made(&rule, None).as_deref(), Some("my-app-web"));
        rule.label = Some("other".to_owned());
        assert_eq!(made(&rule, Some("db")).as_deref(), Some("db"));
        assert_eq!(made(&rule, Some(&"x".repeat(60))), None);
    }
}

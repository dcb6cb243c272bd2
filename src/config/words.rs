//! `EXTRA_ARGS` into words, as a shell would.

/// Splits text at blanks; quotes and backslashes keep blanks in a word. A quote that is never
/// closed ends with the text: the second value says whether that happened.
pub(super) fn split(text: &str) -> (Vec<String>, bool) {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let word = word.get_or_insert_default();
                match chars.next() {
                    // In double quotes a backslash is itself before anything else (POSIX shell,
                    // section 2.2.3).
                    Some(next) if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') => {
                        word.extend(['\\', next]);
                    }
                    Some(next) => word.push(next),
                    None => word.push('\\'),
                }
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (words, quote.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let check = |text: &str, words: &[&str]| {
            assert_eq!(
                split(text),
                (words.iter().map(|w| (*w).to_owned()).collect(), false)
            );
        };
        check("", &[]);
        check("  a\tb\n c ", &["a", "b", "c"]);
        check("--password='a b' c", &["--password=a b", "c"]);
        check(
            r#"--password "a \"b\" \n" ''"#,
            &["--password", r#"a "b" \n"#, ""],
        );
        check(r"a\ b #c", &["a b", "#c"]);
        check("'it'\"'\"'s'", &["it's"]);
    }

    #[test]
    fn an_open_quote_ends_with_the_text() {
        assert_eq!(
            split("--password 'a b"),
            (vec!["--password".into(), "a b".into()], true)
        );
    }
}

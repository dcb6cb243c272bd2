//! How templates are written.

use serde_json::{Number, Value};

use super::{MAX_DEPTH, TemplateError, functions};

/// Actions in a row.
pub(super) type Block = Vec<Action>;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    Text(String),
    Print(Pipeline),
    Set(String, Pipeline),
    If(Pipeline, Block, Block),
    With(Pipeline, Block, Block),
    Range {
        variables: Vec<String>,
        over: Pipeline,
        body: Block,
        otherwise: Block,
    },
}

/// Commands, each of which gets what the one before it gave. None is empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline(pub(super) Vec<Vec<Operand>>);

/// What a command is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Literal(Value),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Pipeline(Pipeline, Vec<String>),
    Function(String),
}

/// What a template's text is cut into.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Literal(Value),
    /// `.a.b`; a dot alone is empty. Whether it follows a parenthesis at once.
    Field(Vec<String>, bool),
    Variable(String, Vec<String>),
    Word(String),
    Sign(&'static str),
}

/// Reads a whole template.
pub(super) fn template(text: &str) -> Result<Block, TemplateError> {
    let pieces = pieces(text)?;
    let mut parser = Parser {
        pieces: pieces.into_iter().peekable(),
    };
    let block = parser.block(0)?;
    match parser.pieces.next() {
        None => Ok(block),
        Some(piece) => Err(syntax("an action", &shown(&piece))),
    }
}

struct Parser<'a> {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece<'a>>>,
}

impl Parser<'_> {
    /// Actions up to an `end` or `else`, which is left.
    fn block(&mut self, depth: usize) -> Result<Block, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let mut block = Block::new();
        while let Some(piece) = self.pieces.peek() {
            if matches!(piece, Piece::Action(tokens) if is(tokens, "end") || is(tokens, "else")) {
                break;
            }
            let action = match self.pieces.next() {
                Some(Piece::Text(text)) => Action::Text(text.to_owned()),
                Some(Piece::Action(tokens)) => match self.action(tokens, depth)? {
                    Some(action) => action,
                    None => continue,
                },
                None => break,
            };
            block.push(action);
        }
        Ok(block)
    }

    /// One action; none for a comment.
    fn action(
        &mut self,
        tokens: Vec<Token>,
        depth: usize,
    ) -> Result<Option<Action>, TemplateError> {
        let Some(Token::Word(word)) = tokens.first() else {
            return simple(&tokens).map(Some);
        };
        match word.as_str() {
            "/*" => Ok(None),
            "if" => {
                let condition = whole(&tokens[1..])?;
                let (then, otherwise) = self.branches(depth)?;
                Ok(Some(Action::If(condition, then, otherwise)))
            }
            "with" => {
                let value = whole(&tokens[1..])?;
                let (then, otherwise) = self.branches(depth)?;
                Ok(Some(Action::With(value, then, otherwise)))
            }
            "range" => {
                let (variables, over) = assignment(&tokens[1..], 2)?;
                let (body, otherwise) = self.branches(depth)?;
                Ok(Some(Action::Range {
                    variables,
                    over,
                    body,
                    otherwise,
                }))
            }
            _ => simple(&tokens).map(Some),
        }
    }

    /// What comes up to `end`, and after an `else`.
    fn branches(&mut self, depth: usize) -> Result<(Block, Block), TemplateError> {
        let then = self.block(depth + 1)?;
        let otherwise = match self.pieces.next() {
            Some(Piece::Action(tokens)) if is(&tokens, "else") && tokens.len() == 1 => {
                let otherwise = self.block(depth + 1)?;
                match self.pieces.next() {
                    Some(Piece::Action(tokens)) if is(&tokens, "end") => otherwise,
                    other => return Err(no_end(other.as_ref())),
                }
            }
            // `else if` is an `if` in the other branch, with the same end.
            Some(Piece::Action(tokens)) if is(&tokens, "else") => {
                let nested = self.action(tokens[1..].to_vec(), depth + 1)?;
                nested.into_iter().collect()
            }
            Some(Piece::Action(tokens)) if is(&tokens, "end") => Block::new(),
            other => return Err(no_end(other.as_ref())),
        };
        Ok((then, otherwise))
    }
}

fn no_end(got: Option<&Piece<'_>>) -> TemplateError {
    let got = got.map_or_else(|| "the template's end".to_owned(), shown);
    syntax("{{end}}", &got)
}

fn is(tokens: &[Token], word: &str) -> bool {
    matches!(tokens.first(), Some(Token::Word(first)) if first == word)
}

fn simple(tokens: &[Token]) -> Result<Action, TemplateError> {
    let (mut variables, pipeline) = assignment(tokens, 1)?;
    Ok(match variables.pop() {
        Some(name) => Action::Set(name, pipeline),
        None => Action::Print(pipeline),
    })
}

/// `$a, $b := pipeline`, or a pipeline alone.
fn assignment(tokens: &[Token], most: usize) -> Result<(Vec<String>, Pipeline), TemplateError> {
    let Some(at) = tokens.iter().position(|token| *token == Token::Sign(":=")) else {
        return Ok((Vec::new(), whole(tokens)?));
    };
    let mut names = Vec::new();
    for token in tokens[..at]
        .iter()
        .filter(|token| **token != Token::Sign(","))
    {
        match token {
            Token::Variable(name, path) if path.is_empty() => names.push(name.clone()),
            other => return Err(syntax("a variable like $x", &format!("{other:?}"))),
        }
    }
    if names.is_empty() || names.len() > most {
        return Err(syntax("a variable before :=", &names.join(" ")));
    }
    Ok((names, whole(&tokens[at + 1..])?))
}

/// All tokens as one pipeline.
fn whole(tokens: &[Token]) -> Result<Pipeline, TemplateError> {
    let mut rest = tokens;
    let pipeline = pipeline(&mut rest, 0)?;
    match rest.first() {
        None => Ok(pipeline),
        Some(token) => Err(syntax("}}", &format!("{token:?}"))),
    }
}

fn pipeline(rest: &mut &[Token], depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    let mut commands = vec![Vec::new()];
    while let Some((token, after)) = rest.split_first() {
        if *token == Token::Sign(")") {
            break;
        }
        *rest = after;
        let operand = match token {
            Token::Sign("|") => {
                commands.push(Vec::new());
                continue;
            }
            Token::Sign("(") => {
                let inner = pipeline(rest, depth + 1)?;
                let Some((Token::Sign(")"), after)) = rest.split_first() else {
                    return Err(syntax("a closing parenthesis", "the action's end"));
                };
                *rest = after;
                let mut path = Vec::new();
                if let Some((Token::Field(field, true), after)) = rest.split_first() {
                    path.clone_from(field);
                    *rest = after;
                }
                Operand::Pipeline(inner, path)
            }
            Token::Literal(value) => Operand::Literal(value.clone()),
            Token::Field(path, _) => Operand::Field(path.clone()),
            Token::Variable(name, path) => Operand::Variable(name.clone(), path.clone()),
            Token::Word(word) if functions::NAMES.contains(&word.as_str()) => {
                Operand::Function(word.clone())
            }
            Token::Word(word) => return Err(syntax("a function", word)),
            Token::Sign(sign) => return Err(syntax("a value", sign)),
        };
        if let Some(command) = commands.last_mut() {
            command.push(operand);
        }
    }
    match commands.iter().all(|command| !command.is_empty()) {
        true => Ok(Pipeline(commands)),
        false => Err(syntax("a value", "nothing")),
    }
}

/// Cuts a template into text and actions. `{{-` and `-}}` take the white space next to them.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trimmed = false;
    loop {
        let (mut before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        if trimmed {
            before = before.trim_start();
        }
        let marked = after.and_then(|after| after.strip_prefix('-'));
        let marked = marked.filter(|after| after.starts_with(char::is_whitespace));
        if marked.is_some() {
            before = before.trim_end();
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let Some(action) = marked.or(after) else {
            return Ok(pieces);
        };
        let (tokens, after, trims) = tokens(action)?;
        pieces.push(Piece::Action(tokens));
        (rest, trimmed) = (after, trims);
    }
}

/// The tokens of an action, what follows it, and whether that loses its white space.
fn tokens(action: &str) -> Result<(Vec<Token>, &str, bool), TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = action;
    let mut closed = false;
    loop {
        let spaced = rest.trim_start();
        if let Some(after) = spaced.strip_prefix("-}}")
            && spaced.len() < rest.len()
        {
            return Ok((tokens, after, true));
        }
        let adjoins = closed && spaced.len() == rest.len();
        rest = spaced;
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        let (token, after) = token(rest, adjoins)?;
        closed = token == Token::Sign(")");
        tokens.push(token);
        rest = after;
    }
}

fn token(text: &str, adjoins: bool) -> Result<(Token, &str), TemplateError> {
    if let Some(comment) = text.strip_prefix("/*") {
        let (_, after) = comment
            .split_once("*/")
            .ok_or_else(|| syntax("*/", "the template's end"))?;
        return Ok((Token::Word("/*".to_owned()), after));
    }
    for sign in [":=", "|", "(", ")", ","] {
        if let Some(after) = text.strip_prefix(sign) {
            return Ok((Token::Sign(sign), after));
        }
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let path = |text: &str| -> Vec<String> {
        let names = text.split('.').filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    let split = |text: &str, part: &dyn Fn(char) -> bool| {
        let end = text.find(|c| !part(c)).unwrap_or(text.len());
        (text[..end].to_owned(), end)
    };
    match text.chars().next() {
        None => Err(syntax("}}", "the template's end")),
        Some('"') => quoted(text),
        Some('`') => {
            let (raw, after) = text[1..]
                .split_once('`')
                .ok_or_else(|| syntax("a closing quote", "the template's end"))?;
            Ok((Token::Literal(raw.into()), after))
        }
        Some('.') => {
            let (fields, end) = split(text, &|c| is_word(c) || c == '.');
            Ok((Token::Field(path(&fields), adjoins), &text[end..]))
        }
        Some('$') => {
            let (fields, end) = split(&text[1..], &|c| is_word(c) || c == '.');
            let (name, fields) = fields.split_once('.').unwrap_or((&fields, ""));
            let variable = Token::Variable(format!("${name}"), path(fields));
            Ok((variable, &text[1 + end..]))
        }
        Some('0'..='9' | '-') => {
            let (number, end) = split(text, &|c| is_word(c) || c == '.' || c == '-');
            let parsed: Result<Number, _> = serde_json::from_str(&number);
            let parsed = parsed.map_err(|_| syntax("a number", &number))?;
            Ok((Token::Literal(Value::Number(parsed)), &text[end..]))
        }
        Some(_) => {
            let (word, end) = split(text, &is_word);
            let token = match word.as_str() {
                "" => return Err(syntax("a value or }}", text)),
                "true" => Token::Literal(true.into()),
                "false" => Token::Literal(false.into()),
                "nil" => Token::Literal(Value::Null),
                _ => Token::Word(word),
            };
            Ok((token, &text[end..]))
        }
    }
}

/// A text in quotes, with the escapes of JSON.
fn quoted(text: &str) -> Result<(Token, &str), TemplateError> {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => {
                let (quoted, after) = text.split_at(at + 1);
                let parsed: Result<String, _> = serde_json::from_str(quoted);
                let parsed = parsed.map_err(|_| syntax("a text in quotes", quoted))?;
                return Ok((Token::Literal(parsed.into()), after));
            }
            '\\' if !escaped => escaped = true,
            _ => escaped = false,
        }
    }
    Err(syntax("a closing quote", "the template's end"))
}

fn shown(piece: &Piece<'_>) -> String {
    match piece {
        Piece::Text(text) => (*text).to_owned(),
        Piece::Action(tokens) => match tokens.first() {
            Some(Token::Word(word)) => format!("{{{{{word}}}}}"),
            _ => "another action".to_owned(),
        },
    }
}

fn too_deep() -> TemplateError {
    syntax("at most 64 levels", "more")
}

fn syntax(expected: &'static str, got: &str) -> TemplateError {
    let got = got.chars().take(40).collect();
    TemplateError::Syntax { expected, got }
}

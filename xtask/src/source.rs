//! Rust source as tidy sees it: the code without what comments and literals say.
//!
//! Not a parser: it knows where comments, strings and characters begin and end, which words stand between, and
//! where the braces of a function close. That is enough for every rule here.

/// `text` with each character of a comment or literal replaced by a space; lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        }
        while at < end {
            code.push(if chars[at] == '\n' { '\n' } else { ' ' });
            at += 1;
        }
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` itself where none begins.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, &['\n']),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => string_end(chars, at),
        '\'' => char_end(chars, at),
        'r' if !at.checked_sub(1).is_some_and(|b| is_word(chars[b]) && chars[b] != 'b') => {
            raw_string_end(chars, at)
        }
        _ => at,
    }
}

fn find(chars: &[char], from: usize, what: &[char]) -> usize {
    let position = chars[from..].windows(what.len()).position(|w| w == what);
    position.map_or(chars.len(), |p| from + p)
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let mut close = vec!['"'];
    close.resize(1 + hashes, '#');
    (find(chars, at + 2 + hashes, &close) + close.len()).min(chars.len())
}

/// A character has its quote after one character or an escape; a lifetime has none.
fn char_end(chars: &[char], at: usize) -> usize {
    match chars.get(at + 1) {
        Some('\\') => (find(chars, at + 3, &['\'']) + 1).min(chars.len()),
        Some(_) if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The lines (from 1) of `text` that hold `word`, whole where it begins or ends like a word.
pub(crate) fn lines_with(text: &str, word: &str) -> Vec<usize> {
    let (first, last) = (word.chars().next(), word.chars().last());
    let bounded = |line: &str, at: usize| {
        let before = line[..at].chars().last().is_some_and(is_word) && first.is_some_and(is_word);
        let after = line[at + word.len()..].chars().next().is_some_and(is_word) && last.is_some_and(is_word);
        !before && !after
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.match_indices(word).any(|(at, _)| bounded(line, at)))
        .map(|(index, _)| index + 1)
        .collect()
}

/// A function: its name, the line of its `fn`, and how many lines of code its body has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) length: usize,
}

/// The functions of `text`. Lines without code do not count, as for clippy.
pub(crate) fn functions(text: &str) -> Vec<Function> {
    let code = code(text);
    let lines: Vec<&str> = code.lines().collect();
    let mut functions = Vec::new();
    for line in lines_with(&code, "fn") {
        let rest = lines[line - 1].split("fn ").nth(1).unwrap_or("");
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        if !name.is_empty() {
            functions.push(Function { name, line, length: body_length(&lines[line - 1..]) });
        }
    }
    functions
}

/// Lines of code between the braces of the function whose signature begins on the first line.
fn body_length(lines: &[&str]) -> usize {
    let (mut depth, mut round, mut length) = (0_usize, 0_i32, 0);
    for (index, line) in lines.iter().enumerate() {
        let inside = depth > 0;
        let from = if index == 0 { line.find("fn ").unwrap_or(0) } else { 0 };
        for c in line[from..].chars() {
            match c {
                '(' | '[' => round += 1,
                ')' | ']' => round -= 1,
                '{' => depth += 1,
                '}' if depth <= 1 => return length,
                '}' => depth -= 1,
                // A declaration without a body.
                ';' if depth == 0 && round == 0 => return 0,
                _ => {}
            }
        }
        if inside && !line.trim().is_empty() {
            length += 1;
        }
    }
    length
}

/// Whether a function of this name stands in `text`.
pub(crate) fn has_function(text: &str, name: &str) -> bool {
    text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let text = "let a = \"unsafe \\\" unsafe\"; // unsafe\n/* unsafe /* x */ unsafe */ let b: &'static str = r#\"unsafe\"#;\n\
                    let c = '\\''; let d = 'u'; unsafe { x::<'a>(b\"unsafe\", br\"unsafe\") }";
        assert_eq!(lines_with(&code(text), "unsafe"), [3]);
        assert!(code(text).contains("&'static str") && code(text).contains("x::<'a>"));
        assert_eq!(code(text).lines().count(), 3);
    }

    #[test]
    fn words_are_whole() {
        assert!(lines_with("#![deny(unsafe_code)]", "unsafe").is_empty());
        assert_eq!(lines_with("a\nunsafe{}", "unsafe"), [2]);
        assert_eq!(lines_with("todo!(1)", "todo!("), [1]);
    }

    #[test]
    fn a_function_is_measured_without_comments_and_blank_lines() {
        let text = "impl X {\n    fn a(x: [u8; 3]) -> u8\n    {\n        // why\n\n        if y {\n            z(\"}\")\n        }\n    }\n    fn b() {}\n    fn c();\n}\n";
        let found = functions(text);
        let lengths: Vec<(&str, usize)> = found.iter().map(|f| (f.name.as_str(), f.length)).collect();
        assert_eq!(lengths, [("a", 3), ("b", 0), ("c", 0)]);
        assert_eq!(found[0].line, 2);
    }
}

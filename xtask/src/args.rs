//! The arguments after a subcommand: flags, flags with a value, and the rest.
//!
//! A parser of its own because xtask must build in seconds; it knows no abbreviations.

use crate::failure::Failure;

/// What is left of the command line; each question takes away what it found.
#[derive(Debug)]
pub(crate) struct Args {
    left: Vec<String>,
    help: &'static str,
}

impl Args {
    /// Prints `help` and returns None where the arguments ask for it.
    pub(crate) fn new(arguments: Vec<String>, help: &'static str) -> Option<Args> {
        if arguments.iter().any(|a| a == "-h" || a == "--help") {
            print!("{help}");
            return None;
        }
        Some(Args { left: arguments, help })
    }

    /// Whether `--name` was given.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.left.len();
        self.left.retain(|a| a != name);
        self.left.len() != before
    }

    /// The value of `--name VALUE` or `--name=VALUE`.
    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>, Failure> {
        let joined = format!("{name}=");
        if let Some(at) = self.left.iter().position(|a| a.starts_with(&joined)) {
            return Ok(Some(self.left.remove(at)[joined.len()..].to_owned()));
        }
        let Some(at) = self.left.iter().position(|a| a == name) else { return Ok(None) };
        if at + 1 >= self.left.len() {
            return Err(Failure::usage(format!("{name} needs a value"), self.help));
        }
        self.left.remove(at);
        Ok(Some(self.left.remove(at)))
    }

    /// The value of `name` as a number.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.value(name)? else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            Failure::usage(format!("{name} needs a whole number, not `{text}`"), format!("{name} 10"))
        })?;
        Ok(Some(number))
    }

    /// The arguments that are no flags; an unknown flag is refused.
    pub(crate) fn rest(self) -> Result<Vec<String>, Failure> {
        if let Some(unknown) = self.left.iter().find(|a| a.starts_with('-')) {
            return Err(Failure::usage(format!("there is no flag `{unknown}` here"), self.help));
        }
        Ok(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::Args;

    fn args(line: &str) -> Args {
        Args::new(line.split_whitespace().map(str::to_owned).collect(), "help").expect("no --help in it")
    }

    #[test]
    fn flags_and_values_are_taken_out_and_the_rest_stays_in_order() {
        let mut a = args("A7 --json --minutes 3 --seed=9 A8");
        assert!(a.flag("--json"));
        assert_eq!(a.number("--minutes").unwrap(), Some(3));
        assert_eq!(a.value("--seed").unwrap().as_deref(), Some("9"));
        assert_eq!(a.rest().unwrap(), ["A7", "A8"]);
    }

    #[test]
    fn an_unknown_flag_and_a_missing_value_are_refused() {
        assert_eq!(args("--jsno").rest().unwrap_err().exit, 2);
        assert_eq!(args("--minutes").number("--minutes").unwrap_err().exit, 2);
        assert_eq!(args("--minutes x").number("--minutes").unwrap_err().exit, 2);
    }
}

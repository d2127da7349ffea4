//! `busway config`: checks, shows and explains what `busway up` is configured with.
//!
//! The configuration itself, its table and its words are `busway_node::config`'s; here flags become a layer of it, and
//! its problems become reports. Nothing of the bus is touched.
//!
//! Invariant: `config check` finds what `up` would find.

use std::path::Path;

use busway_node::config::{self, Choice, Instance, Layers, Loaded, Problem, Setting, Unset};
use serde::Serialize;

use crate::command::{CheckArgs, ConfigCommand, ExplainArgs};
use crate::exit::{CommandCode, Exit, Failure, Report};
use crate::session::Context;

/// What a flag says of a key.
pub(crate) type FlagValue = (&'static str, String);

#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    value: Option<String>,
    from: String,
}

#[derive(Debug, Serialize)]
struct Checked {
    file: Option<String>,
    sound: bool,
}

pub(crate) fn run(which: &ConfigCommand, context: &mut Context<'_>) -> Result<Exit, Failure> {
    match which {
        ConfigCommand::Check(args) => check(args, context),
        ConfigCommand::Show(args) => show(args, context),
        ConfigCommand::Explain(args) => explain(args, context),
    }
}

/// Reads all layers; what is wrong is told here, each problem as a report.
pub(crate) fn load(
    file: Option<&Path>,
    flags: &[FlagValue],
    context: &Context<'_>,
) -> Result<Loaded, Failure> {
    read(file, flags).map_err(|problems| {
        for problem in &problems {
            context.output.report(&report(problem));
        }
        Failure::AlreadyTold(Exit::Usage)
    })
}

/// The same, telling nobody.
pub(crate) fn read(file: Option<&Path>, flags: &[FlagValue]) -> Result<Loaded, Vec<Problem>> {
    let file = file.map_or(Choice::Found, |path| Choice::Named(path.to_path_buf()));
    config::load(&Layers { file, environment: &|name| std::env::var_os(name), flags })
}

fn report(problem: &Problem) -> Report {
    let Problem { cause, place: at, remedy } = problem.clone();
    Report { code: CommandCode::Configuration.to_string(), cause, at, remedy, exit: Exit::Usage }
}

fn check(args: &CheckArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let loaded = load(args.file.as_deref(), &globals(context), context)?;
    let file = loaded.file.map(|path| path.display().to_string());
    if context.output.json() {
        context.output.object(&Checked { file, sound: true })?;
    } else {
        let what = file.as_deref().unwrap_or("no file, and all else");
        context.output.line(format_args!("{what}: sound"))?;
    }
    Ok(Exit::Done)
}

fn show(args: &CheckArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let loaded = load(args.file.as_deref(), &globals(context), context)?;
    if context.output.json() {
        for setting in &loaded.settings {
            let value = setting.value.as_ref().map(config::Value::show);
            let shown = Shown { key: setting.name(), value, from: setting.origin.to_string() };
            context.output.object(&shown)?;
        }
        return Ok(Exit::Done);
    }
    let mut section = ("", "");
    for setting in &loaded.settings {
        let (of, name) = setting.key.name.rsplit_once('.').unwrap_or(("", setting.key.name));
        let is_rule = setting.key.instance == Instance::Rule;
        let of = if is_rule { (of, setting.instance.as_str()) } else { (of, "") };
        if of != section {
            section = of;
            match of.0.strip_suffix(".RULE") {
                Some(list) => context.output.line(format_args!("\n[[{list}]]"))?,
                None => context.output.line(format_args!("\n[{}]", of.0))?,
            }
        }
        let name = if setting.instance.is_empty() || is_rule { name } else { &setting.instance };
        context.output.line(shown(name, setting))?;
    }
    Ok(Exit::Done)
}

/// A line of a file that says the same.
fn shown(name: &str, setting: &Setting) -> String {
    match (&setting.value, setting.key.unset) {
        (Some(value), _) => format!("{:<40}  # {}", format!("{name} = {}", value.show()), setting.origin),
        (None, Unset::Words(words)) => format!("# {name} is not set: {words}"),
        (None, Unset::Value(_)) => format!("# {name} is not set"),
    }
}

fn explain(args: &ExplainArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    if args.page {
        context.output.line(config::page().trim_end())?;
        return Ok(Exit::Done);
    }
    let Some(name) = &args.key else {
        for key in config::KEYS {
            let text = config::explain(key.name).unwrap_or_default();
            context.output.line(format_args!("{text}\n"))?;
        }
        return Ok(Exit::Done);
    };
    let text = config::explain(name).map_err(|near| {
        let remedy =
            near.map_or_else(|| "busway config explain".to_owned(), |near| format!("did you mean {near}?"));
        let cut: String = name.chars().take(80).collect();
        Failure::usage(format!("no key is called {}", cut.escape_debug()), "busway config explain", remedy)
    })?;
    context.output.line(text)?;
    Ok(Exit::Done)
}

/// What the flags that every command takes say of keys. Those that come from a variable are read as such.
pub(crate) fn globals(context: &Context<'_>) -> Vec<FlagValue> {
    let mut flags = Vec::new();
    let mut given = |name: &'static str, variable: &str, value: Option<&str>| {
        let of_variable = std::env::var_os(variable);
        let same = |text: &str| of_variable.as_ref().is_some_and(|of| of == text);
        if let Some(text) = value.filter(|text| !text.is_empty() && !same(text)) {
            flags.push((name, text.to_owned()));
        }
    };
    given("domain", "BUSWAY_DOMAIN", context.global.domain_given());
    given("realm", "BUSWAY_REALM", context.global.realm.as_deref());
    flags
}

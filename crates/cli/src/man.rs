//! `busway man DIR`: man pages made from the command table, one a command.

use std::fs;
use std::io;
use std::path::Path;

use crate::command::{ManArgs, table};
use crate::exit::{Exit, Failure};
use crate::output::Output;

pub(crate) fn run(args: &ManArgs, output: &mut Output) -> Result<Exit, Failure> {
    let directory = &args.directory;
    let on_error = |error: &io::Error| Failure::stream(error, directory.display().to_string());
    fs::create_dir_all(directory).map_err(|error| on_error(&error))?;
    // Propagates the global flags into each command, as parsing does, so that their pages list them.
    let mut table = table();
    table.build();
    let count = write_page(&table, directory, "busway").map_err(|error| on_error(&error))?;
    output.note(format_args!("wrote {count} pages to {}", directory.display()));
    Ok(Exit::Done)
}

/// Writes the page of a command and those below it; says how many.
fn write_page(command: &clap::Command, directory: &Path, name: &str) -> io::Result<u32> {
    // `leaked` once a page: clap wants names that live as long as the program, and this program ends after it.
    let leaked: &'static str = Box::leak(name.to_string().into_boxed_str());
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().name(leaked).display_name(leaked)).render(&mut page)?;
    fs::write(directory.join(format!("{name}.1")), page)?;
    let mut count = 1;
    for below in command.get_subcommands() {
        count += write_page(below, directory, &format!("{name}-{}", below.get_name()))?;
    }
    Ok(count)
}

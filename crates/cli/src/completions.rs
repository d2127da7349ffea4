//! `busway completions SHELL`: a completion script made from the command table.

use crate::command::{CompletionsArgs, table};
use crate::exit::{Exit, Failure};
use crate::output::Output;

pub(crate) fn run(args: &CompletionsArgs, output: &mut Output) -> Result<Exit, Failure> {
    // Into memory first: the generator panics on a stream that fails, and a closed pipe is no defect.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut table(), "busway", &mut script);
    std::io::Write::write_all(output.data(), &script)
        .map_err(|error| Failure::stream(&error, "writing to stdout"))?;
    Ok(Exit::Done)
}

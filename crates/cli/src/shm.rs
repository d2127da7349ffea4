//! `busway shm ls`: shared segments, their owners and sizes.

use crate::exit::{Exit, Failure};
use crate::session::Context;
use busway_node::Size;

pub(crate) fn run(context: &mut Context<'_>) -> Result<Exit, Failure> {
    let bus = context.join("busway-shm")?;
    let inspection = bus.inspect()?;
    bus.close();
    if context.output.json() {
        for segment in &inspection.segments {
            context.output.object(segment)?;
        }
        return Ok(Exit::Done);
    }
    context
        .output
        .line(format_args!("{:>8}  {:>10}  {:6}  {:24}  {}", "PID", "SIZE", "KIND", "NAME", "TOPIC"))?;
    for segment in &inspection.segments {
        let topic = segment.topic.as_deref().unwrap_or("-");
        let size = Size(segment.bytes).to_string();
        context.output.line(format_args!(
            "{:>8}  {size:>10}  {:6}  {:24}  {topic}",
            segment.owner_pid, segment.kind, segment.name
        ))?;
    }
    let budget = inspection.budget;
    context.output.note(format_args!(
        "{} of {} reserved",
        Size(budget.reserved_bytes),
        Size(budget.limit_bytes)
    ));
    Ok(Exit::Done)
}

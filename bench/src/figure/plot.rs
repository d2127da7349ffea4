//! Plots as SVG: latency distributions, and publish cost against subscribers.
//!
//! Drawn from the records of the log, medians over the rounds; a side that was not measured is left out.

use crate::Failure;
use crate::figure::catalogue::FANOUT;
use crate::figure::rounds::{Record, series};
use crate::figure::{Reading, Spread};
use crate::outcome::median;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::path::Path;

/// One line of a plot.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Draws what there is; returns (file, caption) of each plot.
///
/// # Errors
/// A file cannot be written.
pub fn draw(directory: &Path, records: &[Record]) -> Result<Vec<(&'static str, &'static str)>, Failure> {
    let mut drawn = Vec::new();
    let latency = ["line oneway", "ring oneway", "busway oneway", "iceoryx2 oneway"];
    if let Some(curves) = some(latency.map(|cell| distribution(records, &["P2", "P1"], cell))) {
        quantiles(&directory.join("latency.svg"), "64 B one way, spinning (ping-pong / 2)", &curves)?;
        drawn.push(("latency.svg", "Latency distribution, ping-pong"));
    }
    let rate = [
        "ring rate at 10000/s",
        "busway rate at 10000/s",
        "iceoryx2 rate at 10000/s",
        "ring rate at 500000/s",
        "busway rate at 500000/s",
        "iceoryx2 rate at 500000/s",
    ];
    if let Some(curves) = some(rate.map(|cell| distribution(records, &["RATE"], cell))) {
        quantiles(
            &directory.join("rate.svg"),
            "64 B one way at fixed rates, from the intended send time",
            &curves,
        )?;
        drawn.push(("rate.svg", "Latency distribution at fixed rates"));
    }
    let wake = ["futex wake", "busway wake"];
    if let Some(curves) = some(wake.map(|cell| distribution(records, &["A10", "P7"], cell))) {
        quantiles(&directory.join("wake.svg"), "Wake from sleep, one way", &curves)?;
        drawn.push(("wake.svg", "Distribution of the wake latency"));
    }
    if let Some(curves) = some(["busway", "iceoryx2"].map(|side| fanout(records, side))) {
        costs(&directory.join("fanout.svg"), &curves)?;
        drawn.push(("fanout.svg", "Publish cost against subscribers"));
    }
    Ok(drawn)
}

/// The curves that have points; nothing when none has.
fn some<const COUNT: usize>(curves: [Curve; COUNT]) -> Option<Vec<Curve>> {
    let curves: Vec<Curve> = curves.into_iter().filter(|curve| curve.points.len() > 1).collect();
    (!curves.is_empty()).then_some(curves)
}

/// The latencies of `cell` in the first of `figures` that has it: x is 1 / (1 - quantile).
fn distribution(records: &[Record], figures: &[&str], cell: &str) -> Curve {
    let found = figures.iter().map(|figure| -> Vec<&Vec<(f64, u64)>> {
        let own = records.iter().filter(|record| record.figure == *figure && record.plan.label() == cell);
        own.filter_map(|record| Some(&record.result.as_ref().ok()?.latency.as_ref()?.curve)).collect()
    });
    let rounds = found.into_iter().find(|rounds| !rounds.is_empty()).unwrap_or_default();
    let count = rounds.first().map_or(0, |curve| curve.len());
    let points = (0..count).filter_map(|index| {
        let quantile = rounds[0][index].0;
        let at: Vec<f64> = rounds.iter().filter_map(|curve| Some(curve.get(index)?.1 as f64)).collect();
        (quantile < 1.0).then(|| (1.0 / (1.0 - quantile), median(&at).max(1.0)))
    });
    Curve { name: cell.to_owned(), points: points.collect() }
}

/// Publish cost of `side` at each number of receivers, from P4 or, where that was not run, from P3.
fn fanout(records: &[Record], side: &str) -> Curve {
    let points = FANOUT.iter().filter_map(|count| {
        let cell = if *count == 1 { format!("{side} fanout") } else { format!("{side} fanout to {count}") };
        let reading = Reading { cell, name: "publish_cpu_ns" };
        let found = ["P4", "P3"].map(|figure| series(records, figure, &reading));
        let numbers: Vec<f64> =
            found.iter().find(|numbers| !numbers.is_empty())?.iter().map(|(_, number)| *number).collect();
        Some((*count as f64, Spread::of(&numbers)?.median))
    });
    Curve { name: side.to_owned(), points: points.collect() }
}

fn quantiles(path: &Path, title: &str, curves: &[Curve]) -> Result<(), Failure> {
    let x = (1.0..100_000.0).log_scale();
    let label = |x: &f64| {
        format!("{:.6}", 100.0 * (1.0 - 1.0 / x)).trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    chart(path, title, curves, x, ("percentile", &label), "nanoseconds")
}

fn costs(path: &Path, curves: &[Curve]) -> Result<(), Failure> {
    let x = (1.0..256.0).log_scale().base(2.0);
    let title = "Publish cost against attached subscriber processes";
    chart(
        path,
        title,
        curves,
        x,
        ("subscribers", &|x: &f64| format!("{x:.0}")),
        "processor time of the publisher's thread, ns",
    )
}

fn chart<X>(
    path: &Path,
    title: &str,
    curves: &[Curve],
    x: X,
    (x_name, x_label): (&str, &dyn Fn(&f64) -> String),
    y_name: &str,
) -> Result<(), Failure>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let highs = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1));
    let (low, high) = highs.fold((f64::MAX, 1.0_f64), |(low, high), y| (low.min(y), high.max(y)));
    let root = SVGBackend::new(path, (900, 520)).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 26))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(x, (low * 0.7..high * 1.5).log_scale())
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(&x_label)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(("sans-serif", 18))
        .axis_desc_style(("sans-serif", 20))
        .light_line_style(RGBColor(235, 235, 235))
        .draw()
        .map_err(drawing)?;
    for (index, curve) in curves.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)).point_size(3))
            .map_err(drawing)?
            .label(curve.name.clone())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 24, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 20))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(drawing)?;
    root.present().map_err(drawing)
}

fn drawing(cause: impl core::fmt::Display) -> Failure {
    format!("cannot draw: {cause}").into()
}

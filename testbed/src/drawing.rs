//! The plot of a report: when each node had all of it, beside the least time, and what small messages took meanwhile. As SVG, without a library.
//!
//! Times of shapes that differ are drawn as multiples of their least times, so that all of them are on one scale.

use std::fmt::Write;

use crate::report::{Curve, Report};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 900.0;
/// The two panels: from the top, and how high.
const UPPER: (f64, f64) = (70.0, 330.0);
const LOWER: (f64, f64) = (560.0, 290.0);
const LEFT: f64 = 90.0;
const RIGHT: f64 = 30.0;
const COLOURS: [&str; 8] =
    ["#1f5fbf", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#117a65", "#7f8c8d", "#34495e"];

/// The figures of all shapes in one picture.
pub(crate) fn draw(reports: &[(String, Report)]) -> String {
    let curves: Vec<(String, &Curve)> = reports
        .iter()
        .flat_map(|(label, report)| {
            let name = |curve: &Curve| match (curve.who, &report.peer) {
                ("theirs", Some(peer)) => peer.split([' ', ',']).next().unwrap_or_default().to_owned(),
                (who, _) => who.to_owned(),
            };
            report.curves.iter().map(move |curve| (format!("{}, {label}", name(curve)), curve))
        })
        .collect();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"15\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    arrivals(&mut svg, &curves);
    small(&mut svg, &curves);
    svg.push_str("</svg>\n");
    svg
}

/// A place on a logarithmic axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(self, value: f64) -> f64 {
        let part = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.from + part.min(1.0) * (self.to - self.from)
    }
}

/// Of the values: a little more than the greatest.
fn above(values: impl Iterator<Item = f64>, least: f64) -> f64 {
    values.fold(least, f64::max) * 1.15
}

/// What part of the nodes had all of it, at each multiple of the least time.
fn arrivals(svg: &mut String, curves: &[(String, &Curve)]) {
    let (top, height) = UPPER;
    let ends = curves.iter().filter_map(|(_, curve)| Some(curve.seconds.last()? / curve.least));
    let axis = Axis { low: 0.5, high: above(ends, 2.0), from: LEFT, to: WIDTH - RIGHT };
    title(svg, top, "Nodes that have all of it, at multiples of the least time");
    frame(svg, top, height);
    for tick in [0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0].into_iter().filter(|t| *t <= axis.high) {
        let x = axis.at(tick);
        line(svg, (x, top), (x, top + height), if tick == 1.0 { "#000" } else { "#e5e5e5" });
        text(svg, (x, top + height + 20.0), "middle", &format!("{tick}"));
    }
    text(svg, (axis.at(1.0) + 6.0, top + height - 8.0), "start", "the least time");
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        text(svg, (LEFT - 8.0, top + height * (1.0 - part) + 5.0), "end", &format!("{:.0} %", part * 100.0));
    }
    for ((name, curve), colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let mut path = format!("M{:.1},{:.1}", axis.at(axis.low), top + height);
        let steps = 1.0 / f64::from(u32::try_from(curve.seconds.len().max(1)).unwrap_or(u32::MAX));
        let mut part = 0.0;
        for seconds in &curve.seconds {
            let x = axis.at(seconds / curve.least);
            let _ = write!(path, " L{x:.1},{:.1}", top + height * (1.0 - part));
            part += steps;
            let _ = write!(path, " L{x:.1},{:.1}", top + height * (1.0 - part));
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"><title>{name}</title></path>"
        );
    }
    legend(svg, top + height + 34.0, curves);
}

/// What one of a hundred small messages took, idle and beside bulk.
fn small(svg: &mut String, curves: &[(String, &Curve)]) {
    let (top, height) = LOWER;
    let most = above(curves.iter().filter_map(|(_, curve)| curve.beside_ms), 10.0);
    let axis = Axis { low: 0.1, high: most, from: top + height, to: top };
    title(svg, top, "p99 of a message of 256 bytes, in milliseconds: idle (pale), beside bulk (full)");
    frame(svg, top, height);
    for tick in [0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0].into_iter().filter(|t| *t <= most) {
        let y = axis.at(tick);
        line(svg, (LEFT, y), (WIDTH - RIGHT, y), "#e5e5e5");
        text(svg, (LEFT - 8.0, y + 5.0), "end", &format!("{tick}"));
    }
    let count = f64::from(u32::try_from(curves.len().max(1)).unwrap_or(u32::MAX));
    let room = (WIDTH - LEFT - RIGHT) / count;
    let mut x = LEFT;
    for ((name, curve), colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let bars = [(Some(curve.idle_ms), 0.12, 0.35), (curve.beside_ms, 0.5, 1.0)];
        for (value, place, opacity) in bars {
            let Some(value) = value.filter(|value| *value > 0.0) else { continue };
            let (left, y) = (x + room * place, axis.at(value));
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" fill-opacity=\"{opacity}\"><title>{name}: {value:.2} ms</title></rect>",
                room * 0.36,
                top + height - y
            );
            text(svg, (left + room * 0.18, y - 5.0), "middle", &format!("{value:.1}"));
        }
        x += room;
    }
}

fn legend(svg: &mut String, top: f64, curves: &[(String, &Curve)]) {
    for (index, ((name, _), colour)) in curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let row = f64::from(u32::try_from(index / 2).unwrap_or_default());
        let x = if index % 2 == 0 { LEFT } else { LEFT + 390.0 };
        let y = top + row * 22.0;
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"24\" height=\"4\" fill=\"{colour}\"/>");
        text(svg, (x + 32.0, y + 7.0), "start", name);
    }
}

fn title(svg: &mut String, top: f64, words: &str) {
    let _ =
        writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" font-size=\"19\">{}</text>", top - 16.0, escaped(words));
}

fn frame(svg: &mut String, top: f64, height: f64) {
    let width = WIDTH - LEFT - RIGHT;
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#999\"/>"
    );
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
        at.0,
        at.1,
        escaped(words)
    );
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::report::{Curve, Report};

    #[test]
    fn each_side_of_each_shape_is_drawn_with_its_name() {
        let mut report = Report::new("head".to_owned(), serde_json::json!({}));
        report.peer = Some("gossip 1.0, set <so>".to_owned());
        for (who, slow) in [("busway", 1.0), ("theirs", 6.0)] {
            let seconds = vec![1.0 * slow, 1.1 * slow, 1.2 * slow];
            report.curves.push(Curve {
                who,
                seconds,
                least: 1.0,
                idle_ms: 0.5,
                beside_ms: Some(90.0 * slow),
            });
        }
        let svg = draw(&[("8 nodes".to_owned(), report)]);
        assert_eq!(svg.matches("<path ").count(), 2);
        for name in ["busway, 8 nodes", "gossip, 8 nodes", "540.0", "the least time"] {
            assert!(svg.contains(name), "{name}: {svg}");
        }
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }
}

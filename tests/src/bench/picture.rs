// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures as pictures (SVG): the distribution of latency, bandwidth and rate against the size of messages, the rate against
//! the number of queue pairs.

use anyhow::{anyhow, Context, Result};
use plotters::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};
use verbena_guest::perf::Figure;

const SIZE: (u32, u32) = (800, 480);
const TITLE: i32 = 18;
const LABEL: i32 = 13;

/// A line of a picture.
struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// Draws what there is, into `folder`; answers the files.
///
/// # Errors
///
/// A file cannot be written.
pub fn draw(folder: &Path, figures: &[Figure]) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut files = Vec::new();
    let mut add = |name: &str, title: &str, axes: (&str, &str), logarithmic: bool, lines: Vec<Line>| -> Result<()> {
        if lines.iter().any(|line| line.points.len() > 1) {
            let path = folder.join(name);
            picture(&path, title, axes, logarithmic, &lines)
                .map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
            files.push(path);
        }
        Ok(())
    };
    let distributions = [("write-lat", "WRITE"), ("send-lat", "SEND, half of there and back")];
    let lines = distributions.map(|(test, name)| Line {
        name,
        points: figures
            .iter()
            .filter(|figure| figure.test == test)
            .flat_map(|figure| figure.distribution.iter().enumerate().map(|(i, &us)| (i as f64, us)))
            // The last one of a hundred is whatever else the machine did.
            .filter(|&(i, _)| i < 100.0)
            .collect(),
    });
    add(
        "latency.svg",
        "Latency of 8 bytes: so many of 100 messages are faster",
        ("of 100 messages", "us"),
        false,
        lines.into(),
    )?;
    let against_size = |test: &str| -> Vec<(f64, f64)> {
        let found = figures.iter().filter(|figure| figure.test == test && figure.size > 0);
        found.map(|figure| (figure.size as f64, figure.value)).collect()
    };
    let bandwidth = against_size("write-bw");
    let rate = bandwidth.iter().map(|&(size, gb)| (size, gb * 1000.0 / size)).collect();
    let sizes = vec![
        Line {
            name: "WRITE",
            points: bandwidth,
        },
        Line {
            name: "memcpy",
            points: against_size("limits"),
        },
    ];
    add(
        "bandwidth.svg",
        "Bandwidth of one queue pair",
        ("bytes of a message", "GB/s"),
        true,
        sizes,
    )?;
    let rates = vec![Line {
        name: "WRITE, one by one",
        points: rate,
    }];
    add(
        "rate.svg",
        "Messages of one queue pair",
        ("bytes of a message", "M/s"),
        true,
        rates,
    )?;
    let turns = figures.iter().filter(|figure| figure.test == "turn-rate");
    let turns = vec![Line {
        name: "WRITE 8 B on each in turn",
        points: turns.map(|figure| (f64::from(figure.qps), figure.value)).collect(),
    }];
    add(
        "queue-pairs.svg",
        "Rate against the number of queue pairs",
        ("queue pairs", "M/s"),
        true,
        turns,
    )?;
    Ok(files)
}

fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
    low..high.max(low + 1e-9)
}

type Failure = Box<dyn std::error::Error>;

fn picture(
    path: &Path,
    title: &str,
    (x_name, y_name): (&str, &str),
    logarithmic: bool,
    lines: &[Line],
) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let x = span(points().map(|point| point.0));
    let y = 0.0..span(points().map(|point| point.1)).end * 1.05;
    let mut builder = ChartBuilder::on(&root);
    builder
        .caption(title, ("sans-serif", TITLE))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60);
    // The two kinds of axis are two types.
    macro_rules! chart {
        ($x:expr, $format:expr) => {{
            let mut chart = builder.build_cartesian_2d($x, y)?;
            chart
                .configure_mesh()
                .label_style(("sans-serif", LABEL))
                .x_desc(x_name)
                .y_desc(y_name)
                .x_label_formatter(&$format)
                .draw()?;
            for (n, line) in lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()) {
                let style = Palette99::pick(n).stroke_width(2);
                chart
                    .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                    .label(line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            }
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .label_font(("sans-serif", LABEL))
                .draw()?;
        }};
    }
    if logarithmic {
        chart!(x.log_scale().base(2.0), |value: &f64| power_of_two(*value));
    } else {
        chart!(x, |value: &f64| format!("{value:.0}"));
    }
    root.present()?;
    Ok(())
}

/// As people write sizes.
fn power_of_two(value: f64) -> String {
    match value {
        v if v >= 1048576.0 => format!("{:.0}M", v / 1048576.0),
        v if v >= 1024.0 => format!("{:.0}K", v / 1024.0),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verbena_launcher::session::TempDir;

    #[test]
    fn what_was_measured_is_drawn() {
        let figure = |test: &str, size, value, distribution| Figure {
            test: test.to_owned(),
            size,
            qps: 1,
            value,
            unit: "us".to_owned(),
            p99: None,
            min: value,
            max: value,
            distribution,
        };
        let folder = TempDir::new("pictures").unwrap();
        let figures = [
            figure("write-lat", 8, 1.0, (0..=100).map(f64::from).collect()),
            figure("write-bw", 4096, 2.0, Vec::new()),
            figure("write-bw", 65536, 8.0, Vec::new()),
        ];
        let files = draw(folder.path(), &figures).unwrap();
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        assert_eq!(names, ["latency.svg", "bandwidth.svg", "rate.svg"]);
        let text = std::fs::read_to_string(&files[1]).unwrap();
        assert!(text.contains("16K") && text.contains("WRITE"), "{text}");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rates over time as a picture: messages above, bytes below, a line for each HCA and direction.

use super::sample::{Interval, Rates};
use super::text;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (1000, 640);
const TITLE: i32 = 20;
const LABEL: i32 = 14;

/// What a panel shows.
struct Panel {
    title: &'static str,
    sent: fn(&Rates) -> f64,
    received: fn(&Rates) -> f64,
    unit: fn(f64) -> String,
}

const PANELS: [Panel; 2] = [
    Panel {
        title: "messages a second",
        sent: |rates| rates.sent_msgs,
        received: |rates| rates.rcvd_msgs,
        unit: text::number,
    },
    Panel {
        title: "bytes a second",
        sent: |rates| rates.sent_bytes,
        received: |rates| rates.rcvd_bytes,
        unit: text::bytes,
    },
];

/// Draws `history` as an SVG file.
///
/// # Errors
///
/// As a sentence: there is nothing to draw, or the file cannot be written.
pub fn draw(path: &Path, history: &[Interval]) -> Result<(), String> {
    let (Some(first), Some(last)) = (history.first(), history.last()) else {
        return Err("it ended before the first interval did".into());
    };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::error::Error| error.to_string();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let seconds = |interval: &Interval| interval.time_ns.saturating_sub(first.time_ns) as f64 / 1e9;
    let end = seconds(last).max(1e-3);
    for (area, panel) in root.split_evenly((2, 1)).iter().zip(&PANELS) {
        let rates = || {
            history
                .iter()
                .flat_map(|interval| &interval.hcas)
                .filter_map(|hca| hca.rates)
        };
        let most = rates().map(|rates| (panel.sent)(&rates).max((panel.received)(&rates)));
        let most = most.fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(panel.title, ("sans-serif", TITLE))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(90)
            .build_cartesian_2d(0.0..end, 0.0..most * 1.05)
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .label_style(("sans-serif", LABEL))
            .x_desc("seconds")
            .y_label_formatter(&|value| (panel.unit)(*value))
            .draw()
            .map_err(|error| failed(&error))?;
        for (n, hca) in last.hcas.iter().map(|hca| hca.hca).enumerate() {
            for (what, of, width) in [("sent", panel.sent, 2), ("received", panel.received, 1)] {
                let points = history.iter().filter_map(|interval| {
                    let rates = interval.hcas.iter().find(|other| other.hca == hca)?.rates?;
                    Some((seconds(interval), of(&rates)))
                });
                let style = Palette99::pick(n).stroke_width(width);
                chart
                    .draw_series(LineSeries::new(points, style))
                    .map_err(|error| failed(&error))?
                    .label(format!("HCA {hca} {what}"))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            }
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", LABEL))
            .draw()
            .map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

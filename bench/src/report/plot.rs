//! Pictures of the figures, as SVG.

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::report::table::Table;

const SIZE: (u32, u32) = (860, 480);
const FONT: (&str, u32) = ("sans-serif", 15);

/// Draws a line for each of the named series of points.
pub fn lines(
    title: &str,
    (x_title, y_title): (&str, &str),
    series: &[(String, Vec<(f64, f64)>)],
) -> Result<String> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points().map(|point| point.1).fold(1.0, f64::max);
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(65)
            // The x axis extends beyond the lines, so the legend does not cover them.
            .build_cartesian_2d(0.0..right * 1.5, 0.0..top * 1.05)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(x_title)
            .y_desc(y_title)
            .label_style(FONT)
            .draw()?;
        for (i, (name, points)) in series.iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            chart
                .draw_series(
                    LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3),
                )?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .label_font(FONT)
            .draw()?;
        Ok(())
    })
}

/// Draws one bar for each row of a table, from the figure in the row's first column.
pub fn bars(title: &str, unit: &str, table: &Table) -> Result<String> {
    let rows: Vec<(&str, f64)> = table
        .rows
        .iter()
        .rev() // The y axis points up, so the last bar is the top one.
        .filter_map(|row| Some((row.name.as_str(), row.figures.first()?.as_ref()?.median)))
        .collect();
    let right = rows.iter().map(|row| row.1).fold(1.0, f64::max);
    let name = |at: &i32| rows.get(*at as usize).map_or("", |row| row.0).to_owned();
    draw(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(230)
            .build_cartesian_2d(0.0..right * 1.12, (0..rows.len() as i32 - 1).into_segmented())?;
        let label = |at: &SegmentValue<i32>| match at {
            SegmentValue::CenterOf(at) => name(at),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(unit)
            .y_labels(rows.len())
            .y_label_formatter(&label)
            .label_style(FONT)
            .draw()?;
        for (at, (_, value)) in rows.iter().enumerate() {
            let at = at as i32;
            let (low, high) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
            let colour = Palette99::pick(at as usize).mix(0.8).filled();
            let mut bar = Rectangle::new([(0.0, low), (*value, high)], colour);
            bar.set_margin(6, 6, 0, 0);
            chart.draw_series([bar])?;
            let place = (*value, SegmentValue::CenterOf(at));
            chart.draw_series([Text::new(format!(" {value:.0}"), place, FONT)])?;
        }
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(paint: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        paint(&area).context("draw a picture")?;
        area.present()?;
    }
    Ok(svg)
}

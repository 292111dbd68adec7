//! Lines over time. Each has a mark of its own besides its colour, at its points, so that lines
//! can be told apart in print and where they cross.

use std::path::Path;

use anyhow::ensure;
use plotters::prelude::*;

use super::axis::Axis;
use super::frame::{Paper, Sheet, colour, draw_axes, failed, plot};

const LINE_WIDTH: u32 = 2;
const MARK_SIZE: i32 = 5;
const MARKS_APART: i32 = 3 * MARK_SIZE;

/// A line under its name in the legend: points from left to right.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) label: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws lines from `x` = 0 on; a logarithmic `y` axis if the values ask for it.
pub(crate) fn lines(
    path: &Path,
    title: &str,
    x_unit: &str,
    y_unit: &str,
    series: &[Series],
) -> anyhow::Result<()> {
    let points = series.iter().flat_map(|series| &series.points);
    for (x, y) in points.clone() {
        ensure!(x.is_finite() && y.is_finite() && *x >= 0.0 && *y >= 0.0, "a point at {x}, {y}");
    }
    let right = points.clone().map(|(x, _)| *x).fold(0.0, f64::max);
    let first = Axis::up_to(if right > 0.0 { right } else { 1.0 }, x_unit);
    let second = Axis::fitting(points.map(|(_, y)| *y), y_unit);
    let names: Vec<String> = series.iter().map(|series| series.label.clone()).collect();
    let legend_mark = |sheet: &Sheet<'_>, number: usize, (x, y): (i32, i32)| {
        draw_line(sheet, number, vec![(x - 12, y), (x + 12, y)])?;
        draw_mark(sheet, number, (x, y))
    };
    plot(path, title, &names, legend_mark, |sheet| {
        let mut chart = ChartBuilder::on(sheet);
        chart.margin_left(12).margin_right(24).margin_bottom(8).margin_top(8);
        chart.y_label_area_size(80).x_label_area_size(52);
        let words = [first.description(), second.description()];
        let mut chart = chart.build_cartesian_2d(first, second).map_err(failed)?;
        draw_axes(&mut chart, &words[0], &words[1])?;
        let paper = Paper::of(sheet, &chart);
        for (number, series) in series.iter().enumerate() {
            let place = |(x, y): &(f64, f64)| paper.pixel(*x, *y);
            let pixels: Vec<(i32, i32)> = series.points.iter().map(place).collect();
            draw_line(&paper.area, number, pixels.clone())?;
            for pixel in apart(&pixels) {
                draw_mark(&paper.area, number, pixel)?;
            }
        }
        Ok(())
    })
}

/// Those of the points that are so far from each other that their marks don't touch.
fn apart(pixels: &[(i32, i32)]) -> Vec<(i32, i32)> {
    let mut kept: Vec<(i32, i32)> = Vec::new();
    for (x, y) in pixels {
        let far = |(a, b): &(i32, i32)| (x - a).abs().max((y - b).abs()) >= MARKS_APART;
        if kept.last().is_none_or(far) {
            kept.push((*x, *y));
        }
    }
    kept
}

fn draw_line(area: &Sheet<'_>, number: usize, pixels: Vec<(i32, i32)>) -> anyhow::Result<()> {
    let style = colour(number).stroke_width(LINE_WIDTH);
    area.draw(&PathElement::new(pixels, style)).map_err(failed)
}

fn draw_mark(area: &Sheet<'_>, number: usize, (x, y): (i32, i32)) -> anyhow::Result<()> {
    let style = colour(number).filled();
    let size = MARK_SIZE;
    match number % 4 {
        0 => area.draw(&Circle::new((x, y), size, style)),
        1 => area.draw(&Rectangle::new([(x - size, y - size), (x + size, y + size)], style)),
        2 => area.draw(&Polygon::new(
            vec![(x - size, y + size), (x, y - size), (x + size, y + size)],
            style,
        )),
        _ => area.draw(&Polygon::new(
            vec![(x - size - 1, y), (x, y - size - 1), (x + size + 1, y), (x, y + size + 1)],
            style,
        )),
    }
    .map_err(failed)
}

//! Groups of bars: a group for each workload, a bar for each tool, a whisker from the least to the
//! largest of its runs. A bar that could not be measured is a word, never a bar of height 0.

use std::path::Path;

use anyhow::ensure;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::Axis;
use super::frame::{
    INK, PALE_INK, Paper, SMALL_SIZE, Sheet, TEXT_SIZE, colour, draw_axes, failed, plot, text,
};

/// Of a group's width.
const BARS_SHARE: f64 = 0.84;
/// A whisker's cross-bar, of a bar's width.
const CROSS_BAR_SHARE: f64 = 0.5;
const LABEL_HEIGHT: i32 = 66;
const LABEL_LINE: i32 = 17;
/// Of a character of the group labels, about.
const CHARACTER_WIDTH: f64 = 7.6;

/// What several runs gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// A bar under its name in the legend; without a value it says that there is none.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: Option<Spread>,
}

/// Bars side by side over a common label.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) label: String,
    pub(crate) bars: Vec<Bar>,
}

/// Draws groups of bars; the same label has the same colour in all of them, in the order in which
/// labels come first. A `unit` that ends with "bytes" has ticks in kB, MB and so on.
pub(crate) fn bars(path: &Path, title: &str, unit: &str, groups: &[Group]) -> anyhow::Result<()> {
    let mut names: Vec<String> = Vec::new();
    for bar in groups.iter().flat_map(|group| &group.bars) {
        if !names.contains(&bar.label) {
            names.push(bar.label.clone());
        }
        let Some(Spread { median, min, max }) = bar.value else { continue };
        let ordered = 0.0 <= min && min <= median && median <= max && max.is_finite();
        ensure!(ordered, "{}: {median} is not from {min} to {max}", bar.label);
    }
    let spreads = groups.iter().flat_map(|group| &group.bars).filter_map(|bar| bar.value);
    let axis = Axis::fitting(spreads.flat_map(|Spread { min, max, .. }| [min, max]), unit);
    let mark = |sheet: &Sheet<'_>, number: usize, (x, y): (i32, i32)| {
        box_of(sheet, [(x - 8, y - 8), (x + 8, y + 8)], colour(number))
    };
    plot(path, title, &names, mark, |sheet| {
        let mut chart = ChartBuilder::on(sheet);
        chart
            .margin_left(12)
            .margin_right(16)
            .y_label_area_size(92)
            .x_label_area_size(LABEL_HEIGHT);
        let (floor, words) = (axis.low(), axis.description());
        let chart = chart.build_cartesian_2d(Axis::counting(groups.len()), axis);
        let mut chart = chart.map_err(failed)?;
        draw_axes(&mut chart, "", &words)?;
        let paper = Paper::of(sheet, &chart);
        for (number, group) in groups.iter().enumerate() {
            draw_group(&paper, floor, &names, (number, group))?;
            draw_label(&paper, floor, (number, &group.label))?;
        }
        Ok(())
    })
}

fn draw_group(
    paper: &Paper<'_>,
    floor: f64,
    names: &[String],
    (number, group): (usize, &Group),
) -> anyhow::Result<()> {
    let width = BARS_SHARE / group.bars.len().max(1) as f64;
    let begin = number as f64 + (1.0 - BARS_SHARE) / 2.0;
    for (place, bar) in group.bars.iter().enumerate() {
        let left = begin + place as f64 * width;
        let at = |share: f64, value: f64| paper.pixel(left + share * width, value);
        let Some(Spread { median, min, max }) = bar.value else {
            let (x, y) = at(0.5, floor);
            let style = text(SMALL_SIZE, PALE_INK, HPos::Left, VPos::Center)
                .transform(FontTransform::Rotate270);
            paper.area.draw(&Text::new("no figure", (x, y - 4), style)).map_err(failed)?;
            continue;
        };
        let (_, bottom) = at(0.0, floor);
        let (x0, top) = at(0.06, median);
        let (x1, _) = at(0.94, median);
        let colour = names.iter().position(|name| *name == bar.label).map_or(INK, colour);
        // One that is too low to be seen is a line.
        box_of(&paper.area, [(x0, top.min(bottom - 1)), (x1, bottom)], colour)?;
        if max > min {
            let half = (CROSS_BAR_SHARE / 2.0).min(0.5);
            let cross = |value| vec![at(0.5 - half, value), at(0.5 + half, value)];
            let lines = [vec![at(0.5, min), at(0.5, max)], cross(min), cross(max)];
            // White below, or it would be lost on dark bars.
            for style in [WHITE.stroke_width(3), INK.stroke_width(1)] {
                for line in lines.clone() {
                    paper.area.draw(&PathElement::new(line, style)).map_err(failed)?;
                }
            }
        }
    }
    Ok(())
}

/// A group's label below it, in as many lines as it needs.
fn draw_label(paper: &Paper<'_>, floor: f64, (number, label): (usize, &str)) -> anyhow::Result<()> {
    let (left, bottom) = paper.pixel(number as f64, floor);
    let (right, _) = paper.pixel(number as f64 + 1.0, floor);
    let characters = (f64::from(right - left) / CHARACTER_WIDTH) as usize;
    for (line, words) in wrapped(label, characters).iter().enumerate() {
        let style = text(TEXT_SIZE, INK, HPos::Center, VPos::Center);
        let place = (i32::midpoint(left, right), bottom + 14 + LABEL_LINE * (line as i32));
        paper.area.draw(&Text::new(words.as_str(), place, style)).map_err(failed)?;
    }
    Ok(())
}

/// Breaks a label after blanks and hyphens.
fn wrapped(label: &str, characters: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in label.split_inclusive([' ', '-']) {
        let last = lines.len() - 1;
        let fits = lines[last].len() + word.trim_end().len() <= characters;
        if fits || lines[last].is_empty() {
            lines[last].push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A filled box with a thin outline, so that pale colours have an edge.
fn box_of(area: &Sheet<'_>, corners: [(i32, i32); 2], colour: RGBColor) -> anyhow::Result<()> {
    area.draw(&Rectangle::new(corners, colour.filled())).map_err(failed)?;
    area.draw(&Rectangle::new(corners, INK)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_broken_where_they_may_be() {
        assert_eq!(wrapped("real-small-day", 20), ["real-small-day"]);
        assert_eq!(wrapped("real-small-day", 10), ["real-", "small-day"]);
        assert_eq!(wrapped("unbreakable", 4), ["unbreakable"]);
    }
}

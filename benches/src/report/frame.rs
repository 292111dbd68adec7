//! What all plots have in common: the sheet, its colours and fonts, the title, and the legend in a
//! column of its own at the right, where it covers nothing.

use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;

pub(crate) const SHEET: (u32, u32) = (1200, 560);
const LEGEND_WIDTH: i32 = 210;
const LEGEND_LINE: i32 = 24;
const TITLE_HEIGHT: i32 = 44;
pub(crate) const FONT: &str = "sans-serif";
/// The back end divides these by 1.24.
const TITLE_SIZE: i32 = 22;
pub(crate) const TEXT_SIZE: i32 = 16;
pub(crate) const SMALL_SIZE: i32 = 13;
pub(crate) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(crate) const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
pub(crate) const PALE_INK: RGBColor = RGBColor(0x66, 0x66, 0x66);

/// Okabe and Ito's eight, and two of Tol's; neighbours differ in lightness too.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x88, 0x22, 0x55),
    RGBColor(0xf0, 0xe4, 0x42),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xaa, 0xaa, 0xaa),
];

pub(crate) type Sheet<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The colour of the n-th thing; ten can be told apart.
pub(crate) fn colour(number: usize) -> RGBColor {
    COLOURS[number % COLOURS.len()]
}

/// Text with a place: which point of the text stands where it is drawn.
pub(crate) fn text(
    size: i32,
    ink: RGBColor,
    horizontal: HPos,
    vertical: VPos,
) -> TextStyle<'static> {
    (FONT, size).into_font().color(&ink).pos(Pos::new(horizontal, vertical))
}

/// A sheet with a title and a legend; `draw` fills the rest. `mark` draws what stands before the
/// n-th name of the legend around a point.
pub(crate) fn plot(
    path: &Path,
    title: &str,
    legend: &[String],
    mark: impl Fn(&Sheet<'_>, usize, (i32, i32)) -> anyhow::Result<()>,
    draw: impl FnOnce(&Sheet<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut svg = String::new();
    {
        let sheet = SVGBackend::with_string(&mut svg, SHEET).into_drawing_area();
        sheet.fill(&WHITE).map_err(failed)?;
        let style = text(TITLE_SIZE, INK, HPos::Left, VPos::Center);
        sheet.draw(&Text::new(title, (16, TITLE_HEIGHT / 2), style)).map_err(failed)?;
        let (_, below) = sheet.split_vertically(TITLE_HEIGHT);
        let (left, right) = below.split_horizontally(SHEET.0 as i32 - LEGEND_WIDTH);
        draw(&left)?;
        for (number, name) in legend.iter().enumerate() {
            let line = LEGEND_LINE * (number as i32) + 20;
            mark(&right, number, (14, line))?;
            let style = text(TEXT_SIZE, INK, HPos::Left, VPos::Center);
            right.draw(&Text::new(name.as_str(), (32, line), style)).map_err(failed)?;
        }
        sheet.present().map_err(failed)?;
    }
    std::fs::write(path, svg).with_context(|| path.display().to_string())
}

/// An error of the drawing library, which holds a reference to the sheet.
pub(crate) fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw: {error}")
}

/// A chart of two of our axes.
pub(crate) type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

/// The sheet around a chart, in pixels, for what has a size in pixels or stands beside the chart:
/// what is drawn on the chart itself is cut off at its edges.
pub(crate) struct Paper<'a> {
    pub(crate) area: Sheet<'a>,
    chart: DrawingArea<SVGBackend<'a>, Cartesian2d<Axis, Axis>>,
}

impl<'a> Paper<'a> {
    pub(crate) fn of(sheet: &Sheet<'a>, chart: &Chart<'_, 'a>) -> Paper<'a> {
        Paper { area: sheet.use_screen_coord(), chart: chart.plotting_area().clone() }
    }

    /// Where values of the axes are.
    pub(crate) fn pixel(&self, x: f64, y: f64) -> (i32, i32) {
        self.chart.map_coordinate(&(x, y))
    }
}

/// Grid, axes and their words.
pub(crate) fn draw_axes(chart: &mut Chart<'_, '_>, x: &str, y: &str) -> anyhow::Result<()> {
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).bold_line_style(GRID).axis_style(INK);
    mesh.label_style((FONT, TEXT_SIZE)).axis_desc_style((FONT, TEXT_SIZE));
    mesh.x_desc(x).y_desc(y).draw().map_err(failed)
}

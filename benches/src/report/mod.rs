//! Plots of a report as SVG: groups of bars with their spread, and lines over time.
//!
//! Plain data goes in; nothing here knows a tool or a workload. The same data gives the same
//! bytes, so a report that didn't change shows no difference. Colours are told apart by readers
//! with any kind of colour vision, and the background is white wherever the plot is shown.

mod axis;
mod bars;
mod frame;
mod lines;

pub(crate) use bars::{Bar, Group, Spread, bars};
pub(crate) use lines::{Series, lines};

#[cfg(test)]
mod tests;

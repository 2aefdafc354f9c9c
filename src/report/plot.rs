//! Curves and dots over a pair of axes: as an SVG that can be read on light and on dark pages, and as letters on a terminal.

use plotters::{
    coord::{
        Shift,
        ranged1d::{DefaultFormatting, KeyPointHint},
    },
    element::DashedPathElement,
    prelude::*,
};
use std::ops::Range;

/// Colours that tell curves apart, on light and on dark pages, and on a terminal (an ANSI code).
pub(crate) const COLORS: [(RGBColor, RGBColor, u8); 9] = [
    (RGBColor(0x1f, 0x77, 0xb4), RGBColor(0x6c, 0xb6, 0xff), 94),
    (RGBColor(0xd6, 0x5f, 0x0e), RGBColor(0xf6, 0x9d, 0x50), 33),
    (RGBColor(0x7a, 0x4f, 0xd0), RGBColor(0xb3, 0x92, 0xf0), 35),
    (RGBColor(0x2a, 0x8c, 0x3c), RGBColor(0x57, 0xc9, 0x6b), 32),
    (RGBColor(0xc8, 0x1e, 0x3c), RGBColor(0xff, 0x6b, 0x7a), 31),
    (RGBColor(0x0a, 0x93, 0x96), RGBColor(0x4f, 0xd6, 0xd2), 36),
    (RGBColor(0x7a, 0x52, 0x30), RGBColor(0xd2, 0xac, 0x84), 93),
    (RGBColor(0xd6, 0x40, 0x9f), RGBColor(0xff, 0x8f, 0xcf), 95),
    (RGBColor(0x6e, 0x77, 0x81), RGBColor(0x8b, 0x94, 0x9e), 90),
];

/// The colour of what is no result, such as a limit: the last.
const GRAY: usize = COLORS.len() - 1;

/// Of letters and axes.
pub(crate) const INK: (RGBColor, RGBColor) = (RGBColor(0x24, 0x29, 0x2e), RGBColor(0xe6, 0xed, 0xf3));
pub(crate) const GRID: (RGBColor, RGBColor) = (RGBColor(0xd0, 0xd7, 0xde), RGBColor(0x3d, 0x44, 0x4d));

/// Pixels of an SVG without its legend.
const SIZE: (u32, u32) = (640, 480);
/// The height where one chart stands below the other.
const PANEL: u32 = 360;
/// Places of the horizontal axis at each of which a curve keeps its lowest and its highest point: more than it has pixels.
const PLACES: f64 = 1000.0;
/// Lines of a plot on a terminal.
const ROWS: usize = 20;
/// Columns on a terminal that the vertical axis takes.
const Y_AXIS: usize = 9;
/// Curves of so few points show each of them.
const DOTS: usize = 16;

/// Curves and dots over one pair of axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What stands above it.
    pub title: String,
    /// What the horizontal axis is.
    pub x_desc: String,
    /// What the vertical axis is.
    pub y_desc: String,
    /// Whether the horizontal axis is logarithmic; what has no logarithm is left out.
    pub log_x: bool,
    /// What stands at places of the horizontal axis; without any, numbers do.
    pub x_names: Vec<(f64, String)>,
    /// The curves, in the legend's order; the first is drawn on top.
    pub series: Vec<Series>,
}

/// How points are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Joined, in order.
    #[default]
    Line,
    /// Each for itself.
    Dots,
    /// Rings in the colour of letters, around what else is there.
    Rings,
    /// Lines from the bottom to the top.
    Verticals,
}

/// A curve, or dots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What the legend says; without, it is not in the legend.
    pub label: String,
    /// The points, in the order in which they are joined; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub shape: Shape,
    /// Its letter on a terminal.
    pub mark: char,
    /// Whether it is drawn in dashes.
    pub dashed: bool,
    /// Whether it stands back.
    pub thin: bool,
    color: usize,
}

impl Series {
    /// The curve number `i` of a chart: eight have different colours, the next eight have dashes too.
    pub fn new(i: usize, label: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        let color = i % GRAY;
        let dashed = i / GRAY % 2 == 1;
        Series { label: label.into(), points, mark: mark(i), dashed, color, ..Series::default() }
    }

    /// Dots in the colour number `i`.
    pub fn dots(i: usize, label: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { shape: Shape::Dots, ..Series::new(i, label, points) }
    }

    /// Rings around points.
    pub fn rings(label: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { label: label.into(), points, shape: Shape::Rings, mark: 'o', ..Series::default() }
    }

    /// Vertical lines in the colour number `i`, at places of the horizontal axis.
    pub fn verticals(i: usize, label: impl Into<String>, places: &[f64]) -> Series {
        let points = places.iter().map(|&x| (x, 0.0)).collect();
        Series { shape: Shape::Verticals, mark: '|', ..Series::new(i, label, points) }
    }

    /// The same curve as one that stands behind those of the runs: thin, and with a small letter.
    pub fn behind(self) -> Series {
        Series { thin: true, mark: self.mark.to_ascii_lowercase(), ..self }
    }

    /// A limit: a dashed line in grey at the height `y`, between two places.
    pub fn limit(label: impl Into<String>, y: f64, x: Range<f64>) -> Series {
        let points = vec![(x.start, y), (x.end, y)];
        Series { label: label.into(), points, mark: '-', dashed: true, color: GRAY, ..Series::default() }
    }
}

/// Adds the rules that replace a drawing's colours on dark pages.
pub(crate) fn for_dark_pages(svg: &mut String) {
    let hex = |color: RGBColor| format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
    let pairs = COLORS.iter().map(|&(light, dark, _)| (light, dark)).chain([INK, GRID]);
    let rules: String = pairs
        .map(|(light, dark)| (hex(light), hex(dark)))
        .map(|(light, dark)| format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}"))
        .collect();
    let style = format!("<style>@media(prefers-color-scheme:dark){{{rules}}}</style>\n");
    let after_head = svg.find('>').map_or(0, |at| at + 1);
    svg.insert_str(after_head, &style);
}

/// The mark of the curve number `i`: A to Z, 0 to 9, and then the same for all.
pub fn mark(i: usize) -> char {
    ('A'..='Z').chain('0'..='9').nth(i).unwrap_or('*')
}

/// What a chart comes to on its axes, the horizontal one in logarithms where it is logarithmic.
struct Placed {
    points: Vec<Vec<(f64, f64)>>,
    x: Range<f64>,
    y: Range<f64>,
}

/// An axis with numbers where they are round.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl Chart {
    fn placed(&self) -> Placed {
        let place = |&(x, y): &(f64, f64)| (if self.log_x { x.log10() } else { x }, y);
        let finite = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
        let points: Vec<Vec<_>> =
            self.series.iter().map(|series| series.points.iter().map(place).filter(finite).collect()).collect();
        let names = self.x_names.iter().map(|name| (name.0, f64::NAN));
        let all = || points.iter().flatten().copied();
        // A vertical line is as high as the others.
        let with_height = self.series.iter().zip(&points).filter(|(series, _)| series.shape != Shape::Verticals);
        let limits = |values: &mut dyn Iterator<Item = f64>, least: f64| {
            let (low, high) =
                values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
            let low = if low.is_finite() { low } else { 0.0 };
            low..high.max(low + least)
        };
        let x = limits(&mut all().chain(names).map(|point| point.0), if self.log_x { 0.01 } else { 1.0 });
        let y = limits(&mut with_height.flat_map(|(_, points)| points).map(|point| point.1), 0.01);
        let margin = 0.05 * (y.end - y.start);
        // A curve reaches the edges, dots keep away from them.
        let curves = self.series.iter().all(|series| series.shape == Shape::Line);
        let side = match (curves, self.x_names.is_empty()) {
            (true, true) => 0.0,
            (false, true) => 0.05 * (x.end - x.start),
            (_, false) => 0.5,
        };
        Placed { x: x.start - side..x.end + side, y: y.start - margin..y.end + margin, points }
    }

    /// What stands at a place of the horizontal axis.
    fn x_label(&self, place: f64) -> String {
        let name = self.x_names.iter().find(|name| (name.0 - place).abs() < 1e-6);
        let value = || number(if self.log_x { 10f64.powf(place) } else { place });
        name.map_or_else(value, |name| name.1.clone())
    }

    /// About `most` places of the horizontal axis to write numbers at.
    fn x_ticks(&self, x: &Range<f64>, most: usize) -> Vec<f64> {
        if !self.x_names.is_empty() {
            return self.x_names.iter().map(|name| name.0).collect();
        }
        if self.log_x { log_ticks(x, most) } else { ticks(x, most) }
    }

    /// The chart as an SVG.
    pub fn svg(&self) -> String {
        Chart::panels(std::slice::from_ref(self))
    }

    /// Charts as one SVG, one below the other.
    pub fn panels(charts: &[Chart]) -> String {
        let mut svg = String::new();
        draw(&mut svg, charts).expect("drawing into a string does not fail");
        for_dark_pages(&mut svg);
        svg
    }

    /// The curves that the legend names.
    fn legend(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(|series| !series.label.is_empty())
    }

    fn draw(&self, area: &Area) -> Drawn {
        let Placed { points, x, y } = self.placed();
        let (left, right) = area.split_horizontally(SIZE.0);
        let mut chart = ChartBuilder::on(&left)
            .margin(14)
            .caption(&self.title, font(20))
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(
                Axis { ticks: self.x_ticks(&x, 8), range: x.clone() },
                Axis { ticks: ticks(&y, 10), range: y.clone() },
            )?;
        chart
            .configure_mesh()
            .x_desc(&self.x_desc)
            .y_desc(&self.y_desc)
            .x_label_formatter(&|x| self.x_label(*x))
            .y_label_formatter(&|y| number(*y))
            .label_style(font(14))
            .axis_desc_style(font(15))
            .axis_style(INK.0)
            .bold_line_style(GRID.0)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (series, points) in self.series.iter().zip(&points).rev() {
            let color = COLORS[series.color].0;
            let style = color.stroke_width(if series.thin { 1 } else { 2 });
            let circles = |size: i32, style: ShapeStyle| points.iter().map(move |&at| Circle::new(at, size, style));
            match series.shape {
                Shape::Line if series.dashed => {
                    chart.draw_series(DashedLineSeries::new(thinned(points, &x), 7, 4, style))?;
                }
                Shape::Line => {
                    chart.draw_series(LineSeries::new(thinned(points, &x), style))?;
                    if points.len() <= DOTS {
                        chart.draw_series(circles(3, color.filled()))?;
                    }
                }
                Shape::Dots => _ = chart.draw_series(circles(4, color.filled()))?,
                Shape::Rings => _ = chart.draw_series(circles(8, INK.0.stroke_width(2)))?,
                Shape::Verticals => {
                    let lines = points.iter().map(|at| PathElement::new([(at.0, y.start), (at.0, y.end)], style));
                    chart.draw_series(lines)?;
                }
            }
        }
        for (i, series) in self.legend().enumerate() {
            let (y, color) = (52 + 22 * i as i32, COLORS[series.color].0);
            let (line, style) = ([(4, y), (28, y)], color.stroke_width(3));
            match series.shape {
                Shape::Dots => right.draw(&Circle::new((16, y), 4, color.filled()))?,
                Shape::Rings => right.draw(&Circle::new((16, y), 7, INK.0.stroke_width(2)))?,
                _ if series.dashed => right.draw(&DashedPathElement::new(line, 6, 3, style))?,
                _ => right.draw(&PathElement::new(line, style))?,
            }
            right.draw(&Text::new(series.label.clone(), (36, y - 7), font(14)))?;
        }
        Ok(())
    }

    /// The chart as lines of at most `width` characters (40 at least), in colour or not. Where curves cross, they take
    /// turns.
    pub fn text(&self, width: usize, color: bool) -> String {
        let Placed { points, x, y } = self.placed();
        let width = width.max(40);
        let columns = width - Y_AXIS - 1;
        let column = |place: f64| ((place - x.start) / (x.end - x.start) * (columns - 1) as f64).round() as usize;
        let row = |value: f64| ((y.end - value) / (y.end - y.start) * (ROWS - 1) as f64).round() as usize;
        let mut cells = vec![Vec::new(); ROWS * columns];
        for (i, points) in points.iter().enumerate() {
            let shape = self.series[i].shape;
            for (k, &to) in points.iter().enumerate() {
                // What is joined to nothing is a line to itself.
                let (from, to) = match shape {
                    Shape::Line => (points[k.saturating_sub(1)], to),
                    Shape::Dots | Shape::Rings => (to, to),
                    Shape::Verticals => ((to.0, y.start), (to.0, y.start)),
                };
                let (a, b) = (column(from.0), column(to.0));
                for at in a.min(b)..=a.max(b) {
                    let share = if a == b { 1.0 } else { (at as f64 - a as f64) / (b as f64 - a as f64) };
                    let line = row(from.1 + share * (to.1 - from.1));
                    let cell: &mut Vec<usize> = &mut cells[line * columns + at];
                    if !cell.contains(&i) {
                        cell.push(i);
                    }
                }
            }
        }
        let paint = |i: usize, text: &str| {
            let code = COLORS[self.series[i].color].2;
            if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let mut text = format!("{}\n", self.y_desc);
        let y_ticks: Vec<_> = ticks(&y, 6).into_iter().map(|value| (row(value), number(value))).collect();
        for (r, cells) in cells.chunks(columns).enumerate() {
            let (label, bar) = match y_ticks.iter().find(|tick| tick.0 == r) {
                Some((_, label)) => (label.as_str(), '+'),
                None => ("", '|'),
            };
            let mut line = format!("{label:>Y_AXIS$}{bar}");
            for (at, cell) in cells.iter().enumerate() {
                match cell.get(at % cell.len().max(1)) {
                    Some(&i) => line += &paint(i, self.series[i].mark.encode_utf8(&mut [0; 4])),
                    None => line.push(' '),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        let (mut axis, mut labels) = (vec!['-'; columns], String::new());
        for tick in self.x_ticks(&x, columns / 12) {
            axis[column(tick)] = '+';
            let label = self.x_label(tick);
            let from = (Y_AXIS + 1 + column(tick)).saturating_sub(label.len() / 2).min(width - label.len());
            if labels.is_empty() || from > labels.len() {
                labels = format!("{labels:<from$}{label}");
            }
        }
        text += &format!("{:Y_AXIS$}+{}\n{labels}\n", "", String::from_iter(axis));
        text += &format!("{:>width$}\n", self.x_desc);
        let legend: Vec<_> = (0..self.series.len()).filter(|&i| !self.series[i].label.is_empty()).collect();
        let longest = legend.iter().map(|&i| self.series[i].label.chars().count()).max().unwrap_or(0);
        for line in legend.chunks((width / (longest + 5)).max(1)) {
            let entry = |&i: &usize| {
                let Series { mark, label, .. } = &self.series[i];
                format!("{}  {label:<longest$}", paint(i, mark.encode_utf8(&mut [0; 4])))
            };
            text += line.iter().map(entry).collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK.0)
}

fn draw(svg: &mut String, charts: &[Chart]) -> Drawn {
    let letters = charts.iter().flat_map(Chart::legend).map(|series| series.label.chars().count()).max();
    let lines = charts.iter().map(|chart| chart.legend().count()).max().unwrap_or(0);
    let legend_width = letters.map_or(0, |letters| 46 + 8 * letters as u32);
    let height = if charts.len() > 1 { PANEL } else { SIZE.1 }.max(70 + 22 * lines as u32);
    let size = (SIZE.0 + legend_width, height * charts.len() as u32);
    let area = SVGBackend::with_string(svg, size).into_drawing_area();
    for (chart, area) in charts.iter().zip(area.split_evenly((charts.len(), 1))) {
        chart.draw(&area)?;
    }
    area.present()?;
    Ok(())
}

/// The points of a curve that can be seen: of those at one place the lowest and the highest, and the last of all.
fn thinned(points: &[(f64, f64)], x: &Range<f64>) -> Vec<(f64, f64)> {
    let place = |point: &(f64, f64)| ((point.0 - x.start) / (x.end - x.start) * PLACES) as i64;
    let mut kept = Vec::new();
    for here in points.chunk_by(|a, b| place(a) == place(b)) {
        let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (here.iter().min_by(by_height), here.iter().max_by(by_height));
        // In the order of the curve.
        let is = |point: &(f64, f64), of: Option<&_>| of.is_some_and(|of| std::ptr::eq(of, point));
        kept.extend(here.iter().filter(|&point| here.len() < 3 || is(point, low) || is(point, high)));
    }
    kept.extend(points.last().filter(|&last| kept.last() != Some(last)));
    kept
}

/// Round numbers in a range, `most` at most.
fn ticks(range: &Range<f64>, most: usize) -> Vec<f64> {
    let least = (range.end - range.start) / most.max(1) as f64;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|of| of * power).into_iter().find(|&step| step >= least).unwrap_or(least);
    let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
    (first..=last).map(|k| k as f64 * step).collect()
}

/// Logarithms of round numbers in a range of logarithms.
fn log_ticks(range: &Range<f64>, most: usize) -> Vec<f64> {
    let decades = range.start.floor() as i32..=range.end.ceil() as i32;
    let inside = |of: &[f64]| -> Vec<f64> {
        let all = decades.clone().flat_map(|k| of.iter().map(move |of| f64::from(k) + of.log10()));
        all.filter(|log| range.contains(log)).collect()
    };
    let found = inside(&[1.0, 2.0, 5.0]);
    let found = if found.len() > most { inside(&[1.0]) } else { found };
    let found: Vec<_> = found.iter().copied().step_by(found.len().div_ceil(most.max(1)).max(1)).collect();
    if found.len() > 1 {
        return found;
    }
    // Less than a decade.
    ticks(&(10f64.powf(range.start)..10f64.powf(range.end)), most).into_iter().map(f64::log10).collect()
}

/// A number as short as it can be said to four digits.
pub fn number(x: f64) -> String {
    let short = |x: f64, digits: usize| {
        let text = format!("{x:.digits$}");
        if digits > 0 { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match x.abs() {
        size if size >= 1e9 => short(x / 1e9, 2) + "G",
        size if size >= 1e6 => short(x / 1e6, 2) + "M",
        size if size >= 1e4 => short(x / 1e3, 1) + "k",
        size if size >= 1e3 => short(x, 0),
        size if size < 1e-9 => "0".into(),
        size if size < 1e-3 => format!("{:e}", format!("{x:.2e}").parse::<f64>().expect("a number")),
        _ => short(x, 4),
    }
}

/// Training and validation estimates over the steps.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    /// (step, training loss, validation loss) of each estimate.
    pub points: Vec<(u64, f64, f64)>,
    /// (step, loss) of the validation part of the data that a fine-tuning may forget.
    pub old: Vec<(u64, f64)>,
    /// Nats per character that no model can stay below, where known.
    pub floor: Option<f64>,
}

/// Draws the curves of one run.
pub fn loss_svg(title: &str, curves: &Curves) -> String {
    let steps = curves.points.last().map_or(1, |point| point.0.max(1)) as f64;
    let line = |i: usize, label: &str, points: Vec<(f64, f64)>| {
        let last = points.iter().rfind(|point| point.1.is_finite());
        Series::new(i, last.map_or(label.to_owned(), |(_, loss)| format!("{label} {loss:.4}")), points)
    };
    let mut series = vec![
        line(0, "train", curves.points.iter().map(|&(step, train, _)| (step as f64, train)).collect()),
        line(1, "validation", curves.points.iter().map(|&(step, _, val)| (step as f64, val)).collect()),
    ];
    if !curves.old.is_empty() {
        let points = curves.old.iter().map(|&(step, loss)| (step as f64, loss)).collect();
        series.push(line(2, "old validation", points));
    }
    series.extend(curves.floor.map(|floor| Series::limit(format!("entropy floor {floor:.4}"), floor, 0.0..steps)));
    let (x_desc, y_desc) = ("step".into(), "loss (nats per token)".into());
    Chart { title: title.into(), x_desc, y_desc, series, ..Chart::default() }.svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is drawn, without the colours for dark pages.
    fn drawing(svg: &str) -> &str {
        svg.split("</style>").nth(1).unwrap()
    }

    #[test]
    fn both_curves_and_the_floor_are_drawn_and_labelled() {
        let points = vec![(0, 4.2, 4.3), (100, 2.5, 2.6), (200, 2.0, 2.2)];
        let svg = loss_svg("my run", &Curves { points, old: vec![(0, 2.0), (200, 3.0)], floor: Some(0.5) });
        for part in [
            "my run",
            "train 2.0000",
            "validation 2.2000",
            "old validation 3.0000",
            "entropy floor 0.5000",
            "step",
            "prefers-color-scheme",
        ] {
            assert!(svg.contains(part), "{part}");
        }
        for color in ["1F77B4", "D65F0E", "7A4FD0"] {
            let count = drawing(&svg).matches(&format!("stroke=\"#{color}\"")).count();
            assert_eq!(count, 2, "{color}: a curve and its legend");
        }
        assert!(drawing(&svg).matches("stroke=\"#6E7781\"").count() > 20, "the floor is dashed");
    }

    #[test]
    fn every_colour_that_is_drawn_is_replaced_on_dark_pages() {
        let series = (0..20).map(|i| Series::new(i, format!("<{i}>"), vec![(0.0, i as f64), (1.0, 0.0)])).collect();
        let svg = Chart { series, ..Chart::default() }.svg();
        let style = svg.split("</style>").next().unwrap();
        for drawn in drawing(&svg).split("=\"#").skip(1) {
            assert!(style.contains(&format!("\"#{}\"", &drawn[..6])), "{}", &drawn[..6]);
        }
        assert!(svg.contains("&lt;19&gt;") && !svg.contains("<19>"));
    }

    #[test]
    fn no_estimate_or_an_infinite_one_still_draws() {
        loss_svg("empty", &Curves::default());
        loss_svg("nan", &Curves { points: vec![(0, f64::NAN, f64::INFINITY)], ..Curves::default() });
        for log_x in [false, true] {
            let points = vec![(0.0, f64::NAN), (f64::NAN, 1.0), (-1.0, 2.0), (3.0, 2.0), (3.0, 1e300)];
            for series in [vec![], vec![Series::new(0, "a", vec![])], vec![Series::new(0, "a", points)]] {
                let chart = Chart { log_x, series, ..Chart::default() };
                chart.svg();
                chart.text(0, false);
            }
        }
    }

    #[test]
    fn a_long_curve_is_a_small_file_and_keeps_its_peaks() {
        let mut points: Vec<_> = (0..300_000).map(|step| (step, 2.0 + (step % 7) as f64 / 10.0, 2.5)).collect();
        points[123_456].1 = 9.0;
        let svg = loss_svg("long", &Curves { points: points.clone(), ..Curves::default() });
        assert!(svg.len() < 1 << 18, "{}", svg.len());
        let curve: Vec<_> = points.iter().map(|point| (point.0 as f64, point.1)).collect();
        for range in [0.0..3e5, 0.0..1e7] {
            let kept = thinned(&curve, &range);
            assert!(kept.len() <= 2 * PLACES as usize + 3 && kept.contains(&(123_456.0, 9.0)), "{}", kept.len());
            assert!(kept.is_sorted_by(|a, b| a.0 < b.0) && kept.last() == curve.last());
        }
        assert_eq!(thinned(&curve[..2], &(0.0..1e7)), curve[..2]);
    }

    #[test]
    fn dots_rings_and_vertical_lines_are_drawn() {
        let chart = Chart {
            x_names: vec![(0.0, "relu".into()), (1.0, "gelu".into())],
            series: vec![
                Series::dots(0, "runs", vec![(0.0, 1.0), (1.0, 2.0)]),
                Series::rings("the best", vec![(0.0, 1.0)]),
                Series::verticals(1, "edge", &[0.5]),
            ],
            ..Chart::default()
        };
        let svg = Chart::panels(&[chart.clone(), chart.clone()]);
        let count = |what: &str| drawing(&svg).matches(what).count();
        assert_eq!((count("<circle"), count(">relu<"), count(">edge<")), (2 * 5, 2, 2));
        assert_eq!(count("stroke=\"#D65F0E\""), 4, "the lines and their legends");
        let text = chart.text(60, false);
        assert!(text.matches('A').count() == 3 && text.contains("relu") && text.contains("o  the best"), "{text}");
    }

    #[test]
    fn round_numbers_stand_at_the_axes() {
        assert_eq!(ticks(&(0.0..5000.0), 6), [0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0]);
        assert_eq!(ticks(&(1.68..2.31), 4), [1.8, 2.0, 2.2]);
        let values = |range: Range<f64>, most| -> Vec<String> {
            let logs = range.start.log10()..range.end.log10();
            log_ticks(&logs, most).into_iter().map(|log| number(10f64.powf(log))).collect()
        };
        assert_eq!(values(0.9e-4..1.1e-2, 8), ["1e-4", "2e-4", "5e-4", "0.001", "0.002", "0.005", "0.01"]);
        assert_eq!(values(0.9e-4..1.1e-2, 4), ["1e-4", "0.001", "0.01"]);
        assert_eq!(values(2.1..4.2, 8), ["2.5", "3", "3.5", "4"]);
        for (x, text) in [(0.0, "0"), (1234.0, "1234"), (25_600.0, "25.6k"), (-2.5e6, "-2.5M"), (3e-4, "3e-4")] {
            assert_eq!(number(x), text);
        }
    }

    #[test]
    fn curves_on_a_terminal_are_letters_between_labelled_axes() {
        let chart = Chart {
            x_desc: "step".into(),
            y_desc: "loss".into(),
            series: vec![
                Series::new(0, "first", vec![(0.0, 4.0), (100.0, 1.0)]),
                Series::new(1, "second", vec![(0.0, 4.0), (100.0, 2.0)]),
                Series::limit("floor", 0.5, 0.0..100.0),
            ],
            ..Chart::default()
        };
        let text = chart.text(60, false);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.iter().all(|line| line.len() <= 60) && !text.contains('\x1b'), "{text}");
        assert_eq!((lines[0], lines[ROWS + 3].trim()), ("loss", "step"));
        let last = |mark: char| lines[1..=ROWS].iter().position(|line| line.ends_with(mark)).unwrap();
        assert!(last('B') < last('A') && last('A') < last('-'), "{text}");
        // From one point on they go apart, and take turns before that.
        assert!(lines[2].contains("AB"), "{text}");
        assert_eq!(lines[ROWS + 4], "A  first   B  second  -  floor");
        assert!(chart.text(60, true).contains("\x1b[94mA\x1b[0m"));
    }
}

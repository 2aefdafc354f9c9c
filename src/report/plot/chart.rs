//! Line and scatter charts, and their rendering as characters on a terminal.

use std::ops::Range;

/// ANSI colour codes of curves on a terminal, in the same order as the SVG colours.
pub(super) const COLORS: [u8; 9] = [94, 33, 35, 32, 31, 36, 93, 95, 90];

/// The last colour, for anything that is not a result, such as a limit.
pub(super) const GRAY: usize = COLORS.len() - 1;

/// Height of a plot on a terminal, in lines.
const ROWS: usize = 20;
/// Width of the vertical axis on a terminal, in columns.
const Y_AXIS: usize = 9;

/// Curves and dots in one coordinate system.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// The title above it.
    pub title: String,
    /// The label of the horizontal axis.
    pub x_desc: String,
    /// The label of the vertical axis.
    pub y_desc: String,
    /// Whether the horizontal axis is logarithmic; points without a logarithm are left out.
    pub log_x: bool,
    /// Labels at positions on the horizontal axis; if empty, the axis has numbers.
    pub x_names: Vec<(f64, String)>,
    /// The curves, in the order of the legend; the first is drawn on top.
    pub series: Vec<Series>,
    /// What thin curves are; the label of the vertical axis says so.
    pub thin: String,
    /// Whether the vertical axis leaves out how curves begin: their first points, and the first fiftieth of the
    /// horizontal axis. What is outside of the frame is marked and said.
    pub skip_start: bool,
    /// What the horizontal axis shows at least, if it is not logarithmic.
    pub x_range: Option<Range<f64>>,
    /// The limits of the vertical axis, where they are given.
    pub y_limits: (Option<f64>, Option<f64>),
    /// Whether it is drawn less high, below others.
    pub low: bool,
}

/// The share of the horizontal axis in which curves begin.
const START: f64 = 0.02;

/// How points are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Joined by lines, in order.
    #[default]
    Line,
    /// As separate dots.
    Dots,
    /// Rings in the text colour, to highlight other points.
    Rings,
    /// Vertical lines across the whole height.
    Verticals,
}

/// A curve or a set of dots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its text in the legend; if empty, it is not in the legend.
    pub label: String,
    /// The points, in the order in which they are joined; non-finite ones are left out.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub shape: Shape,
    /// Its character on a terminal.
    pub mark: char,
    /// Whether it is dashed.
    pub dashed: bool,
    /// Whether it is drawn thin, as secondary.
    pub thin: bool,
    pub(super) color: usize,
}

impl Series {
    /// Curve number `i` of a chart: the first eight have different colours, the next eight are also dashed.
    pub fn new(i: usize, label: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        let color = i % GRAY;
        let dashed = i / GRAY % 2 == 1;
        Series { label: label.into(), points, mark: mark(i), dashed, color, ..Series::default() }
    }

    /// Dots in colour number `i`.
    pub fn dots(i: usize, label: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { shape: Shape::Dots, ..Series::new(i, label, points) }
    }

    /// Rings around points.
    pub fn rings(label: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { label: label.into(), points, shape: Shape::Rings, mark: 'o', ..Series::default() }
    }

    /// Vertical lines in colour number `i`, at positions on the horizontal axis.
    pub fn verticals(i: usize, label: impl Into<String>, places: &[f64]) -> Series {
        let points = places.iter().map(|&x| (x, 0.0)).collect();
        Series { shape: Shape::Verticals, mark: '|', ..Series::new(i, label, points) }
    }

    /// The same curve as a secondary one: thin, and with a lowercase mark.
    pub fn behind(self) -> Series {
        Series { thin: true, mark: self.mark.to_ascii_lowercase(), ..self }
    }

    /// A limit: a dashed grey line at height `y`, between two positions.
    pub fn limit(label: impl Into<String>, y: f64, x: Range<f64>) -> Series {
        let points = vec![(x.start, y), (x.end, y)];
        Series { label: label.into(), points, mark: '-', dashed: true, color: GRAY, ..Series::default() }
    }
}

/// The mark of curve number `i`: A to Z, 0 to 9, then `*` for all others.
pub fn mark(i: usize) -> char {
    ('A'..='Z').chain('0'..='9').nth(i).unwrap_or('*')
}

/// A chart's points and axis ranges; horizontal values are logarithms if that axis is logarithmic.
pub(super) struct Placed {
    pub(super) points: Vec<Vec<(f64, f64)>>,
    pub(super) x: Range<f64>,
    pub(super) y: Range<f64>,
}

impl Chart {
    pub(super) fn placed(&self) -> Placed {
        let place = |&(x, y): &(f64, f64)| (if self.log_x { x.log10() } else { x }, y);
        let finite = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
        let points: Vec<Vec<_>> =
            self.series.iter().map(|series| series.points.iter().map(place).filter(finite).collect()).collect();
        let names = self.x_names.iter().map(|name| (name.0, f64::NAN));
        let all = || points.iter().flatten().copied();
        let limits = |values: &mut dyn Iterator<Item = f64>| {
            let (low, high) =
                values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
            if low.is_finite() { low..high } else { 0.0..0.0 }
        };
        let ends = self.x_range.iter().filter(|_| !self.log_x).flat_map(|x| [x.start, x.end]);
        let x = limits(&mut all().chain(names).map(|point| point.0).chain(ends));
        let x = x.start..x.end.max(x.start + if self.log_x { 0.01 } else { 1.0 });
        let y = limits(&mut self.decisive(&points, &x).into_iter());
        // Around a single value, a tenth of it.
        let y = y.start..y.end.max(y.start + (0.1 * y.start.abs()).clamp(1e-9, 0.01));
        // Curves reach the edges; dots keep a margin.
        let curves = self.series.iter().all(|series| series.shape == Shape::Line);
        let side = match (curves, self.x_names.is_empty()) {
            (true, true) => 0.0,
            (false, true) => 0.05 * (x.end - x.start),
            (_, false) => 0.5,
        };
        let margin = 0.05 * (y.end - y.start);
        let low = self.y_limits.0.unwrap_or(y.start - margin);
        let high = self.y_limits.1.unwrap_or(y.end + margin);
        let y = low..if high > low { high } else { low + 0.01 };
        Placed { x: x.start - side..x.end + side, y, points }
    }

    /// The values that decide the range of the vertical axis.
    fn decisive(&self, points: &[Vec<(f64, f64)>], x: &Range<f64>) -> Vec<f64> {
        // Vertical lines have no height.
        let counted = self.series.iter().zip(points).filter(|(series, _)| series.shape != Shape::Verticals);
        let start = if self.log_x { x.start } else { x.start + START * (x.end - x.start) };
        let mut values = Vec::new();
        for (series, points) in counted {
            let all = || points.iter().map(|point| point.1).collect::<Vec<_>>();
            let after = points.iter().skip(1).filter(|point| point.0 >= start).map(|point| point.1);
            let skips = self.skip_start && series.shape == Shape::Line && points.len() > 2;
            let counts = Some(after.collect::<Vec<_>>()).filter(|after| skips && !after.is_empty()).unwrap_or_else(all);
            // Thin curves are noisy: their extremes may leave the frame.
            values.extend(if series.thin { middle(counts) } else { counts });
        }
        values
    }

    /// The label of the vertical axis; `like` says how thin curves look.
    pub(super) fn y_label(&self, like: &str) -> String {
        let thin = self.series.iter().any(|series| series.thin) && !self.thin.is_empty();
        if thin { format!("{}; {like}: {}", self.y_desc, self.thin) } else { self.y_desc.clone() }
    }

    /// What to say of points that are above the frame, and of those below.
    pub(super) fn outside(&self, placed: &Placed) -> [Option<String>; 2] {
        let heights = self.series.iter().zip(&placed.points).filter(|(series, _)| series.shape != Shape::Verticals);
        let heights: Vec<f64> = heights.flat_map(|(_, points)| points).map(|point| point.1).collect();
        let high = heights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let low = heights.iter().copied().fold(f64::INFINITY, f64::min);
        [
            (high > placed.y.end).then(|| format!("above: up to {}", short(high))),
            (low < placed.y.start).then(|| format!("below: down to {}", short(low))),
        ]
    }

    /// The label at a position on the horizontal axis.
    pub(super) fn x_label(&self, place: f64) -> String {
        let name = self.x_names.iter().find(|name| (name.0 - place).abs() < 1e-6);
        let value = || number(if self.log_x { 10f64.powf(place) } else { place });
        name.map_or_else(value, |name| name.1.clone())
    }

    /// About `most` positions on the horizontal axis for tick labels.
    pub(super) fn x_ticks(&self, x: &Range<f64>, most: usize) -> Vec<f64> {
        if !self.x_names.is_empty() {
            return self.x_names.iter().map(|name| name.0).collect();
        }
        if self.log_x { log_ticks(x, most) } else { ticks(x, most) }
    }

    /// Renders the chart as lines of at most `width` characters (at least 40), optionally in colour. Where curves
    /// overlap, their marks alternate.
    pub fn text(&self, width: usize, color: bool) -> String {
        let placed = self.placed();
        let outside = self.outside(&placed);
        let Placed { points, x, y } = placed;
        let width = width.max(40);
        let columns = width - Y_AXIS - 1;
        let column = |place: f64| ((place - x.start) / (x.end - x.start) * (columns - 1) as f64).round() as usize;
        let row = |value: f64| ((y.end - value) / (y.end - y.start) * (ROWS - 1) as f64).round() as usize;
        let mut cells = vec![Vec::new(); ROWS * columns];
        for (i, points) in points.iter().enumerate() {
            let shape = self.series[i].shape;
            for (k, &to) in points.iter().enumerate() {
                // A point that is not joined to another is a line from itself to itself.
                let (from, to) = match shape {
                    Shape::Line => (points[k.saturating_sub(1)], to),
                    Shape::Dots | Shape::Rings => (to, to),
                    Shape::Verticals => ((to.0, y.start), (to.0, y.start)),
                };
                let (a, b) = (column(from.0), column(to.0));
                for at in a.min(b)..=a.max(b) {
                    let share = if a == b { 1.0 } else { (at as f64 - a as f64) / (b as f64 - a as f64) };
                    let height = from.1 + share * (to.1 - from.1);
                    if !(y.start..=y.end).contains(&height) {
                        continue;
                    }
                    let line = row(height);
                    let cell: &mut Vec<usize> = &mut cells[line * columns + at];
                    if !cell.contains(&i) {
                        cell.push(i);
                    }
                }
            }
        }
        let paint = |i: usize, text: &str| {
            let code = COLORS[self.series[i].color];
            if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let mut text = format!("{}\n", self.y_label("small letters"));
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
        let said: Vec<_> = outside.into_iter().flatten().collect();
        if !said.is_empty() {
            text += &format!("outside of the frame {}\n", said.join(", "));
        }
        text
    }
}

/// The values without their highest and lowest hundredths.
fn middle(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    let few = values.len() / 100;
    values[few..values.len() - few].to_vec()
}

/// A value with three significant digits.
fn short(x: f64) -> String {
    number(format!("{x:.2e}").parse().expect("a number"))
}

/// Round numbers in a range, about `most` of them.
pub(super) fn ticks(range: &Range<f64>, most: usize) -> Vec<f64> {
    let least = (range.end - range.start) / most.max(1) as f64;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|of| of * power).into_iter().find(|&step| step >= least).unwrap_or(least);
    // The range is too small or too large to be divided.
    if !(step.is_normal() && least.is_finite()) {
        return Vec::new();
    }
    let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
    (first..=last).map(|k| k as f64 * step).collect()
}

/// Logarithms of round numbers in a range of logarithms.
pub(super) fn log_ticks(range: &Range<f64>, most: usize) -> Vec<f64> {
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
    // The range is less than a decade: use linear ticks.
    ticks(&(10f64.powf(range.start)..10f64.powf(range.end)), most).into_iter().map(f64::log10).collect()
}

/// Formats a number as short as possible, to about four digits.
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
        size if size < 1e-2 => short(x, 5),
        _ => short(x, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_numbers_stand_at_the_axes() {
        assert_eq!(ticks(&(0.0..5000.0), 6), [0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0]);
        assert_eq!(ticks(&(1.68..2.31), 4), [1.8, 2.0, 2.2]);
        for range in [0.0..5e-324, f64::MIN..f64::MAX, 1.0..1.0] {
            assert!(ticks(&range, 6).is_empty());
        }
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

    #[test]
    fn the_axis_looks_at_what_comes_after_the_start() {
        let points = vec![(0.0, 4.2), (10.0, 3.0), (100.0, 2.5), (1000.0, 2.0)];
        // One of two hundred is an extreme.
        let mut behind: Vec<_> = (0..200).map(|i| (5.0 * f64::from(i), 2.2)).collect();
        (behind[0].1, behind[100].1) = (5.0, 1.0);
        let mut chart = Chart {
            y_desc: "loss".into(),
            thin: "training".into(),
            series: vec![Series::new(0, "a", points), Series::new(0, "", behind).behind()],
            ..Chart::default()
        };
        let round = |x: f64| (1e9 * x).round() / 1e9;
        let range = |chart: &Chart| round(chart.placed().y.start)..round(chart.placed().y.end);
        assert_eq!(range(&chart), 1.89..4.31, "all of the curve, but not the extremes of what is thin");
        let outside = [Some("above: up to 5".to_owned()), Some("below: down to 1".to_owned())];
        assert_eq!(chart.outside(&chart.placed()), outside);
        // The second point is within a fiftieth of the axis.
        chart.skip_start = true;
        assert_eq!(range(&chart), 1.975..2.525);
        let text = chart.text(60, false);
        assert!(text.contains("\noutside of the frame above: up to 5, below: down to 1\n"), "{text}");
        assert!(text.starts_with("loss; small letters: training\n"), "{text}");
        chart.y_limits = (Some(1.0), None);
        assert_eq!(range(&chart), 1.0..2.525);
        chart.y_limits = (Some(1.0), Some(6.0));
        assert_eq!(chart.outside(&chart.placed()), [None, None]);
        // Of two points, both count.
        chart.y_limits = (None, None);
        chart.series = vec![Series::new(0, "b", vec![(0.0, 4.0), (10.0, 2.0)])];
        assert_eq!(range(&chart), 1.9..4.1);
        chart.series = vec![Series::new(0, "constant", vec![(0.0, 1e-3), (5.0, 1e-3), (10.0, 1e-3)])];
        assert!(range(&chart).start > 9e-4 && range(&chart).end < 1.2e-3, "{:?}", range(&chart));
    }
}

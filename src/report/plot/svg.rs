//! Charts as SVGs, drawn with plotters.

use super::chart::{Chart, Placed, Series, Shape, number, ticks};
use plotters::{
    coord::{
        Shift,
        ranged1d::{DefaultFormatting, KeyPointHint},
    },
    element::DashedPathElement,
    prelude::*,
};
use std::ops::Range;

/// Size of an SVG in pixels, without its legend.
const SIZE: (u32, u32) = (640, 480);
/// Height of each chart if there are several, one below the other.
const PANEL: u32 = 360;
/// Number of bins on the horizontal axis, in each of which a curve keeps its lowest and highest point; more than its
/// pixels.
const PLACES: f64 = 1000.0;
/// Curves with at most this many points show each point as a dot.
const DOTS: usize = 16;

/// Colours of curves, on light and on dark pages.
const COLORS: [(RGBColor, RGBColor); 9] = [
    (RGBColor(0x1f, 0x77, 0xb4), RGBColor(0x6c, 0xb6, 0xff)),
    (RGBColor(0xd6, 0x5f, 0x0e), RGBColor(0xf6, 0x9d, 0x50)),
    (RGBColor(0x7a, 0x4f, 0xd0), RGBColor(0xb3, 0x92, 0xf0)),
    (RGBColor(0x2a, 0x8c, 0x3c), RGBColor(0x57, 0xc9, 0x6b)),
    (RGBColor(0xc8, 0x1e, 0x3c), RGBColor(0xff, 0x6b, 0x7a)),
    (RGBColor(0x0a, 0x93, 0x96), RGBColor(0x4f, 0xd6, 0xd2)),
    (RGBColor(0x7a, 0x52, 0x30), RGBColor(0xd2, 0xac, 0x84)),
    (RGBColor(0xd6, 0x40, 0x9f), RGBColor(0xff, 0x8f, 0xcf)),
    (RGBColor(0x6e, 0x77, 0x81), RGBColor(0x8b, 0x94, 0x9e)),
];

/// Colour of text and axes, on light and on dark pages.
const INK: (RGBColor, RGBColor) = (RGBColor(0x24, 0x29, 0x2e), RGBColor(0xe6, 0xed, 0xf3));
const GRID: (RGBColor, RGBColor) = (RGBColor(0xd0, 0xd7, 0xde), RGBColor(0x3d, 0x44, 0x4d));

impl Chart {
    /// The chart as an SVG.
    pub fn svg(&self) -> String {
        svg(std::slice::from_ref(self))
    }

    /// Several charts in one SVG, one below the other.
    pub fn panels(charts: &[Chart]) -> String {
        svg(charts)
    }
}

/// Several charts in one SVG, one below the other.
fn svg(charts: &[Chart]) -> String {
    let mut svg = String::new();
    draw(&mut svg, charts).expect("drawing into a string does not fail");
    for_dark_pages(&mut svg);
    svg
}

/// Adds CSS rules that replace the drawing's colours on dark pages.
fn for_dark_pages(svg: &mut String) {
    let hex = |color: RGBColor| format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
    let pairs = COLORS.into_iter().chain([INK, GRID]);
    let rules: String = pairs
        .map(|(light, dark)| (hex(light), hex(dark)))
        .map(|(light, dark)| format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}"))
        .collect();
    let style = format!("<style>@media(prefers-color-scheme:dark){{{rules}}}</style>\n");
    let after_head = svg.find('>').map_or(0, |at| at + 1);
    svg.insert_str(after_head, &style);
}

/// An axis with ticks at round numbers.
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
    /// The series listed in the legend.
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

/// The visible points of a curve: in each bin the lowest and the highest, and the last point overall.
fn thinned(points: &[(f64, f64)], x: &Range<f64>) -> Vec<(f64, f64)> {
    let place = |point: &(f64, f64)| ((point.0 - x.start) / (x.end - x.start) * PLACES) as i64;
    let mut kept = Vec::new();
    for here in points.chunk_by(|a, b| place(a) == place(b)) {
        let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (here.iter().min_by(by_height), here.iter().max_by(by_height));
        // Keep the order of the curve.
        let is = |point: &(f64, f64), of: Option<&_>| of.is_some_and(|of| std::ptr::eq(of, point));
        kept.extend(here.iter().filter(|&point| here.len() < 3 || is(point, low) || is(point, high)));
    }
    kept.extend(points.last().filter(|&last| kept.last() != Some(last)));
    kept
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Curves, loss_svg},
        *,
    };

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
        assert_eq!((count("<circle"), count("\nrelu\n"), count("\nedge\n")), (2 * 5, 2, 2));
        assert_eq!(count("stroke=\"#D65F0E\""), 4, "the lines and their legends");
        let text = chart.text(60, false);
        assert!(text.matches('A').count() == 3 && text.contains("relu") && text.contains("o  the best"), "{text}");
    }
}

//! Charts as SVGs, drawn with plotters.

use super::chart::{Chart, Placed, Series, Shape, inside, number, ticks};
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
/// Height of each chart if there are several, one below the other, and of low ones among them.
const PANEL: (u32, u32) = (360, 200);
/// Number of bins on the horizontal axis, in each of which a curve keeps its lowest and highest point; more than its
/// pixels.
const PLACES: f64 = 1000.0;
/// Curves with at most this many points show each point as a dot.
const DOTS: usize = 16;

/// Colours of curves, on light and on dark pages. They differ in lightness too, so that they are told apart whoever looks;
/// a test measures how far.
const COLORS: [(RGBColor, RGBColor); 9] = [
    (RGBColor(0x1f, 0x6f, 0xb4), RGBColor(0x6c, 0xb6, 0xff)),
    (RGBColor(0xd9, 0x60, 0x0a), RGBColor(0xf6, 0x9d, 0x50)),
    (RGBColor(0x3c, 0x07, 0x7f), RGBColor(0x8b, 0x63, 0xee)),
    (RGBColor(0x0e, 0x3d, 0x19), RGBColor(0x8f, 0xf9, 0xd9)),
    (RGBColor(0x89, 0x4f, 0x5f), RGBColor(0xe2, 0x40, 0x3a)),
    (RGBColor(0x50, 0x9b, 0xaf), RGBColor(0x39, 0x86, 0x99)),
    (RGBColor(0x67, 0x4e, 0x14), RGBColor(0xf1, 0xd8, 0x61)),
    (RGBColor(0x72, 0x2d, 0x58), RGBColor(0xe9, 0x93, 0xb2)),
    (RGBColor(0x6e, 0x77, 0x81), RGBColor(0x8b, 0x94, 0x9e)),
];

/// Colour of text and axes, on light and on dark pages.
const INK: (RGBColor, RGBColor) = (RGBColor(0x24, 0x29, 0x2e), RGBColor(0xe6, 0xed, 0xf3));
const GRID: (RGBColor, RGBColor) = (RGBColor(0xd0, 0xd7, 0xde), RGBColor(0x3d, 0x44, 0x4d));
/// The background. Without one of its own a drawing is unreadable where a page is dark and does not say so.
const PAPER: (RGBColor, RGBColor) = (RGBColor(0xff, 0xff, 0xff), RGBColor(0x0d, 0x11, 0x17));

/// How much of the colour thin curves have.
const THIN: f64 = 0.55;

/// The height of a line of the legend.
const LINE: i32 = 22;

/// The longest text in a legend, in characters.
const LABEL: usize = 48;

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
    let pairs = COLORS.into_iter().chain([INK, GRID, PAPER]);
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

    /// The texts of the legend, which has a place of its own beside the drawing: of the series, then of what is above
    /// and below the frame.
    fn legend_texts(&self) -> (Vec<String>, [Option<String>; 2]) {
        (self.legend().map(|series| shortened(&series.label)).collect(), self.outside(&self.placed()))
    }

    fn draw(&self, area: &Area) -> Drawn {
        let placed = self.placed();
        let (left, right) = area.split_horizontally(SIZE.0);
        self.draw_legend(&right)?;
        let Placed { points, x, y } = placed;
        let mut chart = ChartBuilder::on(&left)
            .margin(14)
            .caption(&self.title, font(20))
            .x_label_area_size(44)
            .y_label_area_size(66)
            .build_cartesian_2d(
                Axis { ticks: self.x_ticks(&x, 8), range: x.clone() },
                Axis { ticks: ticks(&y, if self.low { 4 } else { 10 }), range: y.clone() },
            )?;
        chart
            .configure_mesh()
            .x_desc(&self.x_desc)
            .y_desc(self.y_label("thin lines"))
            .x_label_formatter(&|x| self.x_label(*x))
            .y_label_formatter(&|y| number(*y))
            .label_style(font(14))
            .axis_desc_style(font(15))
            .axis_style(INK.0)
            .bold_line_style(GRID.0)
            .light_line_style(TRANSPARENT)
            .draw()?;
        let thin_first = |series: &(&Series, &Vec<(f64, f64)>)| !series.0.thin;
        let mut order: Vec<_> = self.series.iter().zip(&points).rev().collect();
        order.sort_by_key(thin_first);
        for (series, points) in order {
            let style = stroke(series, 2);
            let color = COLORS[series.color].0;
            let shown = points.iter().filter(|point| y.contains(&point.1));
            let circles = |size: i32, style: ShapeStyle| shown.map(move |&at| Circle::new(at, size, style));
            match series.shape {
                Shape::Line => {
                    for part in inside(&thinned(points, &x), &y) {
                        if series.dashed {
                            chart.draw_series(DashedLineSeries::new(part, 7, 4, style))?;
                        } else {
                            chart.draw_series(LineSeries::new(part, style))?;
                        }
                    }
                    if !series.thin {
                        let leaves =
                            above(points, &y).into_iter().map(|x| TriangleMarker::new((x, y.end), 5, color.filled()));
                        chart.draw_series(leaves)?;
                    }
                    if !series.dashed && points.len() <= DOTS {
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
        Ok(())
    }

    fn draw_legend(&self, area: &Area) -> Drawn {
        let (labels, [above, below]) = self.legend_texts();
        let mut y = 52;
        let write = |text: String, y: i32| area.draw(&Text::new(text, (36, y - 7), font(14)));
        for (series, label) in self.legend().zip(labels) {
            let line = [(4, y), (28, y)];
            match series.shape {
                Shape::Dots => area.draw(&Circle::new((16, y), 4, COLORS[series.color].0.filled()))?,
                Shape::Rings => area.draw(&Circle::new((16, y), 7, INK.0.stroke_width(2)))?,
                _ if series.dashed => area.draw(&DashedPathElement::new(line, 6, 3, stroke(series, 3)))?,
                _ => area.draw(&PathElement::new(line, stroke(series, 3)))?,
            }
            write(label, y)?;
            y += LINE;
        }
        for (text, size) in [(above, 5), (below, -5)] {
            if let Some(text) = text {
                area.draw(&TriangleMarker::new((16, y), size, INK.0.filled()))?;
                write(text, y)?;
                y += LINE;
            }
        }
        Ok(())
    }
}

/// How the line of a series is drawn.
fn stroke(series: &Series, width: u32) -> ShapeStyle {
    let color = COLORS[series.color].0;
    if series.thin { color.mix(THIN).stroke_width(1) } else { color.stroke_width(width) }
}

/// Where a curve comes in from above the frame, or leaves it upwards.
fn above(points: &[(f64, f64)], y: &Range<f64>) -> Vec<f64> {
    let crossing = |pair: &[(f64, f64)]| {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        ((y0 > y.end) != (y1 > y.end)).then(|| x0 + (x1 - x0) * (y.end - y0) / (y1 - y0))
    };
    // One that goes up and down all the time has one mark for each direction.
    let all: Vec<f64> = points.windows(2).filter_map(crossing).collect();
    if all.len() > 4 { vec![all[0], all[all.len() - 1]] } else { all }
}

/// A text of at most [`LABEL`] characters: of a longer one, its ends.
fn shortened(label: &str) -> String {
    let chars: Vec<char> = label.chars().collect();
    if chars.len() <= LABEL {
        return label.to_owned();
    }
    let half = (LABEL - 1) / 2;
    chars[..half].iter().chain(&['…']).chain(&chars[chars.len() - half..]).collect()
}

/// About how wide a text is in the legend, in pixels.
fn text_width(text: &str) -> u32 {
    // Letters of other scripts may be twice as wide.
    let tenths: u32 = text.chars().map(|c| if c.len_utf8() < 3 { 86 } else { 145 }).sum();
    tenths / 10
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK.0)
}

fn draw(svg: &mut String, charts: &[Chart]) -> Drawn {
    let all = |chart: &Chart| {
        let (labels, outside) = chart.legend_texts();
        labels.into_iter().chain(outside.into_iter().flatten()).collect::<Vec<_>>()
    };
    let texts: Vec<_> = charts.iter().map(all).collect();
    let legend_width = texts.iter().flatten().map(|text| 50 + text_width(text)).max().unwrap_or(0);
    let height = |(chart, texts): (&Chart, &Vec<String>)| {
        let several = if chart.low { PANEL.1 } else { PANEL.0 };
        let one = if charts.len() > 1 { several } else { SIZE.1 };
        one.max(70 + LINE as u32 * texts.len() as u32)
    };
    let heights: Vec<u32> = charts.iter().zip(&texts).map(height).collect();
    let size = (SIZE.0 + legend_width, heights.iter().sum());
    let mut rest = SVGBackend::with_string(svg, size).into_drawing_area();
    rest.fill(&PAPER.0)?;
    for (chart, height) in charts.iter().zip(heights) {
        let (area, below) = rest.split_vertically(height);
        chart.draw(&area)?;
        rest = below;
    }
    rest.present()?;
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
        let curves = Curves { points, old: vec![(0, 2.0), (200, 3.0)], floor: Some(0.5), ..Curves::default() };
        let svg = loss_svg("my run", &curves);
        for part in [
            "my run",
            "train 2.0000",
            "validation 2.2000",
            "old validation 3.0000",
            "entropy floor 0.5000",
            "step",
            "prefers-color-scheme",
            "above: up to 4.3",
        ] {
            assert!(svg.contains(part), "{part}");
        }
        for color in ["1F6FB4", "D9600A", "3C077F"] {
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
    fn steps_have_a_thin_curve_and_panels_of_their_own() {
        let mut curves = Curves { points: vec![(0, 4.2, 4.3), (500, 2.5, 2.6), (1000, 2.0, 2.2)], ..Curves::default() };
        for step in (10..=1000).step_by(10) {
            curves.steps.push(step, 3.0 - step as f64 / 1000.0, 1e-3, 0.5);
        }
        let svg = loss_svg("run", &curves);
        for part in ["learning rate", "gradient norm", "\ntrain 2.0000\n", "\ntraining steps\n"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(drawing(&svg).contains("opacity=\"0.55\" stroke=\"#1F6FB4\""), "the colour of training");
        curves.truncate(500);
        assert_eq!((curves.points.len(), curves.steps.points(|at| at.lr).len()), (2, 50));
    }

    #[test]
    fn a_drawing_has_a_background_and_its_legend_a_place_beside_it() {
        let name = "a/folder/with/a/name/that/is/longer/than/any/legend/has/room/for/run";
        let points = vec![(0.0, 4.0), (1.0, 2.0), (2.0, 1.0)];
        let series = vec![Series::new(0, name, points.clone()), Series::new(1, "ラベル", points)];
        let svg = Chart { series, ..Chart::default() }.svg();
        let paper = drawing(&svg).find("fill=\"#FFFFFF\"").expect("a background");
        assert!(paper < drawing(&svg).find("<polyline").unwrap(), "behind everything");
        let (kept, width) = (shortened(name), SIZE.0 + 50);
        assert!(
            svg.contains(&kept) && kept.chars().count() < name.len() && kept.ends_with("has/room/for/run"),
            "{kept}"
        );
        assert!(svg.contains(&format!("<svg width=\"{}\"", width + text_width(&kept))), "{}", &svg[..80]);
    }

    /// A colour as OKLab sees it, after a linear map of its light.
    fn lab(color: RGBColor, seen: [[f64; 3]; 3]) -> [f64; 3] {
        let linear = |c: u8| match f64::from(c) / 255.0 {
            c if c <= 0.04045 => c / 12.92,
            c => ((c + 0.055) / 1.055).powf(2.4),
        };
        let light = [color.0, color.1, color.2].map(linear);
        let product = |m: [[f64; 3]; 3], v: [f64; 3]| m.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>());
        let light = product(seen, light).map(|c| c.clamp(0.0, 1.0));
        let cones = [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ];
        let opponents = [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ];
        product(opponents, product(cones, light).map(f64::cbrt))
    }

    #[test]
    fn colours_are_told_apart_whoever_looks_and_on_both_backgrounds() {
        // Full sight, and the simulations of protanopia and deuteranopia by Machado et al. 2009.
        let sights = [
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        ];
        for dark in [false, true] {
            let of = |pair: (RGBColor, RGBColor)| if dark { pair.1 } else { pair.0 };
            let apart = |a: RGBColor, b: RGBColor| {
                let squares = |seen| lab(a, seen).iter().zip(lab(b, seen)).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
                sights.map(|seen| squares(seen).sqrt()).into_iter().fold(f64::INFINITY, f64::min)
            };
            for (i, &a) in COLORS[..8].iter().enumerate() {
                for (k, &b) in COLORS[..i].iter().enumerate() {
                    let least = if i < 4 { 0.15 } else { 0.08 };
                    assert!(apart(of(a), of(b)) >= least, "{k} and {i}, dark {dark}: {}", apart(of(a), of(b)));
                }
                assert!(apart(of(a), of(PAPER)) >= 0.25, "{i}, dark {dark}");
            }
            assert!(apart(of(INK), of(PAPER)) > 0.5);
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
        assert_eq!(count("stroke=\"#D9600A\""), 4, "the lines and their legends");
        let text = chart.text(60, false);
        assert!(text.matches('A').count() == 3 && text.contains("relu") && text.contains("o  the best"), "{text}");
    }
}

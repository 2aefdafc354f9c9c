//! The drawing of a tuning: the range test, and the loss against each key that varied.

use super::{Outcome, RangeTest, Sweep, Values};
use crate::report::plot::{self, COLORS, for_dark_pages};
use plotters::{coord::Shift, prelude::*};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

const INK: RGBColor = plot::INK.0;
const GRID: RGBColor = plot::GRID.0;
const CURVE: RGBColor = COLORS[0].0;
const EDGES: RGBColor = COLORS[1].0;

const WIDTH: u32 = 800;
const HEIGHT: u32 = 340;

/// Rungs by colour, the last one the strongest.
const RUNGS: [RGBColor; 3] = [COLORS[0].0, COLORS[2].0, COLORS[1].0];

/// Draws one panel below the other.
pub(super) fn svg(sweeps: &[Sweep], outcomes: &[Vec<Outcome>], range: Option<&RangeTest>, best: &Outcome) -> String {
    let mut svg = String::new();
    draw(&mut svg, sweeps, outcomes, range, best).expect("drawing into a string does not fail");
    for_dark_pages(&mut svg);
    svg
}

fn draw(
    svg: &mut String,
    sweeps: &[Sweep],
    outcomes: &[Vec<Outcome>],
    range: Option<&RangeTest>,
    best: &Outcome,
) -> Drawn {
    let panels = sweeps.len() + usize::from(range.is_some());
    let area = SVGBackend::with_string(svg, (WIDTH, HEIGHT * panels as u32)).into_drawing_area();
    let mut areas = area.split_evenly((panels, 1)).into_iter();
    if let (Some(range), Some(area)) = (range, range.and_then(|_| areas.next())) {
        draw_range(&area, range)?;
    }
    for (sweep, area) in sweeps.iter().zip(areas) {
        draw_sweep(&area, sweep, outcomes, best)?;
    }
    area.present()?;
    Ok(())
}

/// An axis: what its numbers stand for.
enum Axis<'a> {
    Plain,
    Log,
    /// A list: positions stand for its values.
    Names(&'a [toml::Value]),
}

impl Axis<'_> {
    fn place(&self, value: &toml::Value) -> f64 {
        let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
        match self {
            // The configured value need not be one of the list: it stands before it.
            Axis::Names(list) => list.iter().position(|listed| listed == value).map_or(-1.0, |at| at as f64),
            Axis::Plain => number.unwrap_or(f64::NAN),
            Axis::Log => number.map_or(f64::NAN, libm::log10),
        }
    }

    fn label(&self, x: f64) -> String {
        match self {
            Axis::Plain => format!("{}", (x * 1e6).round() / 1e6),
            Axis::Log => format!("{:.1e}", libm::pow(10.0, x)),
            Axis::Names(list) if (x - x.round()).abs() < 1e-6 => match x.round() as i64 {
                -1 => "as configured".into(),
                at => usize::try_from(at)
                    .ok()
                    .and_then(|at| list.get(at))
                    .map_or_else(String::new, toml::Value::to_string),
            },
            Axis::Names(_) => String::new(),
        }
    }
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// An empty panel for points in these limits.
fn panel<'a, 'b>(
    area: &'a Area<'b>,
    (title, x_desc, y_desc): (&str, &str, &str),
    axis: &Axis,
    x: (f64, f64),
    y: (f64, f64),
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>> {
    let wide = |(low, high): (f64, f64), least: f64| {
        let (low, high) = if low.is_finite() && high >= low { (low, high) } else { (0.0, 1.0) };
        let margin = (0.06 * (high - low)).max(least);
        low - margin..high + margin
    };
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(title, font(18))
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(wide(x, if matches!(axis, Axis::Names(_)) { 0.5 } else { 1e-6 }), wide(y, 0.01))?;
    let labels = if let Axis::Names(list) = axis { 2 * list.len() + 3 } else { 10 };
    chart
        .configure_mesh()
        .x_desc(x_desc)
        .y_desc(y_desc)
        .x_labels(labels)
        .x_label_formatter(&|x| axis.label(*x))
        .label_style(font(14))
        .axis_desc_style(font(15))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    Ok(chart)
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, position: SeriesLabelPosition) -> Drawn {
    chart
        .configure_series_labels()
        .position(position)
        .label_font(font(14))
        .border_style(TRANSPARENT)
        .legend_area_size(24)
        .draw()?;
    Ok(())
}

fn limits(numbers: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let numbers = numbers.filter(|number| number.is_finite());
    (numbers.clone().fold(f64::INFINITY, f64::min), numbers.fold(f64::NEG_INFINITY, f64::max))
}

fn draw_range(area: &Area, range: &RangeTest) -> Drawn {
    let points: Vec<(f64, f64)> = range.points.iter().map(|point| (libm::log10(point.0), point.1)).collect();
    let marks = [range.bracket.0, range.bracket.1].map(libm::log10);
    let x = limits(points.iter().map(|point| point.0).chain(marks));
    let y = limits(points.iter().map(|point| point.1));
    let words = ("learning-rate range test", "learning_rate, rising from step to step", "training loss, smoothed");
    let mut chart = panel(area, words, &Axis::Log, x, y)?;
    let line =
        |color: RGBColor| move |(x, y): (i32, i32)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3));
    chart.draw_series(LineSeries::new(points, CURVE.stroke_width(2)))?.label("training loss").legend(line(CURVE));
    let edges = marks
        .into_iter()
        .filter(|_| y.0.is_finite())
        .map(|mark| PathElement::new([(mark, y.0), (mark, y.1)], EDGES.stroke_width(2)));
    chart
        .draw_series(edges)?
        .label(format!("the range that is swept: {:.1e} to {:.1e}", range.bracket.0, range.bracket.1))
        .legend(line(EDGES));
    // Where the curve, which begins high and falls, is not.
    legend(&mut chart, SeriesLabelPosition::LowerLeft)
}

fn draw_sweep(area: &Area, sweep: &Sweep, outcomes: &[Vec<Outcome>], best: &Outcome) -> Drawn {
    let axis = match &sweep.values {
        Values::OneOf(list) => Axis::Names(list),
        Values::Between { log: true, .. } => Axis::Log,
        _ => Axis::Plain,
    };
    let place = |outcome: &Outcome| (axis.place(&outcome.settings[sweep.key]), outcome.loss);
    let finite = |outcome: &&Outcome| outcome.loss.is_finite() && place(outcome).0.is_finite();
    let all = || outcomes.iter().flatten().filter(finite);
    // One that went far astray must not press the others into a line.
    let mut losses: Vec<f64> = all().map(|outcome| outcome.loss).collect();
    losses.sort_by(f64::total_cmp);
    let low = losses.first().copied().unwrap_or(0.0);
    let most = losses.get(losses.len() / 2).map_or(f64::INFINITY, |median| low + 4.0 * (median - low).max(0.05));
    let x = limits(all().map(|outcome| place(outcome).0));
    let y = limits(losses.iter().copied().filter(|&loss| loss <= most));
    let title = format!("validation loss against {}", sweep.key);
    let mut chart = panel(area, (&title, sweep.key, "loss (nats per token)"), &axis, x, y)?;
    for (i, rung) in outcomes.iter().enumerate() {
        let color = RUNGS[(i + RUNGS.len()).saturating_sub(outcomes.len()).min(RUNGS.len() - 1)];
        let Some(first) = rung.first() else { continue };
        let dots = rung.iter().filter(finite).map(place).filter(|point| point.1 <= most);
        chart
            .draw_series(dots.map(|point| Circle::new(point, 4, color.filled())))?
            .label(format!("rung {}: {} steps", i + 1, first.steps))
            .legend(move |(x, y)| Circle::new((x + 9, y), 4, color.filled()));
    }
    chart
        .draw_series([Circle::new(place(best), 8, INK.stroke_width(2))])?
        .label("the best")
        .legend(|(x, y)| Circle::new((x + 9, y), 6, INK.stroke_width(2)));
    let left_out = outcomes.iter().flatten().filter(|outcome| !finite(outcome) || outcome.loss > most).count();
    if left_out > 0 {
        chart
            .draw_series(std::iter::empty::<Circle<(f64, f64), i32>>())?
            .label(format!("{left_out} diverged or above"))
            .legend(|(x, y)| Circle::new((x + 9, y), 0, TRANSPARENT));
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_panel_and_what_has_no_loss_is_counted() {
        let sweeps: Vec<Sweep> =
            ["learning_rate=1e-4..1e-1", "activation=[relu, gelu]"].map(|text| text.parse().unwrap()).into();
        let outcome = |trial, rung, rate: f64, activation: &str, loss| Outcome {
            trial,
            rung,
            steps: 100 * rung as u64,
            seed: 1,
            settings: [("learning_rate".to_owned(), rate.into()), ("activation".to_owned(), activation.into())].into(),
            loss,
            stderr: 0.01,
            wall_s: 1.0,
            out: String::new(),
        };
        let first = vec![
            outcome(0, 1, 1e-3, "gelu_tanh", 3.0),
            outcome(1, 1, 1e-2, "relu", 2.5),
            outcome(2, 1, 9e-2, "gelu", f64::INFINITY),
        ];
        let second = vec![outcome(1, 2, 1e-2, "relu", 2.2)];
        let best = second[0].clone();
        let range = RangeTest {
            points: vec![(1e-5, 4.0), (1e-3, 3.0), (1e-2, 2.5), (1e-1, 3.5)],
            steepest: 1e-3,
            lowest: 1e-2,
            bracket: (1e-4, 1e-2),
        };
        let svg = svg(&sweeps, &[first, second], Some(&range), &best);
        for part in [
            "range test",
            "1.0e-4 to 1.0e-2",
            "validation loss against learning_rate",
            "validation loss against activation",
            "rung 2: 200 steps",
            "the best",
            "1 diverged",
            "relu",
            "as configured",
            "prefers-color-scheme",
        ] {
            assert!(svg.contains(part), "{part}");
        }
        super::svg(&sweeps, &[], None, &best);
    }
}

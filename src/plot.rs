//! The loss curves as an SVG that can be read on light and on dark pages.

use plotters::prelude::*;

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

pub(crate) const TRAIN: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
pub(crate) const VAL: RGBColor = RGBColor(0xd6, 0x5f, 0x0e);
pub(crate) const OLD: RGBColor = RGBColor(0x8a, 0x63, 0xd2);
const FLOOR: RGBColor = RGBColor(0x6a, 0x8f, 0x3c);
pub(crate) const INK: RGBColor = RGBColor(0x24, 0x29, 0x2e);
pub(crate) const GRID: RGBColor = RGBColor(0xd0, 0xd7, 0xde);

/// Dark pages get light ink: colours as they stand in the file, and what to replace them with.
const DARK: [(&str, &str); 4] =
    [("24292E", "E6EDF3"), ("D0D7DE", "3D444D"), ("1F77B4", "6CB6FF"), ("D65F0E", "F69D50")];

/// Draws the curves.
pub fn loss_svg(title: &str, curves: &Curves) -> String {
    let mut svg = String::new();
    draw(&mut svg, title, curves).expect("drawing into a string does not fail");
    for_dark_pages(&mut svg);
    svg
}

/// Adds the rules that change a drawing's colours on dark pages.
pub(crate) fn for_dark_pages(svg: &mut String) {
    let rules: String = DARK
        .iter()
        .map(|(light, dark)| format!("[fill=\"#{light}\"]{{fill:#{dark}}}[stroke=\"#{light}\"]{{stroke:#{dark}}}"))
        .collect();
    let style = format!("<style>@media(prefers-color-scheme:dark){{{rules}}}</style>\n");
    let after_head = svg.find('>').map_or(0, |at| at + 1);
    svg.insert_str(after_head, &style);
}

fn draw(svg: &mut String, title: &str, curves: &Curves) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (800, 480)).into_drawing_area();
    let steps = curves.points.last().map_or(1, |point| point.0.max(1));
    let losses = || {
        curves
            .points
            .iter()
            .flat_map(|&(_, train, val)| [train, val])
            .chain(curves.floor)
            .chain(curves.old.iter().map(|point| point.1))
    };
    let losses = || losses().filter(|loss| loss.is_finite());
    let low = losses().fold(f64::INFINITY, f64::min).min(1e9);
    let high = losses().fold(f64::NEG_INFINITY, f64::max).max(low + 0.1);
    let margin = 0.05 * (high - low);
    let font = |size: i32| ("sans-serif", size).into_font().color(&INK);
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .caption(title, font(20))
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(0..steps, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss (nats per token)")
        .label_style(font(14))
        .axis_desc_style(font(15))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    let mut line = |label: &str, color: RGBColor, points: Vec<(u64, f64)>| -> Result<(), Box<dyn std::error::Error>> {
        let points = points.into_iter().filter(|point| point.1.is_finite());
        let label = match points.clone().next_back() {
            Some((_, loss)) => format!("{label} {loss:.4}"),
            None => label.to_owned(),
        };
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3)));
        Ok(())
    };
    line("train", TRAIN, curves.points.iter().map(|&(step, train, _)| (step, train)).collect())?;
    line("validation", VAL, curves.points.iter().map(|&(step, _, val)| (step, val)).collect())?;
    if !curves.old.is_empty() {
        line("old validation", OLD, curves.old.clone())?;
    }
    if let Some(floor) = curves.floor {
        line("entropy floor", FLOOR, vec![(0, floor), (steps, floor)])?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(font(15))
        .border_style(TRANSPARENT)
        .legend_area_size(30)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let drawing = svg.split("</style>").nth(1).unwrap();
        for color in ["1F77B4", "D65F0E", "8A63D2", "6A8F3C"] {
            assert_eq!(drawing.matches(&format!("stroke=\"#{color}\"")).count(), 2, "{color}: a curve and its legend");
        }
        for (light, _) in DARK {
            assert!(drawing.contains(&format!("\"#{light}\"")), "{light} is drawn, so it must be replaced");
        }
    }

    #[test]
    fn no_estimate_or_an_infinite_one_still_draws() {
        loss_svg("empty", &Curves::default());
        loss_svg("nan", &Curves { points: vec![(0, f64::NAN, f64::INFINITY)], ..Curves::default() });
    }
}

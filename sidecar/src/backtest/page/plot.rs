//! Line plots as SVG.

use std::fmt::Write;

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const TOP: f64 = 26.0;

/// Text as it may stand in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One line of a plot.
pub(super) struct Line {
    pub(super) name: String,
    /// Chooses its colour.
    pub(super) class: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot with linear axes.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    /// Ends of both axes.
    pub(super) x_range: (f64, f64),
    pub(super) y_range: (f64, f64),
    /// Whether a dashed line from corner to corner says what would be ideal.
    pub(super) diagonal: bool,
    pub(super) lines: Vec<Line>,
    pub(super) caption: &'a str,
}

/// A number as short as it can be told from its neighbours.
fn label(v: f64) -> String {
    if v.abs() >= 100.0 || v.fract() == 0.0 {
        format!("{v:.0}")
    } else {
        format!("{v:.3}").trim_end_matches('0').to_owned()
    }
}

impl Plot<'_> {
    /// The plot as a `<figure>`.
    pub(super) fn html(&self) -> String {
        let place = |x: f64, y: f64| {
            let part = |v: f64, (low, high): (f64, f64)| ((v - low) / (high - low).max(1e-9)).clamp(0.0, 1.0);
            (LEFT + part(x, self.x_range) * WIDTH, TOP + (1.0 - part(y, self.y_range)) * HEIGHT)
        };
        let (w, h) = (LEFT + WIDTH + 16.0, TOP + HEIGHT + 40.0);
        let mut svg = format!(
            "<figure><svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{}\"><text class=\"name\" x=\"{LEFT}\" y=\"15\">{}</text>",
            escaped(self.title),
            escaped(self.title)
        );
        for tick in 0..=4 {
            let part = f64::from(tick) / 4.0;
            let (x, y) = (
                self.x_range.0 + part * (self.x_range.1 - self.x_range.0),
                self.y_range.0 + part * (self.y_range.1 - self.y_range.0),
            );
            let (px, py) = place(x, y);
            let bottom = TOP + HEIGHT;
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{px:.1}\" x2=\"{px:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{py:.1}\" y2=\"{py:.1}\"/>\
                 <text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT + WIDTH,
                bottom + 15.0,
                label(x),
                LEFT - 6.0,
                py + 4.0,
                label(y)
            );
        }
        if self.diagonal {
            let (a, b) = (place(self.x_range.0, self.y_range.0), place(self.x_range.1, self.y_range.1));
            let _ = write!(
                svg,
                "<line class=\"diag\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>",
                a.0, a.1, b.0, b.1
            );
        }
        // Ours last, on top of the others.
        for line in self.lines.iter().rev() {
            let points: Vec<String> = line
                .points
                .iter()
                .map(|&(x, y)| {
                    let (px, py) = place(x, y);
                    format!("{px:.1},{py:.1}")
                })
                .collect();
            let _ = write!(svg, "<polyline class=\"k{}\" points=\"{}\"/>", line.class, points.join(" "));
        }
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(11 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text></svg><div class=\"legend\">",
            LEFT + WIDTH / 2.0,
            TOP + HEIGHT + 33.0,
            escaped(self.x),
            TOP + HEIGHT / 2.0,
            escaped(self.y)
        );
        for line in &self.lines {
            let _ = write!(
                svg,
                "<span><svg viewBox=\"0 0 22 10\"><polyline class=\"k{}\" points=\"0,5 22,5\"/></svg>{}</span>",
                line.class,
                escaped(&line.name)
            );
        }
        let _ = write!(svg, "</div><figcaption>{}</figcaption></figure>", escaped(self.caption));
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stay_inside_and_text_is_escaped() {
        let plot = Plot {
            title: "<b>",
            x: "x",
            y: "y",
            x_range: (0.0, 1.0),
            y_range: (0.0, 1.0),
            diagonal: true,
            lines: vec![Line { name: "a & b".into(), class: 0, points: vec![(-5.0, 0.0), (9.0, 2.0)] }],
            caption: "",
        };
        let html = plot.html();
        assert!(html.contains("points=\"46.0,286.0 426.0,26.0\""), "{html}");
        assert!(html.contains("&lt;b&gt;") && html.contains("a &amp; b") && !html.contains("NaN"));
    }

    #[test]
    fn labels_are_short() {
        assert_eq!([0.0, 0.25, 0.5, 1440.0].map(label), ["0", "0.25", "0.5", "1440"]);
    }
}

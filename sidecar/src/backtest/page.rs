//! `--report`: the scores as a page with plots, in one file that needs nothing else.

use std::fmt::Write;

use super::replay::Collected;

/// Side of a plot, pixels.
const SIDE: f64 = 300.0;

/// A polyline in a unit square, as SVG.
fn plot(title: &str, x: &str, y: &str, diagonal: bool, lines: &[(&str, Vec<(f64, f64)>)]) -> String {
    let mut svg = format!(
        "<svg viewBox=\"-45 -30 {w} {h}\" width=\"{w}\" height=\"{h}\"><text x=\"{mid}\" y=\"-12\" class=\"t\">{title}</text>\
         <rect width=\"{SIDE}\" height=\"{SIDE}\" class=\"f\"/>",
        w = SIDE + 60.0,
        h = SIDE + 75.0,
        mid = SIDE / 2.0
    );
    if diagonal {
        let _ = write!(svg, "<line x1=\"0\" y1=\"{SIDE}\" x2=\"{SIDE}\" y2=\"0\" class=\"d\"/>");
    }
    for tick in 0..=4 {
        let at = f64::from(tick) / 4.0;
        let (right, down) = (at * SIDE, SIDE - at * SIDE);
        let _ = write!(
            svg,
            "<text x=\"{right}\" y=\"{}\" class=\"k\">{at}</text><text x=\"-8\" y=\"{}\" class=\"k e\">{at}</text>",
            SIDE + 16.0,
            down + 4.0
        );
    }
    for (number, (name, points)) in lines.iter().enumerate() {
        let path: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1},{:.1}", x * SIDE, SIDE - y * SIDE)).collect();
        let _ = write!(svg, "<polyline points=\"{}\" class=\"c{number}\"/>", path.join(" "));
        let legend = 16.0 * (number as f64 + 1.0);
        let _ =
            write!(svg, "<text x=\"{}\" y=\"{legend}\" class=\"k e c{number}\">{name}</text>", SIDE - 6.0);
    }
    let _ = write!(
        svg,
        "<text x=\"{mid}\" y=\"{bottom}\" class=\"t\">{x}</text><text transform=\"translate(-33 {mid}) rotate(-90)\" class=\"t\">{y}</text></svg>",
        mid = SIDE / 2.0,
        bottom = SIDE + 36.0
    );
    svg
}

/// Precision over recall, at up to 200 thresholds.
fn precision_recall(rows: &[(f32, bool)]) -> Vec<(f64, f64)> {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = rows.iter().filter(|r| r.1).count().max(1) as f64;
    let step = (positives as usize / 200).max(1);
    let mut points = Vec::new();
    let mut found = 0usize;
    for (i, row) in rows.iter().enumerate() {
        if row.1 {
            found += 1;
            if found.is_multiple_of(step) {
                points.push((found as f64 / positives, found as f64 / (i + 1) as f64));
            }
        }
    }
    points
}

/// Share that came true over the mean probability, in 20 bins with at least 50 windows.
fn reliability(rows: &[(f32, bool)]) -> Vec<(f64, f64)> {
    let mut bins = [(0.0f64, 0usize, 0usize); 20];
    for &(p, y) in rows {
        let bin = &mut bins[((p * 20.0) as usize).min(19)];
        *bin = (bin.0 + f64::from(p), bin.1 + usize::from(y), bin.2 + 1);
    }
    bins.iter().filter(|b| b.2 >= 50).map(|&(p, y, n)| (p / n as f64, y as f64 / n as f64)).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The page: `table` is the text that is printed, `collected` the predictions of each horizon.
pub(super) fn page(trace: &str, table: &str, horizons: &[u32], collected: &[Collected]) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>foreshard backtest</title><style>\
         body{{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}}\
         pre{{background:#f5f5f2;padding:1rem;overflow-x:auto;font-size:13px}}svg{{margin-right:1rem}}\
         .f{{fill:none;stroke:#bbb}}.d{{stroke:#bbb;stroke-dasharray:4}}polyline{{fill:none;stroke-width:2}}\
         polyline.c0{{stroke:#0b66c3}}polyline.c1{{stroke:#c3570b}}text.c0{{fill:#0b66c3}}text.c1{{fill:#c3570b}}\
         text{{font-size:12px;fill:#555}}.t,.k{{text-anchor:middle}}.e{{text-anchor:end}}</style>\
         <h1>Backtest</h1><p>{}</p><pre>{}</pre>\
         <p>A window is cold when the function was not called at that edge in the ten minutes before.</p>",
        escaped(trace),
        escaped(table)
    );
    for (horizon, rows) in horizons.iter().zip(collected) {
        let all: Vec<(f32, bool)> = rows.cold.iter().chain(&rows.warm).copied().collect();
        let _ = write!(html, "<h2>Within {horizon} min</h2>");
        let curves = [("cold", precision_recall(&rows.cold)), ("all", precision_recall(&all))];
        html += &plot("Precision and recall", "recall", "precision", false, &curves);
        let curves = [("cold", reliability(&rows.cold)), ("all", reliability(&all))];
        html += &plot("Reliability", "predicted", "came true", true, &curves);
    }
    html + "</html>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_plots_for_every_horizon_and_nothing_unescaped() {
        let rows: Vec<(f32, bool)> = (0..1000u16).map(|i| (f32::from(i) / 1000.0, i % 3 == 0)).collect();
        let collected = vec![Collected { cold: rows.clone(), warm: rows }];
        let html = page("<script>", "AP & ECE", &[5], &collected);
        assert_eq!(html.matches("<svg").count(), 2);
        assert_eq!(html.matches("<polyline").count(), 4);
        assert!(html.contains("&lt;script&gt;") && html.contains("AP &amp; ECE") && !html.contains("NaN"));
    }

    #[test]
    fn curves_stay_in_the_square() {
        let rows = [(0.9, true), (0.8, false), (0.7, true), (0.1, false)];
        assert_eq!(precision_recall(&rows), [(0.5, 1.0), (1.0, 2.0 / 3.0)]);
        assert_eq!(reliability(&rows), []);
    }
}

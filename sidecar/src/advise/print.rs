//! Advice for people and for programs.

use std::fmt::Write;

use serde_json::json;

use super::store::Stored;

/// A table, with what it would take under each line.
pub(super) fn table(stored: &Stored) -> String {
    let mut out = String::new();
    let Stored { advice, hit_ratio: (now, then), executions } = stored;
    if advice.is_empty() {
        let _ = writeln!(out, "nothing to advise, judged by {executions} executions");
        return out;
    }
    let _ = writeln!(
        out,
        "{:>6}  {:<16} {:<28} {:>13} {:>19} {:>19}  {:>7}",
        "id", "kind", "subject", "hit ratio", "bytes per edge", "changes per hour", "reads"
    );
    for (id, a) in advice {
        let e = &a.expected;
        let pair =
            |(now, then): (String, String)| if now == then { now } else { format!("{now} → {then}") };
        let _ = writeln!(
            out,
            "{id:>6}  {:<16} {:<28} {:>13} {:>19} {:>19}  {:>7}",
            a.kind.name(),
            shown(&a.subject),
            pair((format!("{:.2}", e.hit_ratio.0), format!("{:.2}", e.hit_ratio.1))),
            pair((size(e.bytes_per_edge.0), size(e.bytes_per_edge.1))),
            pair((format!("{:.0}", e.invalidation_load.0), format!("{:.0}", e.invalidation_load.1))),
            e.accesses,
        );
        let _ = writeln!(out, "        {}", plain(&a.text));
        if !a.caution.is_empty() {
            let _ = writeln!(out, "        mind: {}", plain(&a.caution));
        }
        for line in a.statement.lines() {
            let _ = writeln!(out, "        {}", plain(line));
        }
    }
    let _ = writeln!(
        out,
        "\n{} proposals, judged by {executions} executions; found at the edge without prefetching: {now:.2}, with all of them {then:.2}",
        advice.len()
    );
    let _ = writeln!(out, "foreshard advise --apply ID runs one, --revert ID takes it back");
    out
}

/// The same as JSON: `{"executions", "hit_ratio": [now, then], "advice": [{"id", "kind", …}]}`.
pub(super) fn json(stored: &Stored) -> anyhow::Result<String> {
    let advice = stored
        .advice
        .iter()
        .map(|(id, advice)| {
            let mut one = serde_json::to_value(advice)?;
            one["id"] = json!(id);
            Ok(one)
        })
        .collect::<Result<Vec<_>, serde_json::Error>>()?;
    let all = json!({"executions": stored.executions, "hit_ratio": stored.hit_ratio, "advice": advice});
    Ok(serde_json::to_string_pretty(&all)?)
}

/// Names from the log may hold anything; a terminal gets no control characters of theirs.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn shown(subject: &str) -> String {
    let subject = plain(subject);
    if subject.chars().count() <= 28 {
        return subject;
    }
    subject.chars().take(27).chain(['…']).collect()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.0} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_log_cannot_steer_a_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(shown(&"x".repeat(40)).chars().count(), 28);
        assert_eq!((size(5), size(2_048), size(3 << 20)), ("5 B".into(), "2 KiB".into(), "3.0 MiB".into()));
    }
}

//! Reads a trace: one line per minute, function and edge with at least one invocation.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};

/// Invocations of one function at one edge in one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) minute: i64,
    /// Number of the function and edge in [`Trace::pairs`].
    pub(super) pair: u32,
    pub(super) count: u32,
}

/// A trace in order of time.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) rows: Vec<Row>,
    /// `(function, edge)`; the edge is empty when the file has no such column.
    pub(super) pairs: Vec<(String, String)>,
    numbers: HashMap<(String, String), u32>,
    /// For each pair, the minutes with invocations, ascending.
    minutes: Vec<Vec<i64>>,
}

/// Minutes beyond this (a thousand years) are a mistake in the file, not a time.
const FAR: i64 = 1000 * 366 * 1440;

impl Trace {
    /// Reads a file, plain or gzip.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        Self::parse(super::input::open(path)?)
    }

    pub(super) fn parse(input: impl Read) -> anyhow::Result<Self> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(input);
        let header = reader.headers().context("no header line")?.clone();
        let column = |name: &str| header.iter().position(|h| h == name);
        let needed = |name: &str| {
            column(name).with_context(|| {
                format!("no column {name:?}: the first line must name minute, function_id, count and optionally edge")
            })
        };
        let (minute, function, count) = (needed("minute")?, needed("function_id")?, needed("count")?);
        let edge = column("edge");
        let mut trace = Trace::default();
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record)? {
            let line = record.position().map_or(0, csv::Position::line);
            // Names are taken as they are: whoever compares them with the file finds them.
            let field = |i: usize| record.get(i).unwrap_or_default();
            let at: i64 = field(minute)
                .trim()
                .parse()
                .ok()
                .filter(|m: &i64| m.abs() < FAR)
                .with_context(|| format!("line {line}: {:?} is not a minute", field(minute)))?;
            let n: u64 = field(count)
                .trim()
                .parse()
                .with_context(|| format!("line {line}: {:?} is not a number of invocations", field(count)))?;
            if n == 0 {
                continue;
            }
            let pair = trace.number(field(function), edge.map_or("", field));
            trace.rows.push(Row { minute: at, pair, count: n.min(u64::from(u32::MAX)) as u32 });
        }
        if trace.rows.is_empty() {
            bail!("it holds no invocation");
        }
        trace.rows.sort_by_key(|r| r.minute);
        trace.minutes = vec![Vec::new(); trace.pairs.len()];
        for r in &trace.rows {
            trace.minutes[r.pair as usize].push(r.minute);
        }
        Ok(trace)
    }

    fn number(&mut self, function: &str, edge: &str) -> u32 {
        let key = (function.to_owned(), edge.to_owned());
        if let Some(&n) = self.numbers.get(&key) {
            return n;
        }
        let n = self.pairs.len() as u32;
        self.pairs.push(key.clone());
        self.numbers.insert(key, n);
        n
    }

    /// First and last minute with an invocation.
    pub(super) fn span(&self) -> (i64, i64) {
        match (self.rows.first(), self.rows.last()) {
            (Some(a), Some(b)) => (a.minute, b.minute),
            _ => (0, 0),
        }
    }

    /// Number of the pair, if it occurs anywhere in the trace.
    pub(super) fn pair(&self, function: &str, edge: &str) -> Option<u32> {
        self.numbers.get(&(function.to_owned(), edge.to_owned())).copied()
    }

    /// For each pair, the minutes with invocations, ascending.
    pub(super) fn calls(&self) -> &[Vec<i64>] {
        &self.minutes
    }

    /// Whether the pair was called within `(after, until]`.
    pub(super) fn called(&self, pair: u32, after: i64, until: i64) -> bool {
        let minutes = &self.minutes[pair as usize];
        minutes.get(minutes.partition_point(|&m| m <= after)).is_some_and(|&m| m <= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Trace> {
        Trace::parse(text.as_bytes())
    }

    #[test]
    fn reads_columns_by_name_and_sorts_by_minute() {
        let t = parse("function_id,edge,minute,count\nb,x,9,1\na,y,3,2\na,y,5,0\n").unwrap();
        assert_eq!(t.span(), (3, 9));
        let a = t.pair("a", "y").unwrap();
        assert!(t.called(a, 2, 3));
        assert!(!t.called(a, 3, 100), "a count of zero is no invocation");
    }

    #[test]
    fn the_edge_may_be_missing() {
        assert!(parse("minute,function_id,count\n1,a,1\n").unwrap().pair("a", "").is_some());
    }

    #[test]
    fn names_keep_their_spaces_and_numbers_need_none() {
        let t = parse("minute, function_id, edge, count\n 7 , f, e 1 , 2 \n").unwrap();
        assert_eq!((t.span().0, t.pairs[0].clone()), (7, (" f".to_owned(), " e 1 ".to_owned())));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let message = |text| format!("{:#}", parse(text).unwrap_err());
        assert!(message("minute,count\n1,1\n").contains("function_id"));
        assert!(message("minute,function_id,count\n1,a,1\nsoon,a,1\n").contains("line 3"));
        assert!(message("minute,function_id,count\n1,a,-4\n").contains("line 2"));
        assert!(message("minute,function_id,count\n99999999999999,a,1\n").contains("not a minute"));
        assert!(message("minute,function_id,count\n").contains("no invocation"));
    }
}

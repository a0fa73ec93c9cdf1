//! The origin's history of the shards that functions read, and the judgement of an answer against it.
//!
//! Commits come one after another (transactions may overlap, but each commit waits for the one before to be answered), so a
//! state of the origin is a number: how many had committed. Of each the commit LSN is known (from the log itself, see
//! [`crate::commit_lsns`]), and after each what every answer should have been. An answer stamped L is right if all of it
//! equals one state that holds every commit ≤ L; it is stale if it equals earlier states only; anything else is wrong.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use serde_json::{Map, Value};

/// A row, column by column as PostgreSQL's row_to_json gives it.
pub type Row = Map<String, Value>;

/// A view is what one kind of answer shows of one table: which rows, split by what, with which columns.
#[derive(Debug)]
pub struct View {
    /// The shard's name.
    pub name: &'static str,
    /// The table that a [`Change`] names.
    pub table: &'static str,
    /// Whether a row is in it.
    pub holds: fn(&Row) -> bool,
    /// The columns that split it, and how they are joined to an id: `name?a=1&b=2` for instances, `name#1/2` for rows
    /// picked by filters.
    pub split: Split,
    /// The columns that are shown; none means all.
    pub columns: Option<&'static [&'static str]>,
}

/// See [`View::split`].
#[derive(Debug, Clone, Copy)]
pub enum Split {
    /// Instances of a keyed (or, without columns, an unkeyed) shard.
    Key(&'static [&'static str]),
    /// Rows of an unkeyed shard that a filter by these columns picks.
    Filter(&'static [&'static str]),
}

impl View {
    fn id(&self, row: &Row) -> String {
        match self.split {
            Split::Key(columns) => {
                let pairs: Vec<String> =
                    columns.iter().map(|column| format!("{column}={}", text(&row[*column]))).collect();
                if pairs.is_empty() {
                    self.name.to_owned()
                } else {
                    format!("{}?{}", self.name, pairs.join("&"))
                }
            }
            Split::Filter(columns) => {
                filtered_id(self.name, columns.iter().map(|column| text(&row[*column])))
            }
        }
    }

    fn shown(&self, row: &Row) -> String {
        match self.columns {
            None => Value::Object(row.clone()).to_string(),
            Some(columns) => {
                let shown: Row =
                    columns.iter().map(|column| ((*column).to_owned(), row[*column].clone())).collect();
                Value::Object(shown).to_string()
            }
        }
    }
}

/// The id of the rows that a filter picks, from the values it compares with.
pub fn filtered_id(shard: &str, values: impl IntoIterator<Item = String>) -> String {
    format!("{shard}#{}", values.into_iter().collect::<Vec<_>>().join("/"))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Stands for the rows of an answer, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

/// The digest of rows as they stand in an answer.
pub fn digest<'a>(rows: impl IntoIterator<Item = &'a Value>) -> Digest {
    digest_of_texts(rows.into_iter().map(Value::to_string))
}

fn digest_of_texts(rows: impl IntoIterator<Item = impl AsRef<str>>) -> Digest {
    let mut hasher = DefaultHasher::new();
    for row in rows {
        row.as_ref().hash(&mut hasher);
    }
    Digest(hasher.finish())
}

/// The primary key of a row: sorts as PostgreSQL sorts it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// An integer.
    Number(i64),
    /// A text in collation "C".
    Text(String),
}

/// What a transaction did to one row: the row as it was and as it is, none where there was or is none.
#[derive(Debug, Clone)]
pub struct Change {
    /// The table, as views name it.
    pub table: &'static str,
    /// Which row.
    pub key: RowKey,
    /// Before the transaction.
    pub old: Option<Row>,
    /// After it.
    pub new: Option<Row>,
}

/// States of one answer: from which state on it was what.
type Versions = Vec<(usize, Digest)>;

/// What every answer should have been, after each commit.
#[derive(Debug)]
pub struct History {
    views: Vec<View>,
    now: HashMap<String, BTreeMap<RowKey, String>>,
    versions: HashMap<String, Versions>,
    /// Of state n+1: the LSN of the commit that made it.
    lsns: Vec<u64>,
}

/// How an answer compares with the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It equals the states `from..=to` (numbers of commits), all of which hold every commit up to its stamp.
    Right {
        /// The first of them.
        from: usize,
        /// The last.
        to: usize,
    },
    /// It equals an earlier state: it lacks commits that its stamp promises.
    Stale {
        /// The number of the first commit that it lacks.
        lacks: usize,
        /// How many commits its stamp promises.
        promised: usize,
    },
    /// It equals no state of the origin, or one that had not begun when it arrived.
    Wrong,
}

/// One answer, as far as the judgement goes.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Ids of views with what the answer held of each.
    pub parts: Vec<(String, Digest)>,
    /// Its `Foreshard-Lsn`.
    pub lsn: u64,
    /// How many commits had been started when it had arrived.
    pub commits_started: usize,
}

impl History {
    /// The history before any commit, over these rows.
    #[must_use]
    pub fn new(views: Vec<View>, rows: impl IntoIterator<Item = (&'static str, RowKey, Row)>) -> Self {
        let mut history = Self { views, now: HashMap::new(), versions: HashMap::new(), lsns: Vec::new() };
        let mut touched = Vec::new();
        for (table, key, row) in rows {
            touched.extend(history.apply(&Change { table, key, old: None, new: Some(row) }));
        }
        history.record(0, touched);
        history
    }

    /// Adds the next commit.
    pub fn commit(&mut self, lsn: u64, changes: &[Change]) {
        self.lsns.push(lsn);
        let touched = changes.iter().flat_map(|change| self.apply(change)).collect();
        self.record(self.lsns.len(), touched);
    }

    /// How many commits there are.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.lsns.len()
    }

    fn apply(&mut self, change: &Change) -> Vec<String> {
        let mut touched = Vec::new();
        for view in self.views.iter().filter(|view| view.table == change.table) {
            for (row, is_new) in [(&change.old, false), (&change.new, true)] {
                let Some(row) = row.as_ref().filter(|row| (view.holds)(row)) else { continue };
                let id = view.id(row);
                let rows = self.now.entry(id.clone()).or_default();
                if is_new {
                    rows.insert(change.key.clone(), view.shown(row));
                } else {
                    rows.remove(&change.key);
                }
                touched.push(id);
            }
        }
        touched
    }

    fn record(&mut self, state: usize, mut touched: Vec<String>) {
        touched.sort_unstable();
        touched.dedup();
        for id in touched {
            let digest = digest_of_texts(self.now[&id].values());
            let versions = self.versions.entry(id).or_default();
            if versions.last().is_none_or(|(_, last)| *last != digest) {
                versions.push((state, digest));
            }
        }
    }

    /// The intervals of states in which the view was this.
    fn when(&self, id: &str, digest: Digest) -> Vec<(usize, usize)> {
        let empty = (0, digest_of_texts(std::iter::empty::<&str>()));
        let versions = self.versions.get(id).map_or(&[][..], Vec::as_slice);
        // Before its first row came, and forever if none did, a view is empty.
        let starts = std::iter::once(empty).filter(|_| versions.first().is_none_or(|(state, _)| *state > 0));
        let starts: Vec<(usize, Digest)> = starts.chain(versions.iter().copied()).collect();
        let ends = starts.iter().skip(1).map(|(state, _)| state - 1).chain([self.commits()]);
        starts
            .iter()
            .zip(ends)
            .filter(|((_, was), _)| *was == digest)
            .map(|((start, _), end)| (*start, end))
            .collect()
    }

    /// The LSN of a commit, by its number from 1.
    #[must_use]
    pub fn commit_lsn(&self, commit: usize) -> Option<u64> {
        self.lsns.get(commit.checked_sub(1)?).copied()
    }

    /// How many commits an answer with this stamp must hold.
    #[must_use]
    pub fn promised(&self, lsn: u64) -> usize {
        self.lsns.partition_point(|commit| *commit <= lsn)
    }

    /// Judges an answer.
    #[must_use]
    pub fn judge(&self, answer: &Answer) -> Verdict {
        // The states that equal all parts at once: parts of different states are not one state.
        let mut common = vec![(0, answer.commits_started.min(self.commits()))];
        for (id, digest) in &answer.parts {
            let part = self.when(id, *digest);
            common = common
                .iter()
                .flat_map(|(from, to)| part.iter().map(move |(start, end)| (*from.max(start), *to.min(end))))
                .filter(|(from, to)| from <= to)
                .collect();
        }
        let promised = self.promised(answer.lsn);
        match common.iter().find(|(_, to)| *to >= promised) {
            Some((from, to)) => Verdict::Right { from: (*from).max(promised), to: *to },
            None => match common.iter().map(|(_, to)| *to).max() {
                Some(newest) => Verdict::Stale { lacks: newest + 1, promised },
                None => Verdict::Wrong,
            },
        }
    }

    /// The same answer with the stamp of the commit that outdated it, if one did: a check that is worth its name calls that
    /// stale (or, where a later state happens to look the same, right).
    #[must_use]
    pub fn outdated(&self, answer: &Answer) -> Option<Answer> {
        // Until when it stayed right, whenever it arrived.
        let late = Answer { commits_started: self.commits(), ..answer.clone() };
        let Verdict::Right { to, .. } = self.judge(&late) else { return None };
        Some(Answer { lsn: self.commit_lsn(to + 1)?, ..late })
    }
}

/// When an answer of one sidecar was asked for and had arrived, and its stamp.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// When the request was sent.
    pub sent: Instant,
    /// When the answer had arrived.
    pub received: Instant,
    /// Its `Foreshard-Lsn`.
    pub lsn: u64,
}

/// The positions of stamps that went back: older than one of an answer that had arrived before they were asked for.
#[must_use]
pub fn went_back(stamps: &[Stamp]) -> Vec<usize> {
    let mut by_sent: Vec<usize> = (0..stamps.len()).collect();
    let mut by_received = by_sent.clone();
    by_sent.sort_by_key(|&at| stamps[at].sent);
    by_received.sort_by_key(|&at| stamps[at].received);
    let mut received = by_received.into_iter().peekable();
    let mut newest = 0;
    let mut back = Vec::new();
    for at in by_sent {
        while let Some(earlier) = received.next_if(|&earlier| stamps[earlier].received < stamps[at].sent) {
            newest = newest.max(stamps[earlier].lsn);
        }
        if stamps[at].lsn < newest {
            back.push(at);
        }
    }
    back
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(value: Value) -> Row {
        match value {
            Value::Object(row) => row,
            other => panic!("{other} is not a row"),
        }
    }

    fn flight(id: i64, dest: &str, gate: &str) -> Option<Row> {
        Some(row(json!({ "id": id, "dest": dest, "gate": gate, "secret": "s" })))
    }

    fn change(id: i64, old: Option<Row>, new: Option<Row>) -> Change {
        Change { table: "flights", key: RowKey::Number(id), old, new }
    }

    /// Commits at LSN 10, 20, 30: a gate changes, a flight goes to another destination, a flight goes.
    fn history() -> History {
        let board = View {
            name: "board",
            table: "flights",
            holds: |_| true,
            split: Split::Key(&["dest"]),
            columns: Some(&["id", "gate"]),
        };
        let rows = [(1, "LAX", "A1"), (2, "LAX", "A2"), (3, "SFO", "B1")];
        let rows =
            rows.map(|(id, dest, gate)| ("flights", RowKey::Number(id), flight(id, dest, gate).unwrap()));
        let mut history = History::new(vec![board], rows);
        history.commit(10, &[change(1, flight(1, "LAX", "A1"), flight(1, "LAX", "A9"))]);
        history.commit(20, &[change(2, flight(2, "LAX", "A2"), flight(2, "SFO", "A2"))]);
        history.commit(30, &[change(3, flight(3, "SFO", "B1"), None)]);
        history
    }

    fn lax(rows: &[(i64, &str)]) -> (String, Digest) {
        part("board?dest=LAX", rows)
    }

    fn part(id: &str, rows: &[(i64, &str)]) -> (String, Digest) {
        let rows: Vec<Value> = rows.iter().map(|(id, gate)| json!({ "id": id, "gate": gate })).collect();
        (id.to_owned(), digest(&rows))
    }

    fn judge(parts: &[(String, Digest)], lsn: u64) -> Verdict {
        history().judge(&Answer { parts: parts.to_vec(), lsn, commits_started: 3 })
    }

    #[test]
    fn an_answer_as_of_its_stamp_is_right() {
        assert_eq!(judge(&[lax(&[(1, "A1"), (2, "A2")])], 9), Verdict::Right { from: 0, to: 0 });
        assert_eq!(judge(&[lax(&[(1, "A9"), (2, "A2")])], 10), Verdict::Right { from: 1, to: 1 });
        assert_eq!(judge(&[lax(&[(1, "A9")])], 25), Verdict::Right { from: 2, to: 3 });
    }

    #[test]
    fn an_answer_newer_than_its_stamp_is_right() {
        assert_eq!(judge(&[lax(&[(1, "A9")])], 0), Verdict::Right { from: 2, to: 3 });
    }

    #[test]
    fn an_answer_that_lacks_a_promised_commit_is_stale() {
        assert_eq!(judge(&[lax(&[(1, "A1"), (2, "A2")])], 10), Verdict::Stale { lacks: 1, promised: 1 });
        assert_eq!(judge(&[lax(&[(1, "A9"), (2, "A2")])], 30), Verdict::Stale { lacks: 2, promised: 3 });
    }

    #[test]
    fn a_row_that_left_is_missed_on_both_sides() {
        let moved = part("board?dest=SFO", &[(2, "A2"), (3, "B1")]);
        assert_eq!(judge(std::slice::from_ref(&moved), 20), Verdict::Right { from: 2, to: 2 });
        // In both shards at once: each part is from another state.
        assert_eq!(judge(&[moved, lax(&[(1, "A9"), (2, "A2")])], 10), Verdict::Wrong);
    }

    #[test]
    fn what_the_origin_never_held_is_wrong() {
        assert_eq!(judge(&[lax(&[(1, "Z0")])], 0), Verdict::Wrong);
        assert_eq!(judge(&[lax(&[(2, "A2"), (1, "A1")])], 0), Verdict::Wrong, "in another order");
        let early = Answer { parts: vec![lax(&[(1, "A9")])], lsn: 0, commits_started: 1 };
        assert_eq!(history().judge(&early), Verdict::Wrong, "before it was written");
    }

    #[test]
    fn an_instance_without_rows_is_empty_from_the_start() {
        assert_eq!(judge(&[part("board?dest=BOS", &[])], 30), Verdict::Right { from: 3, to: 3 });
        assert_eq!(judge(&[part("board?dest=BOS", &[(1, "A1")])], 0), Verdict::Wrong);
    }

    #[test]
    fn an_outdated_answer_is_called_stale() {
        let answer = Answer { parts: vec![lax(&[(1, "A1"), (2, "A2")])], lsn: 5, commits_started: 3 };
        let outdated = history().outdated(&answer).expect("a commit changed it");
        assert_eq!(history().judge(&outdated), Verdict::Stale { lacks: 1, promised: 1 });
    }

    #[test]
    fn a_stamp_goes_back_only_against_answers_that_had_arrived() {
        let begin = Instant::now();
        let at = |millis: u64| begin + std::time::Duration::from_millis(millis);
        let stamp = |sent, received, lsn| Stamp { sent: at(sent), received: at(received), lsn };
        let stamps =
            [stamp(0, 10, 50), stamp(5, 12, 40), stamp(20, 30, 50), stamp(13, 40, 49), stamp(41, 42, 50)];
        assert_eq!(went_back(&stamps), [3], "the second was under way at the same time as the first");
    }
}

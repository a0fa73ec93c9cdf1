//! `--keys`: replays key-level accesses through a cache with and without prefetching by association.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use foreshard_planner::Associations;
use serde::Serialize;

/// What the replay found. Shares are of all accesses, except where stated.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct KeyReport {
    accesses: usize,
    keys: usize,
    /// Keys that fit into the cache.
    capacity: usize,
    /// Accesses that a prefetch takes to arrive.
    lead: usize,
    /// Least confidence that is prefetched.
    threshold: f32,
    lru_hits: f64,
    /// The best that any cache without prefetching can do.
    belady_hits: f64,
    hits: f64,
    /// Misses of LRU that prefetching removed, as a share of those misses.
    coverage: f64,
    /// Prefetched and not used before eviction, as a share of LRU's misses.
    overhead: f64,
    /// Asked for while the prefetch was under way, as a share of LRU's misses.
    late: f64,
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} accesses to {} keys, cache of {}, a prefetch takes {} accesses, from confidence {}",
            self.accesses, self.keys, self.capacity, self.lead, self.threshold
        )?;
        writeln!(f, "{:<24} {:>8}", "LRU", format!("{:.3}", self.lru_hits))?;
        writeln!(f, "{:<24} {:>8}", "Belady", format!("{:.3}", self.belady_hits))?;
        writeln!(
            f,
            "{:<24} {:>8}   coverage {:.3}, overhead {:.3}, late {:.3}",
            "LRU with prefetching",
            format!("{:.3}", self.hits),
            self.coverage,
            self.overhead,
            self.late
        )
    }
}

/// Least-recently-used cache of key numbers.
struct Lru {
    /// When each key was last used; 0 = not held.
    used: Vec<u64>,
    order: BTreeSet<(u64, u32)>,
    capacity: usize,
    now: u64,
}

impl Lru {
    fn new(keys: usize, capacity: usize) -> Self {
        Lru { used: vec![0; keys], order: BTreeSet::new(), capacity, now: 0 }
    }

    fn holds(&self, key: u32) -> bool {
        self.used[key as usize] > 0
    }

    /// Makes `key` the most recent; returns what had to go.
    fn touch(&mut self, key: u32) -> Option<u32> {
        self.now += 1;
        let before = std::mem::replace(&mut self.used[key as usize], self.now);
        if before > 0 {
            self.order.remove(&(before, key));
        }
        self.order.insert((self.now, key));
        if self.order.len() <= self.capacity {
            return None;
        }
        let (_, oldest) = self.order.pop_first()?;
        self.used[oldest as usize] = 0;
        Some(oldest)
    }
}

/// Reads `seq,function_id,key`, plain or gzip; returns numbers of (function, key) in order of `seq`.
pub(super) fn read(path: &Path) -> anyhow::Result<(Vec<u32>, usize)> {
    parse(super::input::open(path)?)
}

fn parse(input: impl Read) -> anyhow::Result<(Vec<u32>, usize)> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let header = reader.headers()?.clone();
    let column = |name: &str| {
        header
            .iter()
            .position(|h| h == name)
            .with_context(|| format!("no column {name:?}: expected seq,function_id,key"))
    };
    let (seq, function, key) = (column("seq")?, column("function_id")?, column("key")?);
    let mut numbers: HashMap<Box<[u8]>, u32> = HashMap::new();
    let mut accesses: Vec<(i64, u32)> = Vec::new();
    let mut record = csv::ByteRecord::new();
    let mut name = Vec::new();
    while reader.read_byte_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        let at = std::str::from_utf8(&record[seq]).ok().and_then(|s| s.parse().ok());
        let at: i64 = at.with_context(|| format!("line {line}: seq is not a number"))?;
        name.clear();
        name.extend_from_slice(&record[function]);
        name.push(0);
        name.extend_from_slice(&record[key]);
        let next = numbers.len() as u32;
        let number = match numbers.get(name.as_slice()) {
            Some(&n) => n,
            None => *numbers.entry(name.as_slice().into()).or_insert(next),
        };
        accesses.push((at, number));
    }
    if accesses.is_empty() {
        bail!("it holds no access");
    }
    accesses.sort_by_key(|a| a.0);
    Ok((accesses.into_iter().map(|a| a.1).collect(), numbers.len()))
}

fn lru(accesses: &[u32], keys: usize, capacity: usize) -> usize {
    let mut cache = Lru::new(keys, capacity);
    let mut hits = 0;
    for &k in accesses {
        hits += usize::from(cache.holds(k));
        cache.touch(k);
    }
    hits
}

/// Hits of the optimal replacement, which knows the future.
fn belady(accesses: &[u32], keys: usize, capacity: usize) -> usize {
    let mut next_use = vec![usize::MAX; accesses.len()];
    let mut latest = vec![usize::MAX; keys];
    for (i, &k) in accesses.iter().enumerate().rev() {
        next_use[i] = latest[k as usize];
        latest[k as usize] = i;
    }
    let mut held: BTreeSet<(usize, u32)> = BTreeSet::new();
    let mut due = vec![None; keys];
    let mut hits = 0;
    for (i, &k) in accesses.iter().enumerate() {
        if let Some(at) = due[k as usize].take() {
            hits += 1;
            held.remove(&(at, k));
        }
        held.insert((next_use[i], k));
        due[k as usize] = Some(next_use[i]);
        if held.len() > capacity
            && let Some((_, gone)) = held.pop_last()
        {
            due[gone as usize] = None;
        }
    }
    hits
}

/// Replays the accesses; `fraction` of the keys fit into the cache.
pub(super) fn replay(
    accesses: &[u32],
    keys: usize,
    fraction: f64,
    lead: usize,
    threshold: f32,
) -> anyhow::Result<KeyReport> {
    ensure!(
        fraction > 0.0 && fraction <= 1.0,
        "--cache-fraction must be above 0 and at most 1, not {fraction}"
    );
    let capacity = ((keys as f64 * fraction) as usize).max(1);
    let lru_hits = lru(accesses, keys, capacity);
    let misses = (accesses.len() - lru_hits).max(1) as f64;
    let mut cache = Lru::new(keys, capacity);
    let mut associations = Associations::new(lead, 21);
    let mut expected = Vec::new();
    // For each key: whether it came by prefetch and waits for its first use, and when one under way arrives.
    let mut unused = vec![false; keys];
    let mut arrives = vec![0usize; keys];
    let mut under_way = std::collections::VecDeque::new();
    let (mut hits, mut late, mut wasted) = (0usize, 0usize, 0usize);
    for (i, &k) in accesses.iter().enumerate() {
        while let Some(&(at, key)) = under_way.front() {
            if at > i {
                break;
            }
            under_way.pop_front();
            arrives[key as usize] = 0;
            if cache.holds(key) {
                // Fetched on demand meanwhile: the prefetch was for nothing.
                wasted += 1;
            } else {
                unused[key as usize] = true;
                if let Some(gone) = cache.touch(key) {
                    wasted += usize::from(std::mem::take(&mut unused[gone as usize]));
                }
            }
        }
        if cache.holds(k) {
            hits += 1;
        } else if arrives[k as usize] > 0 {
            late += 1;
        }
        unused[k as usize] = false;
        if let Some(gone) = cache.touch(k) {
            wasted += usize::from(std::mem::take(&mut unused[gone as usize]));
        }
        associations.access(k, &mut expected);
        for e in expected.iter().filter(|e| e.confidence >= threshold) {
            if !cache.holds(e.key) && arrives[e.key as usize] == 0 {
                arrives[e.key as usize] = i + lead + 1;
                under_way.push_back((i + lead + 1, e.key));
            }
        }
    }
    wasted += unused.iter().filter(|&&u| u).count() + under_way.len();
    let all = accesses.len() as f64;
    Ok(KeyReport {
        accesses: accesses.len(),
        keys,
        capacity,
        lead,
        threshold,
        lru_hits: lru_hits as f64 / all,
        belady_hits: belady(accesses, keys, capacity) as f64 / all,
        hits: hits as f64 / all,
        coverage: (hits as f64 - lru_hits as f64) / misses,
        overhead: wasted as f64 / misses,
        late: late as f64 / misses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_too_long_for_the_cache_is_prefetched() {
        let accesses: Vec<u32> = (0..5000u32).map(|i| i % 100).collect();
        let report = replay(&accesses, 100, 0.2, 0, 0.5).unwrap();
        assert_eq!(report.lru_hits, 0.0);
        assert!(report.belady_hits > 0.1 && report.belady_hits < 0.3, "{report}");
        assert!(report.coverage > 0.9 && report.overhead < 0.05, "{report}");
        let slow = replay(&accesses, 100, 0.2, 10, 0.5).unwrap();
        assert!(slow.coverage > 0.9 && slow.late < 0.05, "learned at the lead: {slow}");
    }

    #[test]
    fn keys_belong_to_functions_and_mistakes_are_named() {
        let (accesses, keys) = parse("seq,function_id,key\n2,f,1\n1,g,1\n3,f,1\n".as_bytes()).unwrap();
        assert_eq!((accesses[0] != accesses[1], accesses[1] == accesses[2], keys), (true, true, 2));
        assert!(format!("{:#}", parse("seq,key\n1,1\n".as_bytes()).unwrap_err()).contains("function_id"));
        assert!(
            format!("{:#}", parse("seq,function_id,key\nx,f,1\n".as_bytes()).unwrap_err()).contains("line 2")
        );
        assert!(replay(&[0], 1, 0.0, 0, 0.5).is_err());
    }
}

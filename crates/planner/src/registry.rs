//! Who is known: edges, functions, and a history for each (edge, function) and (edge, function, shard instance), all
//! within fixed limits.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::gaps::GapRing;
use crate::hints::Hint;
use crate::history::History;
use crate::keys::Keys;
use crate::places::Place;
use crate::state::sound;
use crate::transitions::{Chain, PairRef, RecentOnsets};

/// An edge location.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct Edge {
    pub(crate) name: Arc<str>,
    /// Local time minus UTC, minutes.
    pub(crate) offset: i64,
    /// Minute of its first known invocation, if any.
    pub(crate) first: Option<i64>,
    place: Option<Place>,
    /// How near each other edge is, by its number; empty where no place is known.
    near: Vec<f32>,
    pub(crate) recent: RecentOnsets,
}

/// A function over all edges.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct Function {
    pub(crate) name: Arc<str>,
    /// Its slots, one per edge at most.
    pub(crate) slots: Vec<u32>,
    /// Pairs that refer to it, instances included; its number is free again when there are none.
    refs: u32,
    /// Latest onsets at two different edges, the newest first: `(edge, minute)`.
    latest: [Option<(u32, i64)>; 2],
}

impl Edge {
    /// How near another edge is, 0..=1; 0 where that is not known.
    pub(crate) fn nearness(&self, other: u32) -> f32 {
        self.near.get(other as usize).copied().unwrap_or(0.0)
    }
}

impl Function {
    fn onset(&mut self, edge: u32, minute: i64) {
        if self.latest[0].is_none_or(|(e, _)| e != edge) {
            self.latest[1] = self.latest[0];
        }
        self.latest[0] = Some((edge, minute));
    }

    /// Minute of the latest onset at this edge, while it is one of the two latest.
    fn latest_at(&self, edge: u32) -> Option<i64> {
        self.latest.iter().flatten().find(|(e, _)| *e == edge).map(|&(_, m)| m)
    }

    /// Minutes since another edge than `edge` last had an onset, -1 if never.
    pub(crate) fn sibling_lag(&self, edge: u32, now: i64) -> i64 {
        self.latest.iter().flatten().find(|(e, _)| *e != edge).map_or(-1, |&(_, m)| (now - m).max(0))
    }
}

/// One predicted thing: a function at an edge, or one shard instance that it reads there.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct Pair {
    pub(crate) edge: u32,
    pub(crate) function: u32,
    /// The shard instance, when this is about one.
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) generation: u32,
    pub(crate) history: History,
    pub(crate) keys: Keys,
    pub(crate) chain: Chain,
    /// How long after another edge's start this one followed; the longest value where it did not before the next.
    pub(crate) followed: GapRing,
    /// What was declared of it.
    pub(crate) hints: Vec<Hint>,
}

impl Pair {
    /// Memory it takes, with its place in the indexes.
    pub(crate) fn bytes(&self) -> usize {
        const INDEXED: usize = 16;
        size_of::<Self>() + self.history.seasons.bytes() + self.keys.bytes() + self.chain.bytes() + INDEXED
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) edges: Vec<Edge>,
    pub(crate) functions: Vec<Function>,
    pub(crate) pairs: Vec<Pair>,
    by_edge: HashMap<Arc<str>, u32>,
    by_function: HashMap<Arc<str>, u32>,
    by_pair: HashMap<(u32, u32), u32>,
    by_instance: HashMap<(u32, u32, Arc<str>), u32>,
    free_functions: Vec<u32>,
    max_pairs: usize,
    max_edges: usize,
    max_keys: usize,
    hand: usize,
    generations: u32,
    evicted: u64,
}

/// Edges that an onset is told to.
const MOST_TOLD: usize = 64;
/// How many places an eviction compares.
const SAMPLE: usize = 16;

impl Registry {
    pub(crate) fn new(max_pairs: usize, max_edges: usize, max_keys: usize) -> Self {
        Registry {
            edges: Vec::new(),
            functions: Vec::new(),
            pairs: Vec::new(),
            by_edge: HashMap::new(),
            by_function: HashMap::new(),
            by_pair: HashMap::new(),
            by_instance: HashMap::new(),
            free_functions: Vec::new(),
            max_pairs,
            max_edges,
            max_keys,
            hand: 0,
            generations: 0,
            evicted: 0,
        }
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The edge of this name, made known if there is room.
    pub(crate) fn edge(&mut self, name: &str) -> Option<u32> {
        if let Some(&e) = self.by_edge.get(name) {
            return Some(e);
        }
        if self.edges.len() >= self.max_edges {
            return None;
        }
        let name: Arc<str> = name.into();
        let e = self.edges.len() as u32;
        self.edges.push(Edge {
            name: name.clone(),
            offset: 0,
            first: None,
            place: None,
            near: Vec::new(),
            recent: RecentOnsets::default(),
        });
        self.by_edge.insert(name, e);
        Some(e)
    }

    /// Sets where an edge is.
    pub(crate) fn locate(&mut self, edge: u32, place: Option<Place>) {
        if self.edges[edge as usize].place == place {
            return;
        }
        self.edges[edge as usize].place = place;
        let places: Vec<Option<Place>> = self.edges.iter().map(|e| e.place).collect();
        for (at, edge) in self.edges.iter_mut().enumerate() {
            let Some(here) = edge.place else {
                edge.near.clear();
                continue;
            };
            let near = |(other, place): (usize, &Option<Place>)| match place {
                Some(place) if other != at => here.nearness(*place),
                _ => 0.0,
            };
            edge.near = places.iter().enumerate().map(near).collect();
        }
    }

    pub(crate) fn function(&mut self, name: &str) -> u32 {
        if let Some(&f) = self.by_function.get(name) {
            return f;
        }
        let name: Arc<str> = name.into();
        let new = Function { name: name.clone(), slots: Vec::new(), refs: 0, latest: [None; 2] };
        let f = match self.free_functions.pop() {
            Some(f) => {
                self.functions[f as usize] = new;
                f
            }
            None => {
                self.functions.push(new);
                self.functions.len() as u32 - 1
            }
        };
        self.by_function.insert(name, f);
        f
    }

    /// Every function that has a history somewhere.
    pub(crate) fn known_functions(&self) -> Vec<u32> {
        (0..self.functions.len() as u32).filter(|&f| !self.functions[f as usize].slots.is_empty()).collect()
    }

    /// What is known of a function at an edge, by their names.
    pub(crate) fn look_up(&self, edge: &str, function: &str) -> Option<&Pair> {
        let slot = self.find(*self.by_edge.get(edge)?, *self.by_function.get(function)?)?;
        self.pairs.get(slot as usize)
    }

    /// The slot of a function at an edge, if it has one.
    pub(crate) fn find(&self, edge: u32, function: u32) -> Option<u32> {
        self.by_pair.get(&(edge, function)).copied()
    }

    /// The slot of a shard instance of a function at an edge, if it has one.
    pub(crate) fn find_instance(&self, edge: u32, function: u32, instance: &Arc<str>) -> Option<u32> {
        self.by_instance.get(&(edge, function, instance.clone())).copied()
    }

    /// The slot that a pair is in.
    pub(crate) fn slot(&self, pair: &Pair) -> Option<u32> {
        match &pair.instance {
            None => self.find(pair.edge, pair.function),
            Some(instance) => self.find_instance(pair.edge, pair.function, instance),
        }
    }

    /// Gives a slot to a function at an edge (or one of its instances), known since `minute`.
    pub(crate) fn admit(&mut self, edge: u32, function: u32, instance: Option<Arc<str>>, minute: i64) -> u32 {
        let offset = self.edges[edge as usize].offset;
        let keys = Keys::new(if instance.is_some() { 1 } else { self.max_keys });
        self.generations = self.generations.wrapping_add(1);
        let pair = Pair {
            edge,
            function,
            instance: instance.clone(),
            generation: self.generations,
            history: History::new(minute, offset),
            keys,
            chain: Chain::default(),
            followed: GapRing::new(),
            hints: Vec::new(),
        };
        self.functions[function as usize].refs += 1;
        let slot = if self.pairs.len() < self.max_pairs {
            self.pairs.push(pair);
            self.pairs.len() - 1
        } else {
            let victim = self.victim(minute);
            self.evict(victim);
            self.pairs[victim] = pair;
            victim
        } as u32;
        match instance {
            Some(i) => {
                self.by_instance.insert((edge, function, i), slot);
            }
            None => {
                self.by_pair.insert((edge, function), slot);
                self.functions[function as usize].slots.push(slot);
            }
        }
        slot
    }

    /// The least useful of a few places: a flood of newcomers evicts newcomers, not those with a history.
    fn victim(&mut self, minute: i64) -> usize {
        let n = self.pairs.len();
        let worth = |p: &Pair| {
            let days = (minute - p.history.last).max(0) as f32 / 1440.0;
            // What somebody has declared is not a newcomer among others.
            if p.hints.is_empty() { p.history.active as f32 / (1.0 + days) } else { f32::INFINITY }
        };
        let from = self.hand;
        self.hand = (self.hand + 1) % n;
        // Spread out: those that came first sit side by side, and would be compared with one another only.
        let stride = (n / SAMPLE).max(1);
        (0..SAMPLE.min(n))
            .map(|i| (from + i * stride) % n)
            .min_by(|&a, &b| worth(&self.pairs[a]).total_cmp(&worth(&self.pairs[b])))
            .unwrap_or(from % n)
    }

    fn evict(&mut self, slot: usize) {
        self.evicted += 1;
        let Pair { edge, function, ref mut instance, .. } = self.pairs[slot];
        let f = &mut self.functions[function as usize];
        match instance.take() {
            Some(i) => {
                self.by_instance.remove(&(edge, function, i));
            }
            None => {
                self.by_pair.remove(&(edge, function));
                f.slots.retain(|&s| s as usize != slot);
            }
        }
        f.refs -= 1;
        if f.refs == 0 {
            self.by_function.remove(&f.name);
            self.free_functions.push(function);
        }
    }

    /// The function of `slot` starts there again: edges that had seen its previous start, and did not follow, learn so.
    fn silent_elsewhere(&mut self, slot: u32, minute: i64) {
        let Pair { edge, function, .. } = self.pairs[slot as usize];
        let Some(previous) = self.functions[function as usize].latest_at(edge) else { return };
        for at in 0..self.functions[function as usize].slots.len().min(MOST_TOLD) {
            let other = &mut self.pairs[self.functions[function as usize].slots[at] as usize];
            if other.edge != edge && other.history.last_onset < previous && previous < minute {
                other.followed.push(i64::from(u16::MAX));
            }
        }
    }

    /// Tells everything that follows from an onset of the pair in `slot`.
    pub(crate) fn onset(&mut self, slot: u32, minute: i64) {
        let Pair { edge, function, generation, .. } = self.pairs[slot as usize];
        let elsewhere = self.functions[function as usize].sibling_lag(edge, minute);
        if elsewhere >= 0 {
            self.pairs[slot as usize].followed.push(elsewhere);
        }
        self.silent_elsewhere(slot, minute);
        self.functions[function as usize].onset(edge, minute);
        let mut recent = std::mem::take(&mut self.edges[edge as usize].recent);
        let pairs = &mut self.pairs;
        recent.onset(minute, (slot, generation), |(i, g): PairRef, f| {
            if let Some(p) = pairs.get_mut(i as usize).filter(|p| p.generation == g) {
                f(&mut p.chain);
            }
        });
        self.edges[edge as usize].recent = recent;
    }
}

impl Registry {
    /// Writes all that is known, the pairs last and one by one: they are most of it.
    pub(crate) fn put(&self, out: &mut impl Write) -> io::Result<()> {
        let head = (&self.edges, &self.functions, &self.free_functions);
        (head, self.hand, self.generations, self.evicted, &self.pairs).serialize(out)
    }

    /// Takes over what another registry of the same limits knew.
    pub(crate) fn take(&mut self, from: &mut impl Read) -> io::Result<()> {
        (
            (self.edges, self.functions, self.free_functions),
            self.hand,
            self.generations,
            self.evicted,
            self.pairs,
        ) = BorshDeserialize::deserialize_reader(from)?;
        let (edges, functions, pairs) = (self.edges.len(), self.functions.len(), self.pairs.len());
        sound(edges <= self.max_edges && pairs <= self.max_pairs && u32::try_from(functions).is_ok())?;
        sound(self.free_functions.iter().all(|&f| (f as usize) < functions))?;
        sound(self.functions.iter().flat_map(|f| &f.slots).all(|&s| (s as usize) < pairs))?;
        sound(self.pairs.iter().all(|p| (p.edge as usize) < edges && (p.function as usize) < functions))?;
        let mut refs = vec![0; functions];
        self.pairs.iter().for_each(|p| refs[p.function as usize] += 1);
        sound(self.functions.iter().map(|f| f.refs).eq(refs) && self.hand <= pairs)?;
        self.by_edge = self.edges.iter().map(|e| e.name.clone()).zip(0..).collect();
        let known = self.functions.iter().zip(0..).filter(|(f, _)| f.refs > 0);
        self.by_function = known.map(|(f, i)| (f.name.clone(), i)).collect();
        for (pair, slot) in self.pairs.iter().zip(0..) {
            match &pair.instance {
                Some(i) => self.by_instance.insert((pair.edge, pair.function, i.clone()), slot),
                None => self.by_pair.insert((pair.edge, pair.function), slot),
            };
        }
        Ok(())
    }
}

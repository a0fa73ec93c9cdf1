//! The derivation. What it rests on: a row can change the result only as part of a combination of rows for which all conditions
//! that hold at its place hold. At the side of an outer join that may be missing, a row also decides whether the other side
//! appears alone, so conditions from above count there only if they do not look at that side, and conditions of an outer join
//! never restrict the side that stays. A condition from above that is not true of a missing side makes an outer join an inner
//! one.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::classes::Classes;
use super::{Fact, Item, Join, Level, Quals, Relation};

/// Changes of a table that concern a query: those of rows that satisfy all predicates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dependency {
    /// The table's OID.
    pub(crate) table: u32,
    /// Columns that hold the parameters, in their order: a row concerns the instance that it names. Empty: any row may concern
    /// any instance.
    pub(crate) key: Vec<i16>,
    /// Expression trees of conditions on the row.
    pub(crate) predicates: Vec<String>,
}

/// What a query with so many parameters depends on, at least one entry for each table in it.
pub(crate) fn dependencies(query: &Level, parameters: usize) -> Vec<Dependency> {
    let mut walk = Walk { parameters, stack: Vec::new(), found: BTreeSet::new() };
    walk.level(query, &[], &[]);
    // An entry without any condition makes the others of its table superfluous.
    let everything: BTreeSet<u32> = walk
        .found
        .iter()
        .filter(|found| found.key.is_empty() && found.predicates.is_empty())
        .map(|found| found.table)
        .collect();
    walk.found
        .into_iter()
        .filter(|found| {
            !everything.contains(&found.table) || found.key.is_empty() && found.predicates.is_empty()
        })
        .collect()
}

type Facts = Vec<Rc<Fact>>;

struct Walk<'a> {
    parameters: usize,
    /// The levels that are being walked, outermost first.
    stack: Vec<Visit<'a>>,
    found: BTreeSet<Dependency>,
}

struct Visit<'a> {
    level: &'a Level,
    relations: BTreeSet<usize>,
    ctes: BTreeSet<usize>,
}

impl<'a> Walk<'a> {
    /// `pushed` are outputs of the level that equal a parameter wherever its result counts.
    fn level(&mut self, level: &'a Level, pushed: &[(usize, usize)], scope: &[Rc<Classes>]) {
        self.stack.push(Visit { level, relations: BTreeSet::new(), ctes: BTreeSet::new() });
        let mut here: Facts = Vec::new();
        if level.set_operation {
            let inner = deeper(Classes::default(), scope);
            let pushed: Vec<_> =
                pushed.iter().filter(|(output, _)| filterable(level, *output)).copied().collect();
            for (index, relation) in level.relations.iter().enumerate() {
                if let Relation::Subquery(arm) = relation {
                    self.seen(index);
                    self.level(arm, &pushed, &inner);
                }
            }
        } else {
            here.extend(pushed.iter().filter_map(|(output, parameter)| {
                let output = level.outputs.get(*output).filter(|output| output.filterable)?;
                Some(equality(output.item?, *parameter))
            }));
            self.join(&level.join, &here, scope);
            here.extend(self.exports(&level.join));
        }
        // What is joined nowhere: there should be nothing, and it must not be missed.
        for index in 0..level.relations.len() {
            if !self.stack.last().is_some_and(|visit| visit.relations.contains(&index)) {
                self.relation(index, &Vec::new(), &[]);
            }
        }
        let known = if level.grouping_sets { Classes::default() } else { Classes::of(&here, scope) };
        let inner = deeper(known, scope);
        for subquery in &level.subqueries {
            self.level(subquery, &[], &inner);
        }
        let inner = deeper(Classes::default(), scope);
        for (index, cte) in level.ctes.iter().enumerate() {
            if !self.stack.last().is_some_and(|visit| visit.ctes.contains(&index)) {
                self.level(&cte.level, &[], &inner);
            }
        }
        self.stack.pop();
    }

    /// `inherited` holds of every combination through which a row below `join` can matter.
    fn join(&mut self, join: &'a Join, inherited: &Facts, scope: &[Rc<Classes>]) {
        match join {
            Join::Relation(index) => {
                let mut facts = inherited.clone();
                facts.extend(self.exports(join));
                self.relation(*index, &facts, scope);
            }
            Join::Inner(inputs, quals) => self.inner(inputs.iter().collect(), quals, inherited, scope),
            Join::Left(kept, optional, quals) => self.left(kept, optional, quals, inherited, scope),
            Join::Full(left, right, quals) => {
                let (on_left, on_right) = (members(left), members(right));
                match (excludes_missing(inherited, &on_left), excludes_missing(inherited, &on_right)) {
                    (true, true) => self.inner(vec![left, right], quals, inherited, scope),
                    (true, false) => self.left(left, right, quals, inherited, scope),
                    (false, true) => self.left(right, left, quals, inherited, scope),
                    (false, false) => {
                        let outside = apart_from(&apart_from(inherited, &on_left), &on_right);
                        self.join(left, &outside, scope);
                        self.join(right, &outside, scope);
                        self.subqueries(quals, &outside, scope);
                    }
                }
            }
        }
    }

    fn inner(&mut self, inputs: Vec<&'a Join>, quals: &'a Quals, inherited: &Facts, scope: &[Rc<Classes>]) {
        let mut here = inherited.clone();
        here.extend(quals.facts.iter().cloned());
        for input in &inputs {
            here.extend(self.exports(input));
        }
        for input in inputs {
            self.join(input, &here, scope);
        }
        self.subqueries(quals, &here, scope);
    }

    fn left(
        &mut self,
        kept: &'a Join,
        optional: &'a Join,
        quals: &'a Quals,
        inherited: &Facts,
        scope: &[Rc<Classes>],
    ) {
        let missing = members(optional);
        if excludes_missing(inherited, &missing) {
            return self.inner(vec![kept, optional], quals, inherited, scope);
        }
        let mut matching = apart_from(inherited, &missing);
        matching.extend(quals.facts.iter().cloned());
        matching.extend(self.exports(kept));
        self.join(kept, inherited, scope);
        self.join(optional, &matching, scope);
        self.subqueries(quals, &matching, scope);
    }

    fn subqueries(&mut self, quals: &'a Quals, facts: &Facts, scope: &[Rc<Classes>]) {
        let inner = deeper(Classes::of(facts, scope), scope);
        for subquery in &quals.subqueries {
            self.level(subquery, &[], &inner);
        }
    }

    fn relation(&mut self, index: usize, facts: &Facts, scope: &[Rc<Classes>]) {
        self.seen(index);
        let Some(visit) = self.stack.last_mut() else { return };
        let level = visit.level;
        let Some(relation) = level.relations.get(index) else { return };
        let classes = Classes::of(facts, scope);
        match relation {
            Relation::Table(table) => {
                let key: Option<Vec<i16>> =
                    (0..self.parameters).map(|parameter| classes.column_for(parameter, index)).collect();
                let own = |fact: &&Rc<Fact>| fact.relations.iter().eq([&index]);
                let predicates: BTreeSet<&String> =
                    facts.iter().filter(own).filter_map(|fact| fact.predicate.as_ref()).collect();
                self.found.insert(Dependency {
                    table: *table,
                    key: key.unwrap_or_default(),
                    predicates: predicates.into_iter().cloned().collect(),
                });
            }
            Relation::Subquery(subquery) => {
                let pushed = outputs_known(subquery, index, &classes);
                self.level(subquery, &pushed, &deeper(classes, scope));
            }
            Relation::Cte { depth: 0, index: cte } if level.ctes.get(*cte).is_some_and(|cte| cte.single) => {
                visit.ctes.insert(*cte);
                let cte = &level.ctes[*cte].level;
                let pushed = outputs_known(cte, index, &classes);
                self.level(cte, &pushed, &deeper(classes, scope));
            }
            // Walked once, with the level that it belongs to.
            Relation::Cte { .. } => {}
            Relation::Other(subqueries) => {
                let inner = deeper(classes, scope);
                for subquery in subqueries {
                    self.level(subquery, &[], &inner);
                }
            }
        }
    }

    /// What holds of every row that `join` gives.
    fn exports(&self, join: &Join) -> Facts {
        match join {
            Join::Relation(index) => self.known_of_relation(*index),
            Join::Inner(inputs, quals) => {
                let mut facts = quals.facts.clone();
                for input in inputs {
                    facts.extend(self.exports(input));
                }
                facts
            }
            Join::Left(kept, _, _) => self.exports(kept),
            Join::Full(..) => Vec::new(),
        }
    }

    /// Columns of a subquery that equal a parameter by the subquery's own conditions.
    fn known_of_relation(&self, index: usize) -> Facts {
        let Some(visit) = self.stack.last() else { return Vec::new() };
        let level = match visit.level.relations.get(index) {
            Some(Relation::Subquery(level)) => level,
            Some(Relation::Cte { depth: 0, index }) => match visit.level.ctes.get(*index) {
                Some(cte) => &cte.level,
                None => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        if level.set_operation || level.grouping_sets {
            return Vec::new();
        }
        let inside = Classes::of(&own_facts(&level.join), &[]);
        let mut facts = Vec::new();
        for (output, column) in level.outputs.iter().zip(1..) {
            let Some(item) = output.item else { continue };
            let outside = Item::Column { depth: 0, relation: index, column };
            facts.extend(inside.parameters_of(item).map(|parameter| equality(outside, parameter)));
        }
        facts
    }

    fn seen(&mut self, index: usize) {
        if let Some(visit) = self.stack.last_mut() {
            visit.relations.insert(index);
        }
    }
}

/// Conditions of the level itself that hold of every row it reads.
fn own_facts(join: &Join) -> Facts {
    match join {
        Join::Relation(_) | Join::Full(..) => Vec::new(),
        Join::Inner(inputs, quals) => {
            quals.facts.iter().cloned().chain(inputs.iter().flat_map(own_facts)).collect()
        }
        Join::Left(kept, _, _) => own_facts(kept),
    }
}

fn equality(item: Item, parameter: usize) -> Rc<Fact> {
    let relations = match item {
        Item::Column { depth: 0, relation, .. } => BTreeSet::from([relation]),
        _ => BTreeSet::new(),
    };
    Rc::new(Fact { relations, equal: Some((item, Item::Parameter(parameter))), ..Fact::default() })
}

fn outputs_known(level: &Level, relation: usize, classes: &Classes) -> Vec<(usize, usize)> {
    let mut known = Vec::new();
    for (output, column) in (0..level.outputs.len()).zip(1..) {
        let item = Item::Column { depth: 0, relation, column };
        known.extend(classes.parameters_of(item).map(|parameter| (output, parameter)));
    }
    known
}

fn filterable(level: &Level, output: usize) -> bool {
    level.outputs.get(output).is_some_and(|output| output.filterable)
}

fn deeper(classes: Classes, scope: &[Rc<Classes>]) -> Vec<Rc<Classes>> {
    std::iter::once(Rc::new(classes)).chain(scope.iter().cloned()).collect()
}

fn members(join: &Join) -> BTreeSet<usize> {
    match join {
        Join::Relation(index) => BTreeSet::from([*index]),
        Join::Inner(inputs, _) => inputs.iter().flat_map(members).collect(),
        Join::Left(left, right, _) | Join::Full(left, right, _) => {
            members(left).union(&members(right)).copied().collect()
        }
    }
}

fn excludes_missing(facts: &Facts, side: &BTreeSet<usize>) -> bool {
    facts.iter().any(|fact| !fact.not_null.is_disjoint(side))
}

fn apart_from(facts: &Facts, side: &BTreeSet<usize>) -> Facts {
    facts.iter().filter(|fact| fact.relations.is_disjoint(side)).cloned().collect()
}

#[cfg(test)]
#[path = "derive_tests.rs"]
mod tests;

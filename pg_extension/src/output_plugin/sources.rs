//! Which tables concern which shards: a shard's source, and every partition below it.

use std::rc::Rc;

use super::touched;
use crate::catalog::{Definitions, Dependency, RowForm, Shard};
use crate::number_hash::ByNumber;
use crate::pg::Oid;
use crate::pg::evaluator::{Evaluator, Wanted};
use crate::pg::expression::{WantedPredicate, columns_read};
use crate::pg::relation::{ColumnShape, Shape, with_partitions};
use crate::pg::rights::may_select;
use crate::pg::rowencoder::WantedRow;
use crate::pg::typeshape::TypeShape;

/// A table that shards are defined on.
struct Source {
    form: Form,
    /// Its shards, and what they depend on in it.
    shards: Vec<(Rc<Shard>, Dependency)>,
}

/// What a source looks like: if it differs, copies of its rows are worthless.
#[derive(Default, PartialEq, Eq)]
struct Form {
    /// Itself first, then every partition below it. Empty if it is gone.
    members: Vec<Shape>,
    /// Of its columns; partitions have the same.
    types: TypeShape,
}

/// A shard evaluated on one table.
pub(crate) struct Target {
    /// The shard's name.
    pub(crate) shard: Rc<Shard>,
    /// Whether keys are told apart; not for a shard that can't be evaluated.
    pub(crate) keyed: bool,
    /// In what form its rows are told, if they can be.
    pub(crate) form: Option<touched::RowForm>,
}

/// Everything needed for one table's rows.
pub(crate) struct Prepared {
    pub(crate) evaluator: Evaluator,
    /// By the number of the evaluator's rule.
    pub(crate) targets: Vec<Target>,
}

/// All tables that mapped shards are defined on.
#[derive(Default)]
pub(crate) struct Sources {
    sources: ByNumber<Oid, Source>,
    /// The sources that a table's rows belong to.
    memberships: ByNumber<Oid, Vec<Oid>>,
    /// The sources that have a composite type among their columns, by the relation that stands for the type.
    types: ByNumber<Oid, Vec<Oid>>,
    /// Made when a table's first row comes by; `None` where nothing can be prepared.
    prepared: ByNumber<Oid, Option<Prepared>>,
}

impl Sources {
    /// As the catalogs say under the snapshot in force.
    pub(crate) fn of(definitions: &Definitions) -> Self {
        let mut all = Sources::default();
        for shard in definitions.mapped() {
            let shard = Rc::new(shard.clone());
            for dependency in shard.dependencies() {
                let source = Oid::from(dependency.source);
                let entry = all
                    .sources
                    .entry(source)
                    .or_insert_with(|| Source { form: Form::of(source), shards: Vec::new() });
                entry.shards.push((Rc::clone(&shard), dependency));
            }
        }
        all.index();
        all
    }

    fn index(&mut self) {
        self.memberships.clear();
        self.types.clear();
        for (oid, source) in &self.sources {
            for member in &source.form.members {
                self.memberships.entry(member.oid).or_default().push(*oid);
            }
            for relation in &source.form.types.relations {
                self.types.entry(*relation).or_default().push(*oid);
            }
            if source.form.members.is_empty() {
                // A name for what is gone, so that its disappearance is noticed once only.
                self.memberships.entry(*oid).or_default().push(*oid);
            }
        }
    }

    /// Whether rows of `table` concern any shard.
    pub(crate) fn concerns(&self, table: Oid) -> bool {
        self.memberships.contains_key(&table)
    }

    /// Whether an alteration of `relation` may concern any shard.
    pub(crate) fn depends_on(&self, relation: Oid) -> bool {
        self.concerns(relation) || self.types.contains_key(&relation)
    }

    /// Names of the shards whose rows may be in `table`.
    pub(crate) fn shards_on(&self, table: Oid) -> impl Iterator<Item = &str> {
        self.memberships
            .get(&table)
            .into_iter()
            .flatten()
            .filter_map(|source| self.sources.get(source))
            .flat_map(|source| source.shards.iter().map(|(shard, _)| shard.name.as_str()))
    }

    /// What evaluates the rows of `table`.
    pub(crate) fn prepared(&mut self, table: Oid) -> Option<&mut Prepared> {
        if !self.prepared.contains_key(&table) {
            let fresh = self.prepare(table);
            self.prepared.insert(table, fresh);
        }
        self.prepared.get_mut(&table)?.as_mut()
    }

    /// The same, if it has been made before.
    pub(crate) fn at_hand(&mut self, table: Oid) -> Option<&mut Prepared> {
        self.prepared.get_mut(&table)?.as_mut()
    }

    fn prepare(&self, table: Oid) -> Option<Prepared> {
        // The shape of now, not of when the transaction began: it may have altered the table before this row.
        let physical = Shape::of(table)?;
        let mut mappings = Vec::new();
        let mut shards = Vec::new();
        for oid in self.memberships.get(&table)? {
            let source = self.sources.get(oid)?;
            let named = if *oid == table { Some(physical.clone()) } else { Shape::of(*oid) };
            for shard in &source.shards {
                mappings.push(named.as_ref().map(|named| numbers(named, &physical)).unwrap_or_default());
                shards.push((shard, named.clone()));
            }
        }
        let (mut wanted, mut targets, mut forms) = (Vec::new(), Vec::new(), Vec::new());
        for (((shard, dependency), named), mapping) in shards.into_iter().zip(&mappings) {
            let usable = shard.defect.is_none() && !mapping.is_empty();
            // Rows of a query are not those of a table.
            let named = named.filter(|_| usable && shard.query.is_none());
            let key: Option<Vec<(i16, Oid)>> = dependency
                .key_attnums
                .iter()
                .map(|attnum| physical_column(&physical, mapping, *attnum))
                .collect();
            let (key, predicate) = match (key, &dependency.predicate_tree) {
                (Some(key), None) if usable => (key, WantedPredicate::None),
                (Some(key), Some(tree)) if usable => (key, WantedPredicate::Tree(tree)),
                _ => (Vec::new(), WantedPredicate::Unusable),
            };
            let form = named.as_ref().and_then(|named| RowForm::of(shard, named).ok());
            let number = |column: &ColumnShape| physical_column(&physical, mapping, column.attnum);
            let shown = form.as_ref().map(|form| form.chosen.iter().chain(&form.sorted_by).map(number));
            let shown: Option<Vec<(i16, Oid)>> = match &dependency.read_attnums {
                Some(read) if usable => {
                    read.iter().map(|attnum| physical_column(&physical, mapping, *attnum)).collect()
                }
                _ => shown.and_then(Iterator::collect),
            };
            let told =
                form.as_ref().zip(named.as_ref()).filter(|(form, named)| may_be_told(shard, form, named));
            let row = told.and_then(|(form, _)| {
                let columns = form.chosen.iter().map(number).collect::<Option<_>>()?;
                Some(WantedRow { columns, identity: form.identity.clone() })
            });
            forms.push(
                form.as_ref().map(|form| touched::RowForm {
                    generation: shard.generation,
                    columns: form.fingerprint(),
                }),
            );
            targets.push(Target { shard: Rc::clone(shard), keyed: !key.is_empty(), form: None });
            wanted.push(Wanted {
                key,
                predicate,
                mapping,
                shown: shown.map(|shown| shown.into_iter().map(|(attnum, _)| attnum).collect()),
                row,
            });
        }
        let evaluator = Evaluator::new(table, &wanted)?;
        for (rule, form) in forms.into_iter().enumerate() {
            targets[rule].form = form.filter(|_| evaluator.writes_rows(rule));
        }
        Some(Prepared { evaluator, targets })
    }

    /// Forgets what was prepared for a table, and for partitions of it.
    pub(crate) fn forget(&mut self, table: Oid) {
        self.prepared.remove(&table);
        if let Some(source) = self.sources.get(&table) {
            for member in &source.form.members {
                self.prepared.remove(&member.oid);
            }
        }
    }

    /// Forgets all that was prepared.
    pub(crate) fn forget_all(&mut self) {
        self.prepared.clear();
    }

    /// Looks at the sources that one of `tables` belongs to (all with `None`) and gives the shards whose table has another
    /// shape than before.
    pub(crate) fn reshaped(&mut self, tables: Option<&[Oid]>) -> Vec<String> {
        let mut suspects: Vec<Oid> = match tables {
            None => self.sources.keys().copied().collect(),
            Some(tables) => {
                let sources =
                    |table| self.memberships.get(table).into_iter().chain(self.types.get(table)).flatten();
                tables.iter().flat_map(sources).copied().collect()
            }
        };
        suspects.sort_unstable_by_key(|oid| u32::from(*oid));
        suspects.dedup();
        let mut shards = Vec::new();
        for oid in suspects {
            let Some(source) = self.sources.get_mut(&oid) else { continue };
            let now = Form::of(oid);
            if now != source.form {
                source.form = now;
                shards.extend(source.shards.iter().map(|(shard, _)| shard.name.clone()));
            }
        }
        if !shards.is_empty() {
            self.index();
            self.forget_all();
        }
        shards
    }

    /// Takes over the shapes that `before` knew, for sources that both have, so that what differs is noticed by `reshaped`.
    pub(crate) fn inherit_shapes(&mut self, before: &mut Sources) {
        for (oid, source) in &mut self.sources {
            if let Some(known) = before.sources.get_mut(oid) {
                source.form = std::mem::take(&mut known.form);
            }
        }
        self.index();
    }
}

impl Form {
    /// As it is under the snapshot in force.
    fn of(source: Oid) -> Self {
        let Some(root) = Shape::of(source) else { return Form::default() };
        let types = TypeShape::of(&root);
        let members = if root.is_partitioned() {
            with_partitions(source).into_iter().filter_map(Shape::of).collect()
        } else {
            vec![root]
        };
        Form { members, types }
    }
}

/// Number in `physical` of each column of `named`, by name; 0 where there is none.
fn numbers(named: &Shape, physical: &Shape) -> Vec<i16> {
    named
        .columns
        .iter()
        .map(|column| {
            let same = (!column.dropped).then(|| physical.named(&column.name)).flatten();
            same.map_or(0, |same| same.attnum)
        })
        .collect()
}

/// Whether the stream may carry rows of the shard: what `fetch` would refuse to read now does not travel this way either. Its statement
/// reads the predicate's columns too.
fn may_be_told(shard: &Shard, form: &RowForm, named: &Shape) -> bool {
    let read = || {
        let mut read = shard.predicate_tree.as_deref().map_or(Some(Vec::new()), columns_read)?;
        let others = form.chosen.iter().chain(&form.key).chain(&form.sorted_by);
        read.extend(others.map(|column| column.attnum));
        Some(read)
    };
    !form.identity.is_empty()
        && !named.row_security()
        && named.is_logged()
        && !form.chosen.iter().any(ColumnShape::is_virtual)
        && may_select(Oid::from(shard.owner), named.oid, read)
}

fn physical_column(physical: &Shape, mapping: &[i16], attnum: i16) -> Option<(i16, Oid)> {
    let at = usize::try_from(attnum).ok()?.checked_sub(1)?;
    let column = physical.column(*mapping.get(at)?)?;
    Some((column.attnum, column.column_type))
}

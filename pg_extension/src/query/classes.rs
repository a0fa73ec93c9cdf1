use std::collections::BTreeSet;
use std::rc::Rc;

use super::{Fact, Item};

/// Items that are known to have the same text, at one place of a query.
#[derive(Debug, Default)]
pub(super) struct Classes(Vec<BTreeSet<Item>>);

impl Classes {
    /// From conditions that hold there. `scope` says the same of the levels further out, the next one first.
    pub(super) fn of(facts: &[Rc<Fact>], scope: &[Rc<Classes>]) -> Self {
        let mut classes = Classes::default();
        for (left, right) in facts.iter().filter_map(|fact| fact.equal) {
            classes.unite(left, right);
            for item in [left, right] {
                let Item::Column { depth, relation, column } = item else { continue };
                let Some(outer) = depth.checked_sub(1).and_then(|above| scope.get(above)) else { continue };
                for parameter in outer.parameters_of(Item::Column { depth: 0, relation, column }) {
                    classes.unite(item, Item::Parameter(parameter));
                }
            }
        }
        classes
    }

    fn unite(&mut self, left: Item, right: Item) {
        let mut united = BTreeSet::from([left, right]);
        self.0.retain(|class| {
            let apart = class.is_disjoint(&united);
            if !apart {
                united.extend(class);
            }
            apart
        });
        self.0.push(united);
    }

    /// The parameters that an item is known to equal.
    pub(super) fn parameters_of(&self, item: Item) -> impl Iterator<Item = usize> {
        let class = self.0.iter().find(|class| class.contains(&item));
        class.into_iter().flatten().filter_map(|item| match item {
            Item::Parameter(number) => Some(*number),
            Item::Column { .. } => None,
        })
    }

    /// A column of a relation of this level that equals a parameter.
    pub(super) fn column_for(&self, parameter: usize, wanted: usize) -> Option<i16> {
        let class = self.0.iter().find(|class| class.contains(&Item::Parameter(parameter)))?;
        class.iter().find_map(|item| match item {
            Item::Column { depth: 0, relation, column } if *relation == wanted => Some(*column),
            _ => None,
        })
    }
}

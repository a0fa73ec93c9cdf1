//! Which changes concern a query: derived from the joins and conditions of its parse tree, without PostgreSQL.

mod classes;
mod derive;
mod model;

pub(crate) use derive::{Dependency, dependencies};
pub(crate) use model::{Cte, Fact, Item, Join, Level, Output, Quals, Relation};

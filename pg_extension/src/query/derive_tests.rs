use super::super::{Cte, Output, Relation};
use super::*;

fn column(relation: usize, column: i16) -> Item {
    Item::Column { depth: 0, relation, column }
}

fn outer(relation: usize, column: i16) -> Item {
    Item::Column { depth: 1, relation, column }
}

/// A strict equality.
fn equal(left: Item, right: Item) -> Rc<Fact> {
    let own = |item| match item {
        Item::Column { depth: 0, relation, .. } => Some(relation),
        _ => None,
    };
    let relations: BTreeSet<usize> = [left, right].into_iter().filter_map(own).collect();
    Rc::new(Fact { not_null: relations.clone(), relations, equal: Some((left, right)), predicate: None })
}

const P: Item = Item::Parameter(0);

fn condition(relation: usize, tree: &str) -> Rc<Fact> {
    Rc::new(Fact { relations: BTreeSet::from([relation]), predicate: Some(tree.into()), ..Fact::default() })
}

fn quals(facts: Vec<Rc<Fact>>) -> Quals {
    Quals { facts, subqueries: vec![] }
}

fn one(relation: usize) -> Box<Join> {
    Box::new(Join::Relation(relation))
}

fn level(relations: Vec<Relation>, join: Join) -> Level {
    Level {
        relations,
        join,
        ctes: vec![],
        outputs: vec![],
        set_operation: false,
        grouping_sets: false,
        subqueries: vec![],
    }
}

/// Tables 1, 2, 3 … as relations 0, 1, 2 …
fn tables(count: u32, join: Join) -> Level {
    level((1..=count).map(Relation::Table).collect(), join)
}

/// `1[2]` for a key, `1` for everything, with predicates behind a slash.
fn found(level: &Level) -> Vec<String> {
    let text = |found: Dependency| {
        let key: Vec<String> = found.key.iter().map(i16::to_string).collect();
        let key = if key.is_empty() { String::new() } else { format!("[{}]", key.join(",")) };
        let predicates: String = found.predicates.iter().map(|tree| format!("/{tree}")).collect();
        format!("{}{key}{predicates}", found.table)
    };
    dependencies(level, 1).into_iter().map(text).collect()
}

#[test]
fn an_inner_join_carries_the_parameter_over() {
    let facts = vec![equal(column(0, 1), P), equal(column(1, 2), column(0, 1))];
    let query = tables(3, Join::Inner(vec![*one(0), *one(1), *one(2)], quals(facts)));
    assert_eq!(found(&query), ["1[1]", "2[2]", "3"]);
}

#[test]
fn a_left_join_carries_it_to_the_side_that_may_be_missing_only() {
    let on = || quals(vec![equal(column(0, 1), column(1, 2))]);
    let left = || Join::Left(one(0), one(1), on());
    let above = |fact| tables(2, Join::Inner(vec![left()], quals(vec![fact])));
    assert_eq!(found(&above(equal(column(0, 1), P))), ["1[1]", "2[2]"]);
    // WHERE on the side that may be missing: the join is an inner one.
    assert_eq!(found(&above(equal(column(1, 2), P))), ["1[1]", "2[2]"]);
    // In ON it says nothing of the side that stays.
    let on = quals(vec![equal(column(0, 1), column(1, 2)), equal(column(0, 1), P)]);
    assert_eq!(found(&tables(2, Join::Left(one(0), one(1), on))), ["1", "2[2]"]);
}

#[test]
fn a_condition_that_a_missing_row_may_satisfy_restricts_nothing() {
    let on = quals(vec![equal(column(0, 1), column(1, 2))]);
    let missing = condition(1, "x IS NULL");
    let query = tables(2, Join::Inner(vec![Join::Left(one(0), one(1), on)], quals(vec![missing])));
    assert_eq!(found(&query), ["1", "2"]);
}

#[test]
fn conditions_in_on_restrict_the_side_that_may_be_missing() {
    let on = quals(vec![condition(0, "kept"), condition(1, "optional")]);
    assert_eq!(found(&tables(2, Join::Left(one(0), one(1), on))), ["1", "2/optional"]);
}

#[test]
fn a_full_join_restricts_neither_side() {
    let on = || quals(vec![equal(column(0, 1), column(1, 1)), condition(0, "a"), condition(1, "b")]);
    let full = || Join::Full(one(0), one(1), on());
    assert_eq!(found(&tables(2, full())), ["1", "2"]);
    let null_safe = Rc::new(Fact { not_null: BTreeSet::new(), ..(*equal(column(0, 1), P)).clone() });
    assert_eq!(found(&tables(2, Join::Inner(vec![full()], quals(vec![null_safe])))), ["1", "2"]);
    // Excluding rows without a left side makes it a left join.
    let strict = equal(column(0, 1), P);
    assert_eq!(found(&tables(2, Join::Inner(vec![full()], quals(vec![strict])))), ["1[1]", "2[1]/b"]);
}

#[test]
fn correlated_subqueries_know_what_their_place_knows() {
    let inside = || tables(1, Join::Inner(vec![*one(0)], quals(vec![equal(column(0, 3), outer(0, 1))])));
    let mut query = level(
        vec![Relation::Table(9)],
        Join::Inner(vec![*one(0)], Quals { facts: vec![equal(column(0, 1), P)], subqueries: vec![inside()] }),
    );
    assert_eq!(found(&query), ["1[3]", "9[1]"]);
    query.subqueries = vec![inside()];
    assert_eq!(found(&query), ["1[3]", "9[1]"]);
    query.grouping_sets = true;
    assert_eq!(found(&query), ["1", "9[1]"]);
}

#[test]
fn a_condition_on_a_grouped_column_reaches_into_the_subquery() {
    let inside = |filterable| {
        let mut inside = tables(1, Join::Inner(vec![*one(0)], Quals::default()));
        inside.outputs = vec![Output { item: Some(column(0, 4)), filterable }];
        inside
    };
    let outside = |inside| {
        level(
            vec![Relation::Subquery(inside)],
            Join::Inner(vec![*one(0)], quals(vec![equal(column(0, 1), P)])),
        )
    };
    assert_eq!(found(&outside(inside(true))), ["1[4]"]);
    assert_eq!(found(&outside(inside(false))), ["1"]);
}

#[test]
fn what_a_subquery_fixes_is_known_outside() {
    let mut inside = tables(1, Join::Inner(vec![*one(0)], quals(vec![equal(column(0, 4), P)])));
    inside.outputs = vec![Output { item: Some(column(0, 4)), filterable: false }];
    let join = Join::Inner(vec![*one(0), *one(1)], quals(vec![equal(column(0, 1), column(1, 7))]));
    let mut query = level(vec![Relation::Subquery(inside), Relation::Table(2)], join);
    assert_eq!(found(&query), ["1[4]", "2[7]"]);
    query.join = Join::Left(one(1), one(0), quals(vec![equal(column(0, 1), column(1, 7))]));
    assert_eq!(found(&query), ["1[4]", "2"], "the side that stays is not restricted");
}

#[test]
fn every_arm_of_a_set_operation_is_walked() {
    let arm = |table| {
        let mut arm = level(vec![Relation::Table(table)], Join::Inner(vec![*one(0)], Quals::default()));
        arm.outputs = vec![Output { item: Some(column(0, 2)), filterable: true }];
        arm
    };
    let mut union = level(
        vec![Relation::Subquery(arm(1)), Relation::Subquery(arm(2))],
        Join::Inner(vec![], Quals::default()),
    );
    union.set_operation = true;
    union.outputs = vec![Output { item: None, filterable: true }];
    assert_eq!(found(&union), ["1", "2"]);
    let query = level(
        vec![Relation::Subquery(union)],
        Join::Inner(vec![*one(0)], quals(vec![equal(column(0, 1), P)])),
    );
    assert_eq!(found(&query), ["1[2]", "2[2]"]);
}

#[test]
fn a_with_query_takes_conditions_from_its_only_reader() {
    let cte = |single| {
        let mut inside = tables(1, Join::Inner(vec![*one(0)], Quals::default()));
        inside.outputs = vec![Output { item: Some(column(0, 4)), filterable: true }];
        Cte { level: inside, single }
    };
    let query = |single| {
        let mut query = level(
            vec![Relation::Cte { depth: 0, index: 0 }],
            Join::Inner(vec![*one(0)], quals(vec![equal(column(0, 1), P)])),
        );
        query.ctes = vec![cte(single)];
        query
    };
    assert_eq!(found(&query(true)), ["1[4]"]);
    assert_eq!(found(&query(false)), ["1"]);
}

#[test]
fn a_table_that_is_joined_nowhere_is_not_missed() {
    assert_eq!(found(&tables(2, *one(0))), ["1", "2"]);
}

#[test]
fn an_unconditional_entry_outranks_the_others_of_its_table() {
    let join = Join::Inner(vec![*one(0), *one(1)], quals(vec![equal(column(0, 1), P)]));
    let query = level(vec![Relation::Table(1), Relation::Table(1)], join);
    assert_eq!(found(&query), ["1"]);
}

//! Advice on definitions made up here: what is proposed, and above all what is not.

use proptest::prelude::*;

use super::*;

fn column(name: &str, distinct: f64, width: f64) -> Column {
    Column { name: name.into(), distinct, width, keyable: true, not_null: true, ..Column::default() }
}

/// Ten thousand orders of about 600 bytes each: 6 MB at an edge.
fn orders() -> Table {
    Table {
        name: "shop.orders".into(),
        schema: "shop".into(),
        rows: 10_000.0,
        columns: vec![
            column("id", 10_000.0, 5.0),
            column("customer_id", 1_000.0, 4.0),
            column("status", 20.0, 6.0),
            Column {
                scale: Some(Scale::Number),
                histogram: (0..=100).map(|i| i.to_string()).collect(),
                ..column("price", 500.0, 4.0)
            },
            column("note", 9_000.0, 200.0),
        ],
        primary_key: vec!["id".into()],
        indexes: vec![vec!["id".into()]],
        identity: Some(vec!["id".into()]),
        identity_is_default: true,
        ..Table::default()
    }
}

fn definitions(shards: Vec<Shard>) -> Definitions {
    let mappings = [("f".to_owned(), shards.iter().map(|s| s.name.clone()).collect())].into();
    Definitions {
        shards,
        tables: [("shop.orders".to_owned(), orders())].into(),
        mappings,
        mapped: [("f".to_owned(), 1_000)].into(),
        role: "dba".into(),
        ..Definitions::default()
    }
}

fn shard(name: &str) -> Shard {
    Shard {
        name: name.into(),
        table: "shop.orders".into(),
        owner: "dba".into(),
        rows: 10_000.0,
        age: 1_000,
        ..Shard::default()
    }
}

fn read(at: i64, instance: &str, filters: &[(&str, String)]) -> Access {
    Access {
        edge: "paris".into(),
        function: "f".into(),
        at,
        age: 10,
        // The log takes ten thousand times as long, so that a few hundred reads are weeks.
        logged: at * 10_000,
        instances: vec![instance.into()],
        filters: filters.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect(),
    }
}

fn reads(count: i64, filters: impl Fn(i64) -> Vec<(&'static str, String)>) -> Vec<Access> {
    (0..count).map(|i| read(i * 1_000, "orders", &filters(i))).collect()
}

/// What is said with room for 1 MiB.
fn said(definitions: &Definitions, accesses: &[Access]) -> Vec<Advice> {
    advise(definitions, accesses, &Terms { edge_bytes: 1 << 20, ..Terms::default() }).advice
}

fn only(definitions: &Definitions, accesses: &[Access]) -> Advice {
    let said = said(definitions, accesses);
    assert_eq!(said.len(), 1, "{said:#?}");
    said.into_iter().next().unwrap()
}

#[test]
fn reads_by_one_of_many_values_want_instances() {
    let accesses = reads(100, |i| vec![("customer_id", format!("eq.{}", i % 20))]);
    let a = only(&definitions(vec![shard("orders")]), &accesses);
    assert_eq!(a.kind, Kind::Keyed);
    assert_eq!(
        a.statement,
        "SELECT foreshard.create_shard('orders', 'shop.orders', key => ARRAY['customer_id']::name[], or_replace => true);"
    );
    assert_eq!(a.undo, "SELECT foreshard.create_shard('orders', 'shop.orders', or_replace => true);");
    let (now, then) = a.expected.hit_ratio;
    assert!(now == 0.0 && (then - 0.8).abs() < 1e-9, "{now} {then}");
    assert!(a.expected.bytes_per_edge.0 > 20 * a.expected.bytes_per_edge.1);
}

#[test]
fn one_read_that_wants_all_forbids_every_narrower_shard() {
    let mut accesses = reads(100, |i| vec![("customer_id", format!("eq.{}", i % 20))]);
    accesses.push(read(200_000, "orders", &[]));
    assert_eq!(said(&definitions(vec![shard("orders")]), &accesses), []);
    // One by an operator that shards can't express does, too.
    accesses.pop();
    accesses.push(read(200_000, "orders", &[("customer_id", "neq.4".into())]));
    assert_eq!(said(&definitions(vec![shard("orders")]), &accesses), []);
}

#[test]
fn too_few_reads_say_nothing() {
    let accesses = reads(19, |i| vec![("customer_id", format!("eq.{i}"))]);
    assert_eq!(said(&definitions(vec![shard("orders")]), &accesses), []);
}

#[test]
fn what_fits_easily_is_left_alone_if_instances_would_be_missed() {
    let accesses = reads(100, |i| vec![("customer_id", format!("eq.{}", i % 20))]);
    let roomy = Terms { edge_bytes: 1 << 30, ..Terms::default() };
    assert_eq!(advise(&definitions(vec![shard("orders")]), &accesses, &roomy).advice, []);
}

#[test]
fn bounds_are_the_loosest_and_moving_ones_are_none() {
    let accesses = reads(100, |i| vec![("price", format!("gte.{}", 80 + i % 4 * 5))]);
    let a = only(&definitions(vec![shard("orders")]), &accesses);
    assert_eq!(a.kind, Kind::Range);
    assert!(a.statement.contains("\"price\" >= 80"), "{}", a.statement);
    let moving = reads(100, |i| vec![("price", format!("gte.{}", i))]);
    assert_eq!(said(&definitions(vec![shard("orders")]), &moving), []);
    let open = reads(100, |i| vec![("price", if i % 2 == 0 { "gte.80".into() } else { "lt.20".into() })]);
    assert_eq!(said(&definitions(vec![shard("orders")]), &open), []);
}

#[test]
fn what_was_logged_under_an_older_definition_does_not_count() {
    let mut accesses = reads(100, |i| vec![("customer_id", format!("eq.{}", i % 20))]);
    accesses.iter_mut().for_each(|a| a.age = 2_000);
    assert_eq!(said(&definitions(vec![shard("orders")]), &accesses), []);
}

#[test]
fn keyed_shards_need_an_index_and_old_values() {
    let mut keyed = shard("orders");
    keyed.key = vec!["customer_id".into()];
    let accesses: Vec<Access> = (0..50)
        .map(|i| {
            read(i, &format!("orders?customer_id={}", i % 5), &[("customer_id", format!("eq.{}", i % 5))])
        })
        .collect();
    let said = said(&definitions(vec![keyed]), &accesses);
    let kinds: Vec<Kind> = said.iter().map(|a| a.kind).collect();
    assert_eq!(kinds, [Kind::Index, Kind::ReplicaIdentity], "{said:#?}");
    assert!(said[1].statement.contains("(\"customer_id\", \"id\")"), "{}", said[1].statement);
    assert!(said[1].undo.starts_with("ALTER TABLE shop.orders REPLICA IDENTITY DEFAULT;"));
}

#[test]
fn a_shard_whose_name_is_escaped_in_ids_is_not_dead() {
    let accesses: Vec<Access> = (0..300).map(|i| read(i * 1_000, "odd%20orders%3F", &[])).collect();
    assert_eq!(said(&definitions(vec![shard("odd orders?")]), &accesses), []);
}

#[test]
fn a_shard_defined_a_moment_ago_is_not_dead() {
    let mut fresh = shard("fresh");
    fresh.age = 5;
    let accesses = reads(300, |_| Vec::new());
    assert_eq!(said(&definitions(vec![shard("orders"), fresh]), &accesses), []);
    let said = said(&definitions(vec![shard("orders"), shard("old")]), &accesses);
    assert_eq!(said.iter().map(|a| a.kind).collect::<Vec<_>>(), [Kind::Drop], "{said:#?}");
    assert!(said[0].undo.contains("map_function('f', ARRAY['orders', 'old']::text[])"));
}

#[test]
fn only_silence_that_lasts_is_death() {
    let two = definitions(vec![shard("orders"), shard("old")]);
    let kinds = |definitions: &Definitions, accesses: &[Access]| {
        said(definitions, accesses).iter().map(|a| a.kind).collect::<Vec<_>>()
    };
    let mut accesses = reads(300, |_| Vec::new());
    assert_eq!(kinds(&two, &accesses), [Kind::Drop]);
    // As many executions within minutes, as by a test of load, say nothing; nor do those within two weeks less a moment.
    accesses.iter_mut().for_each(|a| a.logged = a.at);
    assert_eq!(kinds(&two, &accesses), []);
    accesses.iter_mut().for_each(|a| a.logged = a.at * 14 * 86_400 / 300);
    assert_eq!(kinds(&two, &accesses), []);
    // Who may read it has not run: a report of the end of the year.
    let mut yearly = two.clone();
    yearly.mappings =
        [("f".to_owned(), vec!["orders".to_owned()]), ("yearly".to_owned(), vec!["old".to_owned()])].into();
    let mut accesses = reads(300, |_| Vec::new());
    assert_eq!(kinds(&yearly, &accesses), []);
    accesses.iter_mut().take(20).for_each(|a| a.function = "yearly".into());
    assert_eq!(kinds(&yearly, &accesses), [Kind::Drop]);
    yearly.mappings.remove("yearly");
    assert_eq!(kinds(&yearly, &accesses), [Kind::Drop]);
}

#[test]
fn shards_read_in_the_same_executions_become_one_and_others_do_not() {
    let part =
        |name: &str, n: u32| Shard { predicate: Some(format!("(price = {n})")), rows: 20.0, ..shard(name) };
    let both = definitions(vec![part("a", 1), part("b", 2)]);
    let mut accesses: Vec<Access> = (0..100).map(|i| read(i, "a", &[])).collect();
    accesses.iter_mut().for_each(|a| a.instances.push("b".into()));
    let about = |accesses: &[Access]| {
        said(&both, accesses).into_iter().filter(|a| !a.kind.alters_tables()).collect::<Vec<_>>()
    };
    let [a] = about(&accesses).try_into().expect("one");
    assert_eq!((a.kind, a.subject.as_str()), (Kind::Merge, "a, b"));
    assert!(a.statement.contains("((price = 1)) OR ((price = 2))"), "{}", a.statement);
    accesses.iter_mut().step_by(3).for_each(|a| a.instances.truncate(1));
    assert_eq!(about(&accesses), []);
}

proptest! {
    /// Whatever is in the log: nothing panics, and every statement has its quotation marks in pairs.
    #[test]
    fn any_log_makes_well_formed_statements(
        logged in prop::collection::vec(("[a-c']{1,3}", "(orders|orders\\?customer_id=[0-9']{1,2}|x'y)", 0u8..5, "(eq\\.|gte\\.|in\\.\\(|)[a-z0-9'\"\\\\;.,)]{0,6}"), 0..80)
    ) {
        const NAMES: [&str; 5] = ["customer_id", "status", "price", "select", "a'; --"];
        let accesses: Vec<Access> = logged.iter().enumerate().map(|(i, (function, instance, name, value))| Access {
            function: function.clone(),
            ..read(i as i64, instance, &[(NAMES[usize::from(*name)], value.clone())])
        }).collect();
        let mut keyed = shard("keyed");
        keyed.key = vec!["customer_id".into()];
        let terms = Terms { edge_bytes: 1 << 20, enough: 1, ..Terms::default() };
        for a in advise(&definitions(vec![shard("orders"), keyed]), &accesses, &terms).advice {
            for sql in [&a.statement, &a.undo] {
                prop_assert!(sql.matches('\'').count() % 2 == 0 && sql.ends_with(';'), "{sql}");
            }
            let e = a.expected;
            for share in [e.hit_ratio.0, e.hit_ratio.1] {
                prop_assert!((0.0..=1.0).contains(&share));
            }
        }
    }
}

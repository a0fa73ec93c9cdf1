//! Shards that are a query: what is derived from it, what invalidates it, what a fetch gives.

use anyhow::Result;

use crate::origin::{Origin, error_of};
use crate::rights::login;

const SHOP: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, tier text);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int, status text NOT NULL, placed date);
    CREATE TABLE lines (order_id bigint, product_id int, quantity int NOT NULL, PRIMARY KEY (order_id, product_id));
    CREATE TABLE products (id int PRIMARY KEY, title text, price numeric);
    ALTER TABLE orders REPLICA IDENTITY FULL; ALTER TABLE customers REPLICA IDENTITY FULL;
    ALTER TABLE lines REPLICA IDENTITY FULL; ALTER TABLE products REPLICA IDENTITY FULL;
    INSERT INTO customers VALUES (1, 'ann', 'gold'), (2, 'bob', NULL), (3, 'cy', 'gold');
    INSERT INTO orders VALUES (10, 1, 'open', '2026-01-01'), (11, 1, 'paid', '2026-01-02'), (20, 2, 'open', NULL);
    INSERT INTO products VALUES (7, 'pen', 1.50), (8, 'ink', 9.00);
    INSERT INTO lines VALUES (10, 7, 2), (10, 8, 1), (11, 7, 5), (20, 8, 3);
";

/// `table[key]: rows` for every entry of `depends_on`.
async fn derived(origin: &Origin, shard: &str) -> Result<Vec<String>> {
    let rows = origin
        .db
        .query(
            "SELECT (d ->> 'table') || coalesce(nullif(d -> 'key', 'null')::text, '') || coalesce(': ' || (d ->> 'rows'), '')
             FROM foreshard.shards s, jsonb_array_elements(s.depends_on) d WHERE s.name = $1",
            &[&shard],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test]
async fn a_join_is_keyed_where_the_parameter_reaches() -> Result<()> {
    let origin = Origin::followed(&format!(
        "{SHOP} SELECT foreshard.create_query_shard('account', $q$
            SELECT c.name, count(o.id) AS orders, max(o.placed) AS last
            FROM customers c LEFT JOIN orders o ON o.customer_id = c.id AND o.status <> 'void'
            WHERE c.id = $1 GROUP BY c.name $q$, '{{customer}}');"
    ))
    .await?;
    assert_eq!(
        derived(&origin, "account").await?,
        ["public.customers[\"id\"]", "public.orders[\"customer_id\"]: (status <> 'void'::text)"]
    );
    assert_eq!(origin.rows("account?customer=1").await?, ["ann|2|2026-01-02"]);
    assert_eq!(origin.rows("account?customer=2").await?, ["bob|1|-"]);
    assert_eq!(origin.rows("account?customer=9").await?, Vec::<String>::new());
    assert_eq!(origin.rows("account?customer").await?, Vec::<String>::new());
    assert_eq!(origin.rows("account?customer=x").await?, ["KeyType"]);

    assert_eq!(origin.after("UPDATE orders SET status = 'paid' WHERE id = 20").await?, ["account 2"]);
    assert_eq!(origin.after("UPDATE orders SET customer_id = 3 WHERE id = 10").await?, ["account 1 3"]);
    assert_eq!(origin.after("INSERT INTO orders VALUES (30, 3, 'void')").await?, Vec::<String>::new());
    assert_eq!(origin.after("UPDATE orders SET status = 'open' WHERE id = 30").await?, ["account 3"]);
    assert_eq!(origin.after("UPDATE customers SET name = 'al' WHERE id = 1").await?, ["account 1"]);
    assert_eq!(origin.after("UPDATE products SET price = 2").await?, Vec::<String>::new());
    assert_eq!(origin.after("TRUNCATE orders").await?, ["account Whole(Truncate)"]);
    assert_eq!(origin.rows("account?customer=1").await?, ["al|0|-"]);
    Ok(())
}

/// One instance, and everything that was derived.
async fn define(origin: &Origin, shard: &str, query: &str, params: &str) -> Result<Vec<String>> {
    origin
        .db
        .execute(
            "SELECT foreshard.create_query_shard($1, $2, $3::text::name[], or_replace => true)",
            &[&shard, &query, &params],
        )
        .await?;
    derived(origin, shard).await
}

#[tokio::test]
async fn what_is_derived_from_every_kind_of_query() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(SHOP).await?;
    let customers = "public.customers[\"id\"]";
    let orders = "public.orders[\"customer_id\"]";
    for (query, expected) in [
        // The parameter reaches through an equivalence, whichever way it is written.
        (
            "SELECT o.id FROM customers c JOIN orders o ON o.customer_id = c.id WHERE c.id = $1",
            vec![customers, orders],
        ),
        (
            "SELECT o.id FROM customers c, orders o WHERE o.customer_id = $1 AND c.id = o.customer_id",
            vec![customers, orders],
        ),
        (
            "SELECT o.id FROM orders o JOIN (SELECT id AS customer_id, name FROM customers) c USING (customer_id) WHERE customer_id = $1",
            vec![customers, orders],
        ),
        // Not to a table that has no such column, and not through another comparison.
        (
            "SELECT l.quantity FROM orders o JOIN lines l ON l.order_id = o.id WHERE o.customer_id = $1",
            vec!["public.lines", orders],
        ),
        ("SELECT id FROM orders WHERE customer_id < $1", vec!["public.orders"]),
        ("SELECT id FROM orders WHERE customer_id = $1 OR status = 'open'", vec!["public.orders"]),
        ("SELECT id FROM orders WHERE customer_id + 0 = $1", vec!["public.orders"]),
        ("SELECT id FROM orders WHERE customer_id IS NOT DISTINCT FROM $1", vec![orders]),
        // bigint and integer have the same text; numeric has not.
        (
            "SELECT c.id FROM customers c, orders o WHERE o.id = $1::int AND c.id = o.id",
            vec![customers, "public.orders[\"id\"]"],
        ),
        ("SELECT id FROM products WHERE price = $1", vec!["public.products"]),
        // Outer joins.
        (
            "SELECT o.id FROM orders o LEFT JOIN customers c ON c.id = o.customer_id AND c.id = $1",
            vec![customers, "public.orders"],
        ),
        (
            "SELECT o.id FROM orders o RIGHT JOIN customers c ON c.id = o.customer_id WHERE c.id = $1",
            vec![customers, orders],
        ),
        (
            "SELECT o.id FROM orders o FULL JOIN customers c ON c.id = o.customer_id WHERE c.id = $1",
            vec![customers, orders],
        ),
        (
            "SELECT o.id, $1::int AS p FROM orders o FULL JOIN customers c ON c.id = o.customer_id AND c.id = $1",
            vec!["public.customers", "public.orders"],
        ),
        (
            "SELECT c.id FROM customers c LEFT JOIN orders o ON o.customer_id = c.id WHERE c.id = $1 AND o.status IS NULL",
            vec![customers, orders],
        ),
        // Subqueries.
        (
            "SELECT name, (SELECT count(*) FROM orders o WHERE o.customer_id = c.id) AS n FROM customers c WHERE c.id = $1",
            vec![customers, orders],
        ),
        (
            "SELECT name FROM customers c WHERE id = $1 AND EXISTS (SELECT FROM orders o WHERE o.customer_id = c.id)",
            vec![customers, orders],
        ),
        (
            "SELECT name FROM customers c WHERE id = $1 AND id NOT IN (SELECT customer_id FROM orders)",
            vec![customers, "public.orders"],
        ),
        (
            "SELECT s.n FROM (SELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id) s WHERE s.customer_id = $1",
            vec![orders],
        ),
        (
            "SELECT s.n FROM (SELECT customer_id, row_number() OVER () AS n FROM orders) s WHERE s.customer_id = $1",
            vec!["public.orders"],
        ),
        ("SELECT s.id FROM (SELECT * FROM orders LIMIT 5) s WHERE s.customer_id = $1", vec!["public.orders"]),
        (
            "SELECT x.id FROM customers c CROSS JOIN LATERAL (SELECT o.id FROM orders o WHERE o.customer_id = c.id ORDER BY o.id LIMIT 1) x WHERE c.id = $1",
            vec![customers, orders],
        ),
        // WITH.
        ("WITH mine AS (SELECT * FROM orders) SELECT id FROM mine WHERE customer_id = $1", vec![orders]),
        (
            "WITH mine AS (SELECT * FROM orders) SELECT a.id FROM mine a, mine b WHERE a.customer_id = $1 AND b.customer_id = $1",
            vec!["public.orders"],
        ),
        (
            "WITH mine AS (SELECT * FROM orders WHERE customer_id = $1) SELECT a.id, b.id AS other FROM mine a, mine b",
            vec![orders],
        ),
        (
            "WITH RECURSIVE up AS (SELECT id, customer_id FROM orders WHERE id = $1 UNION SELECT o.id, o.customer_id FROM orders o JOIN up ON o.id = up.customer_id) SELECT id FROM up",
            vec!["public.orders"],
        ),
        // Set operations.
        (
            "SELECT id FROM customers WHERE id = $1 UNION ALL SELECT customer_id FROM orders WHERE customer_id = $1",
            vec![customers, orders],
        ),
        (
            "SELECT u.k FROM (SELECT id AS k FROM customers EXCEPT SELECT customer_id FROM orders) u WHERE u.k = $1",
            vec![customers, orders],
        ),
        // A table that is read twice.
        (
            "SELECT b.id FROM orders a JOIN orders b ON b.customer_id = a.customer_id WHERE a.customer_id = $1 AND b.status = 'open'",
            vec![orders, "public.orders[\"customer_id\"]: (status = 'open'::text)"],
        ),
        (
            "SELECT b.id FROM orders a JOIN orders b ON b.id > a.id WHERE a.customer_id = $1",
            vec!["public.orders"],
        ),
    ] {
        let mut found = define(&origin, "q", query, "{p}").await?;
        found.sort();
        assert_eq!(found, expected, "{query}");
    }
    // Without parameters, and with several.
    assert_eq!(
        define(
            &origin,
            "q",
            "SELECT count(*) FROM orders WHERE status = 'open' AND placed > '2026-01-01'",
            "{}"
        )
        .await?,
        ["public.orders: ((placed > '2026-01-01'::date) AND (status = 'open'::text))"]
    );
    assert_eq!(
        define(&origin, "q", "SELECT id FROM orders WHERE customer_id = $1 AND status = $2", "{c,s}").await?,
        ["public.orders[\"customer_id\", \"status\"]"]
    );
    assert_eq!(
        define(
            &origin,
            "q",
            "SELECT o.id FROM orders o, customers c WHERE o.customer_id = $1 AND c.tier = $2",
            "{c,s}"
        )
        .await?,
        ["public.customers", "public.orders"]
    );
    Ok(())
}

#[tokio::test]
async fn an_update_of_columns_that_a_query_does_not_read_concerns_nobody() -> Result<()> {
    let origin = Origin::followed(&format!(
        "{SHOP} ALTER TABLE lines REPLICA IDENTITY DEFAULT;
        SELECT foreshard.create_query_shard('account', $q$
            SELECT c.name, count(o.id) AS orders FROM customers c LEFT JOIN orders o ON o.customer_id = c.id AND o.status <> 'void'
            WHERE c.id = $1 GROUP BY c.name $q$, '{{customer}}');
        SELECT foreshard.create_query_shard('card', 'SELECT to_jsonb(c) AS card FROM customers c WHERE c.id = $1', '{{id}}');
        SELECT foreshard.create_query_shard('size', 'SELECT count(*) AS n FROM lines WHERE order_id = $1', '{{line}}');
        SELECT foreshard.create_query_shard('prices', $q$
            WITH named AS (SELECT id AS product_id, price FROM products)
            SELECT sum(price) AS total FROM lines JOIN named USING (product_id) $q$)"
    ))
    .await?;
    let columns = |shard: &str| {
        format!(
            "SELECT string_agg((d ->> 'table') || ' ' || (d -> 'columns')::text, '; ' ORDER BY d ->> 'table')
             FROM foreshard.shards s, jsonb_array_elements(s.depends_on) d WHERE s.name = '{shard}'"
        )
    };
    for (shard, expected) in [
        ("account", r#"public.customers ["id", "name"]; public.orders ["id", "customer_id", "status"]"#),
        ("card", "public.customers null"),
        ("size", r#"public.lines ["order_id"]"#),
        ("prices", r#"public.lines ["product_id"]; public.products ["id", "price"]"#),
    ] {
        assert_eq!(origin.value::<String>(&columns(shard)).await?, expected, "{shard}");
    }
    let nobody: [&str; 0] = [];
    for (change, told) in [
        ("UPDATE customers SET tier = 'lead' WHERE id = 1", vec!["card 1"]),
        ("UPDATE customers SET tier = 'tin', name = 'al' WHERE id = 1", vec!["account 1", "card 1"]),
        // Whole rows: there is no list of columns to compare.
        ("UPDATE customers SET tier = tier, name = name", vec!["card 1 2 3"]),
        ("UPDATE orders SET placed = '2026-02-02'", nobody.to_vec()),
        ("UPDATE orders SET placed = NULL, status = 'shut' WHERE id = 20", vec!["account 2"]),
        ("UPDATE products SET title = upper(title)", nobody.to_vec()),
        ("UPDATE products SET price = price + 1 WHERE id = 7", vec!["prices Whole(Rows)"]),
        // The log has no old row, which says that the primary key stayed; not all of what `prices` reads is in it after a move.
        ("UPDATE lines SET quantity = quantity + 1", nobody.to_vec()),
        ("UPDATE lines SET product_id = 9 WHERE order_id = 20", vec!["prices Whole(Rows)"]),
        ("UPDATE lines SET order_id = 11 WHERE order_id = 20", vec!["size 11 20"]),
        ("DELETE FROM lines WHERE order_id = 11 AND product_id = 7", vec!["prices Whole(Rows)", "size 11"]),
        // What an old row would tell is not in the log any more.
        ("ALTER TABLE customers REPLICA IDENTITY DEFAULT", nobody.to_vec()),
        ("UPDATE customers SET tier = 'zinc' WHERE id = 2", vec!["account 2", "card 2"]),
    ] {
        let mut events = origin.after(change).await?;
        events.sort();
        assert_eq!(events, told, "{change}");
    }
    // A column that is computed when it is read depends on others.
    if origin.value::<i32>("SELECT current_setting('server_version_num')::int / 10000").await? >= 18 {
        origin
            .db
            .batch_execute(
                "CREATE TABLE boxes (id int PRIMARY KEY, width int, height int, area int GENERATED ALWAYS AS (width * height));
                 SELECT foreshard.create_query_shard('areas', 'SELECT sum(area) AS area FROM boxes')",
            )
            .await?;
        assert_eq!(origin.value::<String>(&columns("areas")).await?, "public.boxes null");
    }
    Ok(())
}

#[tokio::test]
async fn definitions_follow_renames_and_notice_what_is_gone() -> Result<()> {
    let origin = Origin::followed(&format!(
        "{SHOP} SELECT foreshard.create_query_shard('q', $q$
            SELECT c.name, o.id FROM customers c JOIN orders o ON o.customer_id = c.id WHERE c.id = $1 ORDER BY o.id $q$, '{{c}}')"
    ))
    .await?;
    let rows = ["ann|10", "ann|11"];
    assert_eq!(origin.rows("q?c=1").await?, rows);
    for change in [
        "ALTER TABLE orders RENAME COLUMN customer_id TO buyer",
        "ALTER TABLE customers RENAME TO people",
        "CREATE SCHEMA shop; ALTER TABLE orders SET SCHEMA shop",
        "ALTER SCHEMA shop RENAME TO \"Shop\"",
        "ALTER TABLE people ADD COLUMN later int",
    ] {
        let events = origin.after(change).await?;
        assert!(
            events.iter().any(|event| event.starts_with("q Whole") || event == "+shard q"),
            "{change}: {events:?}"
        );
        assert_eq!(origin.rows("q?c=1").await?, rows, "{change}");
    }
    assert_eq!(derived(&origin, "q").await?, ["public.people[\"id\"]", "\"Shop\".orders[\"buyer\"]"]);
    let text: String = origin.value("SELECT query FROM foreshard.shards").await?;
    assert!(
        text.contains("public.people c") && text.contains("\"Shop\".orders o") && text.contains("o.buyer"),
        "{text}"
    );
    assert_eq!(origin.after("UPDATE \"Shop\".orders SET buyer = 2 WHERE id = 11").await?, ["q 1 2"]);

    assert!(!origin.after("ALTER TABLE people DROP COLUMN name").await?.is_empty());
    assert_eq!(origin.rows("q?c=1").await?, ["Broken"]);
    let defect: String = origin.value("SELECT defect FROM foreshard.shards").await?;
    assert!(defect.contains("does not exist"), "{defect}");
    assert!(!origin.after("ALTER TABLE people ADD COLUMN name text DEFAULT 'new'").await?.is_empty());
    assert_eq!(origin.rows("q?c=1").await?, ["new|10"]);

    assert!(!origin.after("DROP TABLE people").await?.is_empty());
    assert_eq!(origin.rows("q?c=1").await?, ["Broken"]);
    let made = "CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (1, 'again')";
    assert!(!origin.after(made).await?.is_empty());
    assert_eq!(origin.rows("q?c=1").await?, ["again|10"]);
    assert_eq!(origin.after("UPDATE people SET name = 'x'").await?, ["q 1"]);
    origin.after("ALTER TABLE people ENABLE ROW LEVEL SECURITY").await?;
    assert_eq!(origin.rows("q?c=1").await?, ["Broken"]);
    Ok(())
}

#[tokio::test]
async fn a_query_is_run_with_its_owners_rights_and_the_same_settings() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(&format!(
            "{SHOP} CREATE ROLE definer LOGIN PASSWORD 'definer'; GRANT SELECT ON orders TO definer;
             GRANT SELECT (id, name) ON customers TO definer;
             GRANT USAGE ON SCHEMA foreshard TO definer; GRANT EXECUTE ON FUNCTION foreshard.create_query_shard TO definer"
        ))
        .await?;
    let definer = login(&origin.cluster.url_of("definer", "definer", "postgres")).await?;
    let denied = "SELECT foreshard.create_query_shard('q', 'SELECT c.tier FROM customers c')";
    assert_eq!(error_of(&definer, denied).await?.code().code(), "42501");
    let sees = "SELECT foreshard.create_query_shard('q',
        'SELECT c.name, to_jsonb(o.placed) AS placed, o.placed::text AS t FROM customers c JOIN orders o ON o.customer_id = c.id WHERE c.id = $1 ORDER BY o.id', '{c}')";
    definer.batch_execute(sees).await?;
    origin.map_all().await?;
    let rows = ["ann|\"2026-01-01\"|2026-01-01", "ann|\"2026-01-02\"|2026-01-02"];
    origin.db.batch_execute("SET datestyle = 'German'; SET search_path = nowhere").await?;
    assert_eq!(origin.rows("q?c=1").await?, rows);
    origin.db.batch_execute("REVOKE SELECT ON public.orders FROM definer").await?;
    assert_eq!(origin.rows("q?c=1").await?, ["Broken"]);
    Ok(())
}

#[tokio::test]
async fn a_definition_survives_a_dump_and_changes_only_when_it_differs() -> Result<()> {
    let origin = Origin::start().await?;
    // The list of groups leans on the primary key, which a dump restores last.
    let define = "SELECT foreshard.create_query_shard('q', $q$
        SELECT c.id, c.name, count(o.id) AS n FROM customers c LEFT JOIN orders o ON o.customer_id = c.id
        WHERE c.id = $1 GROUP BY c.id $q$, '{c}', or_replace => true)";
    origin.db.batch_execute(&format!("{SHOP} {define}")).await?;
    origin.map_all().await?;
    let generation = "SELECT generation FROM foreshard.shards";
    let before: i64 = origin.value(generation).await?;
    origin.db.batch_execute(define).await?;
    assert_eq!(origin.value::<i64>(generation).await?, before, "the same definition is no new one");
    let dump = origin.cluster.client_program("pg_dump").output()?;
    assert!(dump.status.success());
    origin.db.batch_execute("CREATE DATABASE copy").await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &dump.stdout)?;
    let restore = origin
        .cluster
        .client_program("psql")
        .args(["-q", "-d", "copy", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(file.path())
        .output()?;
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    let copy = origin.cluster.connect_to("copy").await?;
    let row = copy
        .query_one("SELECT defect, query, depends_on::text, (SELECT count(*) FROM foreshard.mapping) FROM foreshard.shards", &[])
        .await?;
    assert_eq!(row.get::<_, Option<String>>(0), None);
    assert_eq!(row.get::<_, String>(1), origin.value::<String>("SELECT query FROM foreshard.shards").await?);
    assert_eq!(
        row.get::<_, String>(2),
        origin.value::<String>("SELECT depends_on::text FROM foreshard.shards").await?
    );
    assert_eq!(row.get::<_, i64>(3), 1);
    Ok(())
}

#[tokio::test]
async fn health_says_what_would_make_a_query_shard_precise() -> Result<()> {
    let origin = Origin::followed(&format!(
        "{SHOP} ALTER TABLE orders REPLICA IDENTITY DEFAULT;
         SELECT foreshard.create_query_shard('q', 'SELECT id FROM orders WHERE customer_id = $1', '{{c}}')"
    ))
    .await?;
    let health =
        "SELECT status || ' ' || coalesce(fix, '-') FROM foreshard.health() WHERE \"check\" = 'shard q'";
    let fix: String = origin.value(health).await?;
    assert_eq!(fix, "warn ALTER TABLE public.orders REPLICA IDENTITY FULL");
    let moved = "UPDATE orders SET customer_id = 2 WHERE id = 10";
    assert_eq!(origin.after(moved).await?, ["q Whole(OldImage)"]);
    origin.after(fix.trim_start_matches("warn ")).await?;
    assert_eq!(origin.value::<String>(health).await?, "ok -");
    assert_eq!(origin.after("UPDATE orders SET customer_id = 1 WHERE id = 10").await?, ["q 1 2"]);
    origin.db.batch_execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY").await?;
    assert_eq!(
        origin.value::<String>(health).await?,
        "fail ALTER TABLE public.orders DISABLE ROW LEVEL SECURITY"
    );
    Ok(())
}

//! The same rows, filtered and written in every way.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_ipc::reader::StreamReader;
use foreshard_protocol::{ColumnKind, RowSet, decode};
use foreshard_tests::{Sidecar, eventually};
use serde_json::{Value, json};

use crate::shop::Shop;

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// A table in which every comparison makes a difference.
const ITEMS: &str = "
    CREATE TABLE item (id int PRIMARY KEY, name text, price numeric, sold bool, day date, at timestamptz);
    INSERT INTO item VALUES
        (1, 'apple', 1.50, true, '2024-01-01', '2024-01-01 10:00+00'),
        (2, 'Apple', 10, false, '2024-02-01', '2024-01-01 12:00+02'),
        (3, 'a,b', 'NaN', NULL, 'infinity', '-infinity'),
        (4, 'per%cent', 0.05, true, NULL, NULL),
        (5, NULL, NULL, false, '0044-03-15 BC', '2024-06-01 00:00+00'),
        (6, 'x(y)', -3, NULL, '1999-12-31', '2023-12-31 23:59:59.999999+00');
    SELECT foreshard.create_shard('items', 'item');
    SELECT foreshard.map_function('list', '{items}');";

async fn open() -> Result<(Shop, Sidecar)> {
    let shop = Shop::open().await?;
    shop.db.batch_execute(ITEMS).await?;
    let edge = Sidecar::start(&shop.login).await?;
    Ok((shop, edge))
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_select_what_sql_would() -> Result<()> {
    let (shop, edge) = open().await?;
    for (query, sql) in [
        ("id=eq.2", "id = 2"),
        ("id=neq.2", "id <> 2"),
        ("price=gt.1.5", "price > 1.5"),
        ("price=gte.1.500", "price >= 1.5"),
        ("price=lt.10", "price < 10"),
        ("price=lte.-3", "price <= -3"),
        ("price=eq.NaN", "price = 'NaN'"),
        ("id=in.(1,3,99)", "id IN (1, 3, 99)"),
        ("id=in.()", "false"),
        ("name=in.(\"a,b\",apple)", "name IN ('a,b', 'apple')"),
        ("id=not.in.(1,2)", "id NOT IN (1, 2)"),
        ("name=is.null", "name IS NULL"),
        ("name=not.is.null", "name IS NOT NULL"),
        ("sold=is.true", "sold IS TRUE"),
        ("sold=is.false", "sold IS FALSE"),
        ("sold=is.unknown", "sold IS UNKNOWN"),
        ("sold=not.is.true", "sold IS NOT TRUE"),
        ("name=like.*pple", "name LIKE '%pple'"),
        ("name=ilike.APP*", "name ILIKE 'APP%'"),
        ("name=like.a_b", "name LIKE 'a_b'"),
        ("name=not.ilike.*p*", "name NOT ILIKE '%p%'"),
        ("day=gt.2024-01-01", "day > '2024-01-01'"),
        ("at=lte.2024-01-01T10:00:00Z", "at <= '2024-01-01 10:00+00'"),
        ("id=gt.1&id=lt.4", "id > 1 AND id < 4"),
        ("or=(id.eq.1,and(id.gt.3,sold.is.true))", "id = 1 OR (id > 3 AND sold)"),
        ("and=(id.gt.1,not.or(sold.is.true,name.is.null))", "id > 1 AND NOT (sold IS TRUE OR name IS NULL)"),
        ("not.and=(id.gt.1,id.lt.4)", "NOT (id > 1 AND id < 4)"),
        ("or=(name.eq.\"a,b\",name.eq.\"x(y)\")", "name IN ('a,b', 'x(y)')"),
        ("name=eq.x%28y%29", "name = 'x(y)'"),
    ] {
        let sql = format!("SELECT coalesce(array_agg(id ORDER BY id), '{{}}') FROM item WHERE {sql}");
        let expected: Vec<i32> = shop.db.query_one(&sql, &[]).await.context(query)?.get(0);
        let encoded = query.replace('"', "%22");
        let answer = edge.http.rows("list", "items", &encoded, &[]).await?;
        ensure!(answer.status == 200, "{query}: {}", answer.text());
        let rows = answer.json()?;
        let found: Vec<_> = rows.as_array().into_iter().flatten().map(|row| row["id"].clone()).collect();
        assert_eq!(Value::from(found), json!(expected), "{query}");
    }
    for (query, expected) in [
        ("order=id.desc&limit=2", json!([{"id": 6}, {"id": 5}])),
        ("order=id&offset=4", json!([{"id": 5}, {"id": 6}])),
        ("order=price.desc.nullslast,id&limit=2", json!([{"id": 3}, {"id": 2}])),
        ("order=price.nullsfirst&limit=1", json!([{"id": 5}])),
        ("order=sold,id.desc&limit=3", json!([{"id": 5}, {"id": 2}, {"id": 4}])),
        ("limit=0", json!([])),
    ] {
        let answer = edge.http.rows("list", "items", &format!("select=id&{query}"), &[]).await?;
        assert_eq!(answer.json()?, expected, "{query}");
    }
    Ok(())
}

/// Types whose text is not the value, and of which one value has several texts.
const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE thing (id int PRIMARY KEY, c char(5), u uuid, m mood, y money, b bytea, tags text[], i interval, n inet, d date,
        tz timestamptz, r int4range, o oid, t time, w macaddr);
    INSERT INTO thing VALUES
        (1, 'ab', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'happy', 9, '\\xdeadbeef', '{a,b1}', '1 mon', '10.0.0.9', '0044-03-15 BC',
            '2026-01-02 03:04:05.6+00', '[1,5)', 9, '09:00', '08:00:2b:01:02:03'),
        (2, 'abc', 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'sad', 1000.5, '\\x00', '{}', '9 days', '10.0.0.0/8', '12026-01-01',
            '0001-01-01 00:00+00 BC', '[2,3)', 10, '10:30:00.5', '00:00:2b:01:02:03'),
        (3, '', NULL, 'ok', -2, '', NULL, '-1 day', '::1', '2026-01-02', 'infinity', NULL, NULL, NULL, NULL);
    SELECT foreshard.create_shard('things', 'thing');
    SELECT foreshard.map_function('compare', '{things}');";

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_compared_as_sql_would_or_not_at_all() -> Result<()> {
    let shop = Shop::open().await?;
    shop.db.batch_execute(TYPES).await?;
    let edge = Sidecar::start(&shop.login).await?;
    for (query, sql) in [
        ("c=eq.ab", "c = 'ab'"),
        ("c=gt.ab", "c > 'ab' COLLATE \"C\""),
        ("u=eq.A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "u = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"),
        ("u=gt.a0eebc999c0b4ef8bb6d6bb9bd380a11", "u > 'a0eebc999c0b4ef8bb6d6bb9bd380a11'"),
        ("m=in.(sad,happy)", "m IN ('sad', 'happy')"),
        ("y=gt.10", "y > '10'"),
        ("y=eq.$1,000.50", "y = '$1,000.50'"),
        ("b=eq.\\xDEADBEEF", "b = '\\xDEADBEEF'"),
        ("b=lt.\\x0A", "b < '\\x0A'"),
        ("i=gt.10 days", "i > '10 days'"),
        ("i=eq.30 days", "i = '30 days'"),
        ("n=lt.10.0.0.10", "n < '10.0.0.10'"),
        ("n=eq.10.0.0.9/32", "n = '10.0.0.9/32'"),
        ("d=lt.0001-01-01", "d < '0001-01-01'"),
        ("d=gt.9999-12-31", "d > '9999-12-31'"),
        ("d=eq.2026-01-02 12:00", "d = '2026-01-02 12:00'"),
        ("tz=eq.2026-01-02 03:04:05.6%2B00", "tz = '2026-01-02 03:04:05.6+00'"),
        ("tz=lt.1900-01-01", "tz < '1900-01-01 00:00+00'"),
        ("o=gt.9", "o > '9'"),
        ("t=eq.09:00", "t = '09:00'"),
        ("w=eq.08002B:010203", "w = '08002B:010203'"),
        ("r=is.not_null", "r IS NOT NULL"),
    ] {
        let sql = format!("SELECT coalesce(array_agg(id ORDER BY id), '{{}}') FROM thing WHERE {sql}");
        let expected: Vec<i32> = shop.db.query_one(&sql, &[]).await.context(query)?.get(0);
        let answer = edge.http.rows("compare", "things", &query.replace(' ', "%20"), &[]).await?;
        ensure!(answer.status == 200, "{query}: {}", answer.text());
        let rows = answer.json()?;
        let found: Vec<_> = rows.as_array().into_iter().flatten().map(|row| row["id"].clone()).collect();
        assert_eq!(Value::from(found), json!(expected), "{query}");
    }
    for column in ["c COLLATE \"C\"", "u", "y", "b", "i", "n", "d", "tz", "o", "t", "w"] {
        let name = column.split(' ').next().unwrap_or_default();
        let sql = format!("SELECT array_agg(id ORDER BY {column}, id) FROM thing");
        let expected: Vec<i32> = shop.db.query_one(&sql, &[]).await.context(column)?.get(0);
        let rows = edge.http.rows("compare", "things", &format!("order={name}"), &[]).await?.json()?;
        let found: Vec<_> = rows.as_array().into_iter().flatten().map(|row| row["id"].clone()).collect();
        assert_eq!(Value::from(found), json!(expected), "{column}");
    }
    for query in ["m=gt.sad", "order=m", "tags=eq.{a,b1}", "order=tags", "r=eq.[1,5)", "r=lt.[1,5)"] {
        let query = query.replace('{', "%7B").replace('}', "%7D").replace('[', "%5B");
        let answer = edge.http.rows("compare", "things", &query, &[]).await?;
        ensure!(answer.status == 400 && answer.text().contains("bad-filter"), "{query}: {}", answer.text());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_has_the_same_rows() -> Result<()> {
    let (_shop, edge) = open().await?;
    let get = async |accept: &str, query: &str| {
        let answer = edge.http.rows("list", "items", query, &[("Accept", accept)]).await?;
        ensure!(answer.status == 200, "{accept}: {}", answer.text());
        ensure!(answer.header("content-type") == Some(accept), "{accept}: {:?}", answer.headers);
        for name in ["etag", "age", "server-timing", "foreshard-lsn", "cache-status", "vary"] {
            ensure!(answer.header(name).is_some(), "{accept} lacks {name}");
        }
        Ok(answer)
    };
    let json = get("application/json", "").await?;
    let rows = json.json()?;
    let lines = get("application/x-ndjson", "").await?.text();
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(Value::from(lines), rows);

    let arrow = get("application/vnd.apache.arrow.stream", "").await?;
    let batches: Vec<_> = StreamReader::try_new(&arrow.body[..], None)?.collect::<Result<_, _>>()?;
    let [batch] = &batches[..] else { anyhow::bail!("{} batches", batches.len()) };
    assert_eq!((batch.num_rows(), batch.num_columns()), (6, 6));
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values().to_vec(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(batch.column(1).as_string::<i32>().value(2), "a,b");
    assert_eq!((batch.column(2).as_string::<i32>().value(0), batch.column(2).null_count()), ("1.50", 1));

    let picked = get("application/x-bincode", "select=id,label:name&id=lte.2").await?;
    let set: RowSet = decode(&picked.body)?;
    let columns: Vec<_> = set.columns.iter().map(|column| (column.name.as_str(), column.kind)).collect();
    assert_eq!(columns, [("id", ColumnKind::Int), ("label", ColumnKind::Text)]);
    assert_eq!(set.rows[1], [Some("2".to_owned()), Some("Apple".to_owned())]);

    for accept in ["text/html", "application/json;q=0", "image/*"] {
        let answer = edge.http.rows("list", "items", "", &[("Accept", accept)]).await?;
        assert_eq!(answer.status, 406, "{accept}");
    }
    let binary = [("Accept", "application/x-bincode")];
    assert_eq!(
        edge.http.invoke("list", &json!({}), &binary).await?.status,
        406,
        "an invocation is one document"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_compressed_for_those_who_ask() -> Result<()> {
    let (shop, edge) = open().await?;
    shop.db
        .batch_execute("INSERT INTO item SELECT i, 'item ' || i FROM generate_series(100, 3000) i")
        .await?;
    let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    let plain = edge.http.rows("list", "items", "", &[("Foreshard-Min-Lsn", &token)]).await?;
    ensure!(plain.header("content-encoding").is_none() && plain.body.len() > 64 << 10);
    let decompress = |encoding: &str, body: &[u8]| -> Result<Vec<u8>> {
        let mut out = Vec::new();
        match encoding {
            "zstd" => zstd::Decoder::new(body)?.read_to_end(&mut out)?,
            _ => flate2::read::GzDecoder::new(body).read_to_end(&mut out)?,
        };
        Ok(out)
    };
    let mut tags = vec![plain.header("etag").unwrap_or_default().to_owned()];
    for encoding in ["zstd", "gzip"] {
        let headers = [("Accept-Encoding", encoding)];
        // The second one comes from what was compressed before.
        for _ in 0..2 {
            let answer = edge.http.rows("list", "items", "", &headers).await?;
            assert_eq!(answer.header("content-encoding"), Some(encoding));
            assert_eq!(decompress(encoding, &answer.body)?, plain.body);
            ensure!(answer.header("vary").is_some_and(|names| names.contains("accept-encoding")));
            tags.push(answer.header("etag").unwrap_or_default().to_owned());
        }
        let etag = tags.last().cloned().unwrap_or_default();
        let again = [("Accept-Encoding", encoding), ("If-None-Match", etag.as_str())];
        assert_eq!(edge.http.rows("list", "items", "", &again).await?.status, 304);
        let lines = [("Accept-Encoding", encoding), ("Accept", "application/x-ndjson")];
        let answer = edge.http.rows("list", "items", "id=lt.1000", &lines).await?;
        assert_eq!(decompress(encoding, &answer.body)?.iter().filter(|byte| **byte == b'\n').count(), 906);
        let whole = edge.http.invoke("list", &json!({}), &headers).await?;
        let whole: Value = serde_json::from_slice(&decompress(encoding, &whole.body)?)?;
        assert_eq!(whole["shards"]["items"]["rows"], plain.json()?);
    }
    tags.dedup();
    assert_eq!(tags.len(), 3, "an entity tag for each way to write it: {tags:?}");
    let small = edge.http.rows("list", "items", "id=eq.1", &[("Accept-Encoding", "zstd")]).await?;
    ensure!(small.header("content-encoding").is_none(), "not worth it");

    // What was compressed is never served once the rows have changed.
    shop.db.batch_execute("UPDATE item SET name = 'new' WHERE id = 1").await?;
    eventually("the change arrives", SOON, || async {
        let answer = edge.http.rows("list", "items", "", &[("Accept-Encoding", "zstd")]).await?;
        let rows: Value = serde_json::from_slice(&decompress("zstd", &answer.body)?)?;
        Ok((rows[0]["name"] == json!("new")).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_names_every_route_and_format() -> Result<()> {
    let (_shop, edge) = open().await?;
    let document = edge.http.get("/openapi.json").await?.json()?;
    let paths: Vec<&String> = document["paths"].as_object().context("no paths")?.keys().collect();
    for path in [
        "/v1/functions/{function_id}/shards/{shard}/rows",
        "/v1/functions/{function_id}/invocations",
        "/v1/functions/{function_id}/shards",
        "/v1/schedule",
        "/live",
        "/ready",
        "/metrics",
    ] {
        ensure!(paths.iter().any(|known| *known == path), "{path} is missing");
        if !path.contains('{') {
            assert_eq!(edge.http.get(path).await?.status, 200, "{path}");
        }
    }
    let answer =
        &document["paths"]["/v1/functions/{function_id}/shards/{shard}/rows"]["get"]["responses"]["200"];
    for format in [
        "application/json",
        "application/x-ndjson",
        "application/vnd.apache.arrow.stream",
        "application/x-bincode",
    ] {
        ensure!(answer["content"].get(format).is_some(), "{format} is missing");
    }
    ensure!(answer["headers"].get("Foreshard-Lsn").is_some());
    Ok(())
}

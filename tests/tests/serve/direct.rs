//! A connection that asks for rows and nothing else is answered without a framework: what it gets is the same to the byte.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use foreshard_tests::{Endpoint, Sidecar};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::shop::Shop;

/// A field that says what is true of every GET, and that only the framework takes.
const FRAMEWORK: &str = "content-length: 0\r\n";

async fn open(edge: &Sidecar) -> Result<UnixStream> {
    let Endpoint::Unix(path) = edge.http.endpoint() else { bail!("not on a Unix socket") };
    Ok(UnixStream::connect(path).await?)
}

#[derive(Debug, PartialEq)]
struct Raw {
    status: String,
    fields: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Reads one answer; what is true only of the moment is taken out of it.
async fn answer(stream: &mut UnixStream) -> Result<Raw> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the answer ends early")?);
    }
    let head = String::from_utf8(head)?;
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap_or_default().to_owned();
    let mut fields: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = fields.get("content-length").map_or(Ok(0), |length| length.parse::<usize>())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    for name in ["date", "server-timing"] {
        fields.remove(name);
    }
    for (name, moment) in [("age", "a number"), ("foreshard-lsn", "a position")] {
        if let Some(value) = fields.get_mut(name) {
            *value = moment.into();
        }
    }
    Ok(Raw { status, fields, body })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_same_on_both_ways() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    for warm in ["customer_id=eq.1", "customer_id=eq.2", "customer_id=eq.0001"] {
        ensure!(edge.http.rows("checkout", "cart", warm, &[]).await?.status == 200);
    }
    ensure!(edge.http.rows("checkout", "products", "", &[]).await?.status == 200);
    let held = edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
    let etag = format!("if-none-match: {}\r\n", held.header("etag").context("no etag")?);
    let rows = |function: &str, shard: &str, query: &str| {
        format!("/v1/functions/{function}/shards/{shard}/rows{query}")
    };
    let mut direct = open(&edge).await?;
    let mut framework = open(&edge).await?;
    for (target, fields) in [
        (rows("checkout", "cart", "?customer_id=eq.1"), ""),
        (rows("checkout", "cart", "?customer_id=eq.1"), etag.as_str()),
        (rows("checkout", "cart", "?customer_id=eq.0001"), ""),
        (rows("checkout", "cart", "?customer_id=eq.2&select=quantity&limit=1"), ""),
        (rows("checkout", "cart", "?customer_id=eq.2&limit=-1"), ""),
        (rows("checkout", "cart", "?customer_id=gt.2"), ""),
        (rows("checkout", "cart", "?customer_id=eq.%FF"), ""),
        (rows("checkout", "cart", ""), ""),
        (rows("checkout", "products", ""), "accept: application/x-ndjson\r\n"),
        (rows("checkout", "products", ""), "accept: text/html\r\n"),
        (rows("checkout", "products", ""), "accept-encoding: gzip\r\n"),
        (rows("checkout", "products", ""), "foreshard-min-lsn: 0/1\r\n"),
        (rows("checkout", "products", ""), "foreshard-min-lsn: soon\r\n"),
        (rows("checkout", "nothing", ""), ""),
        (rows("check%6Fut", "products", ""), ""),
        (rows("nobody", "products", ""), ""),
        (rows("%FF", "products", ""), ""),
        (rows(&"9".repeat(20_000), "products", ""), ""),
        // Twice, because what was answered once is answered from what is known of it.
        (rows("checkout", "cart", "?customer_id=eq.1"), ""),
        (rows("checkout", "products", ""), ""),
    ] {
        let mut answers = Vec::new();
        for (stream, more) in [(&mut direct, ""), (&mut framework, FRAMEWORK)] {
            let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n{fields}{more}\r\n");
            stream.write_all(request.as_bytes()).await?;
            answers.push(answer(stream).await.with_context(|| format!("{target:.100} {fields}{more}"))?);
        }
        assert_eq!(answers[0], answers[1], "{target:.100} {fields}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_come_at_once_in_pieces_and_change_their_kind() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let rows = "/v1/functions/checkout/shards/cart/rows?customer_id=eq.1";
    let mut stream = open(&edge).await?;
    // Three at once, the first of which has to wait for the origin.
    stream.write_all(get(rows).repeat(3).as_bytes()).await?;
    for _ in 0..3 {
        let got = answer(&mut stream).await?;
        assert_eq!((got.status.as_str(), got.body.is_empty()), ("HTTP/1.1 200 OK", false));
    }
    // One whole and half of the next, then the rest and another kind.
    let second = get(rows);
    let (start, rest) = second.split_at(40);
    stream.write_all(format!("{}{start}", get(rows)).as_bytes()).await?;
    assert_eq!(answer(&mut stream).await?.status, "HTTP/1.1 200 OK");
    stream.write_all(format!("{rest}{}{}", get("/live"), get(rows)).as_bytes()).await?;
    for _ in 0..3 {
        assert_eq!(answer(&mut stream).await?.status, "HTTP/1.1 200 OK");
    }
    stream.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    assert_eq!(answer(&mut stream).await?.status, "HTTP/1.1 200 OK");
    assert_eq!(stream.read(&mut [0]).await?, 0, "closed as asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_target_ends_with_its_mapping() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = Sidecar::start(&shop.login).await?;
    let status = async || {
        let answer = edge.http.rows("checkout", "products", "", &[]).await?;
        anyhow::Ok(answer.status.as_u16())
    };
    for _ in 0..3 {
        assert_eq!(status().await?, 200);
    }
    shop.db.batch_execute("SELECT foreshard.unmap_function('checkout')").await?;
    let soon = std::time::Duration::from_secs(20);
    foreshard_tests::eventually("it is refused", soon, || async {
        Ok((status().await? == 404).then_some(()))
    })
    .await
}

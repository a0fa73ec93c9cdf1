//! What one client can't take from the others.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use foreshard_tests::{Endpoint, Sidecar, SidecarOptions, eventually};
use hyper::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::shop::Shop;

const SOON: Duration = Duration::from_secs(30);

async fn start(shop: &Shop, settings: &[(&str, &str)]) -> Result<Sidecar> {
    let environment = settings.iter().map(|(name, value)| (format!("FORESHARD_{name}"), (*value).to_owned()));
    let options = SidecarOptions { environment: environment.collect(), ..SidecarOptions::of(&shop.login) };
    options.start().await
}

async fn open(edge: &Sidecar) -> Result<UnixStream> {
    let Endpoint::Unix(path) = edge.http.endpoint() else { bail!("not on a Unix socket") };
    Ok(UnixStream::connect(path).await?)
}

/// All that the sidecar still says on this connection; it must close it soon.
async fn rest(stream: &mut UnixStream) -> Result<String> {
    let mut answer = Vec::new();
    // A connection that is reset has ended, too.
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_dawdle_are_cut_off() -> Result<()> {
    let shop = Shop::open().await?;
    let times = [("HEAD_TIMEOUT", "300ms"), ("BODY_TIMEOUT", "300ms"), ("WRITE_TIMEOUT", "300ms")];
    let edge = start(&shop, &times).await?;
    let mut head = open(&edge).await?;
    head.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nx-slow: ").await?;
    let said = rest(&mut head).await?;
    assert!(!said.contains("200"), "{said}");

    let mut silent = open(&edge).await?;
    assert_eq!(rest(&mut silent).await?, "", "a connection that says nothing");

    let mut body = open(&edge).await?;
    let post = "POST /v1/functions/checkout/invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    body.write_all(post.as_bytes()).await?;
    let said = rest(&mut body).await?;
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("urn:foreshard:problem:slow"), "{said}");

    // A client that asks and never reads: its answers fill the socket, and then it is gone.
    let mut deaf = open(&edge).await?;
    let request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
    let deaf = timeout(SOON, async { while deaf.write_all(&request).await.is_ok() {} }).await;
    ensure!(deaf.is_ok(), "still open");
    assert_eq!(edge.http.get("/live").await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_too_large_are_refused_by_kind() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = start(&shop, &[("MAX_BODY", "1KiB"), ("MAX_HEAD", "16KiB"), ("MAX_URL", "2KiB")]).await?;
    let long_url = format!("/v1/functions/checkout/shards/products/rows?id=in.({})", "1,".repeat(2000));
    let answer = edge.http.get(&long_url).await?;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (414, Some("application/problem+json"))
    );
    let long_header = "x".repeat(20_000);
    let answer = edge.http.get_with("/live", &[("x-long", &long_header)]).await?;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (431, Some("application/problem+json"))
    );
    let mut many = open(&edge).await?;
    many.write_all(format!("GET /live HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(300)).as_bytes())
        .await?;
    let said = rest(&mut many).await?;
    assert!(said.starts_with("HTTP/1.1 431") && said.contains("problem:too-large"), "{said}");
    // Whether the request is simple or not.
    for (fields, length, status) in [
        ("", 16384, "200"),
        ("", 16385, "431"),
        ("content-length: 0\r\n", 16384, "200"),
        ("content-length: 0\r\n", 16385, "431"),
    ] {
        let start =
            format!("GET /v1/functions/checkout/shards/products/rows HTTP/1.1\r\nhost: x\r\n{fields}a: ");
        let head = format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4));
        let mut exact = open(&edge).await?;
        exact.write_all(head.as_bytes()).await?;
        let mut answer = [0; 12];
        timeout(SOON, exact.read_exact(&mut answer)).await??;
        assert_eq!(&answer[9..], status.as_bytes(), "{fields} {length}");
    }
    let mut garbage = open(&edge).await?;
    garbage.write_all(b"garbage\r\n\r\n").await?;
    let said = rest(&mut garbage).await?;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("problem:bad-head"), "{said}");
    for path in ["/v1/functions/%ff/shards", "/v1/functions/%ff/shards/products/rows"] {
        let answer = edge.http.get(path).await?;
        let what = (answer.status.as_u16(), answer.header("content-type"));
        assert_eq!(what, (404, Some("application/problem+json")), "{path}");
    }
    let answer = edge.http.request(Method::POST, "/v1/functions/%ff/invocations", &[], "{}".into()).await?;
    let what = (answer.status.as_u16(), answer.header("content-type"));
    assert_eq!(what, (404, Some("application/problem+json")));
    // Said to be too large, and found to be too large.
    for head in ["content-length: 2000", "transfer-encoding: chunked"] {
        let mut body = open(&edge).await?;
        let chunk =
            if head.contains("chunked") { format!("7d0\r\n{}\r\n", "x".repeat(2000)) } else { String::new() };
        let post =
            format!("POST /v1/functions/checkout/invocations HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{chunk}");
        body.write_all(post.as_bytes()).await?;
        let mut answer = [0; 12];
        timeout(SOON, body.read_exact(&mut answer)).await??;
        assert_eq!(&answer, b"HTTP/1.1 413", "{head}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_there_are_places_for_are_asked_to_come_back() -> Result<()> {
    let shop = Shop::open().await?;
    let times = [("FETCH_TIMEOUT", "60s"), ("REQUEST_TIMEOUT", "60s")];
    let edge = start(&shop, &[&[("MAX_REQUESTS", "1")], &times[..]].concat()).await?;
    shop.db.batch_execute("BEGIN; LOCK TABLE product IN ACCESS EXCLUSIVE MODE").await?;
    let rows = "/v1/functions/checkout/shards/products/rows";
    let mut busy = open(&edge).await?;
    busy.write_all(format!("GET {rows} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
    // Asked for something that waits for nothing.
    eventually("the place is taken", SOON, || async {
        Ok((edge.http.get("/v1/schedule").await?.status == 503).then_some(()))
    })
    .await?;
    let refused = edge.http.get(rows).await?;
    assert_eq!(refused.status, 503);
    assert!(
        refused.header("retry-after").is_some() && refused.text().contains("overloaded"),
        "{}",
        refused.text()
    );
    for path in ["/live", "/ready", "/metrics"] {
        assert_eq!(edge.http.get(path).await?.status, 200, "{path} of a busy sidecar");
    }
    shop.db.batch_execute("COMMIT").await?;
    let mut answer = [0; 12];
    timeout(SOON, busy.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"HTTP/1.1 200");
    // Its place was given back before its answer was sent.
    assert_eq!(edge.http.get(rows).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_take_nobody_s_place() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = start(&shop, &[("MAX_REQUESTS", "1"), ("BODY_TIMEOUT", "60s")]).await?;
    let mut dawdling = Vec::new();
    for _ in 0..3 {
        let mut stream = open(&edge).await?;
        let post = "POST /v1/functions/checkout/invocations HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
        stream.write_all(post.as_bytes()).await?;
        // Asked for its body it is being waited for.
        let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
        timeout(SOON, stream.read_exact(&mut go_on)).await??;
        assert!(go_on.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&go_on));
        dawdling.push(stream);
    }
    assert_eq!(edge.http.rows("checkout", "products", "", &[]).await?.status, 200);
    // Where no body is expected none is waited for.
    let mut elsewhere = open(&edge).await?;
    elsewhere.write_all(b"POST /whatever HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n").await?;
    let mut answer = [0; 12];
    timeout(SOON, elsewhere.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"HTTP/1.1 404");
    let Some(mut last) = dawdling.pop() else { bail!("none was opened") };
    last.write_all(b"{}").await?;
    timeout(SOON, last.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"HTTP/1.1 400", "a parameter is missing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_are_not_there_are_told_which_are() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = start(&shop, &[]).await?;
    let rows = "/v1/functions/checkout/shards/products/rows";
    for (method, path, allow) in [
        (Method::POST, rows, "GET"),
        (Method::DELETE, rows, "GET"),
        (Method::GET, "/v1/functions/checkout/invocations", "POST"),
        (Method::PUT, "/v1/schedule", "GET"),
    ] {
        let answer = edge.http.request(method.clone(), path, &[], "{}".into()).await?;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert!(
            answer.header("allow").is_some_and(|methods| methods.contains(allow)),
            "{:?}",
            answer.headers
        );
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let (got, head) =
        (edge.http.get(rows).await?, edge.http.request(Method::HEAD, rows, &[], "".into()).await?);
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(got.body.len().to_string().as_str()));
    assert_eq!(head.header("etag"), got.header("etag"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_reads_a_file() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = start(&shop, &[]).await?;
    for path in [
        "/etc/passwd",
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/../../etc/passwd",
        "/v1/functions/..%2f..%2fetc%2fpasswd/shards/products/rows",
        "/v1/functions/checkout/shards/..%2f..%2f..%2fetc%2fpasswd/rows",
        "/v1/functions/%2fetc%2fpasswd/shards",
        "/openapi.json/../../etc/passwd",
        "//etc/passwd",
        "/page.html",
    ] {
        let answer = edge.http.get(path).await?;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(!answer.text().contains("root:"), "{path}");
    }
    Ok(())
}

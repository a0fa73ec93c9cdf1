//! The kit keeps its own promises: a cluster starts, stops, crashes and comes back; a link delays, stalls and breaks.

use std::time::{Duration, Instant};

use anyhow::Result;
use foreshard_tests::{Cluster, ClusterOptions, DelayProxy, StopMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_cluster_survives_every_way_of_stopping() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let db = cluster.connect().await?;
    db.batch_execute("CREATE TABLE kept (n int PRIMARY KEY); INSERT INTO kept VALUES (1)").await?;
    for mode in [StopMode::Fast, StopMode::Immediate] {
        cluster.restart(mode).await?;
        let rows: i64 = cluster.connect().await?.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
        assert_eq!(rows, 1, "after {mode:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cluster_is_set_up_for_logical_decoding_unless_told_otherwise() -> Result<()> {
    let cluster = Cluster::start().await?;
    let usual = cluster.connect().await?;
    let level: String = usual.query_one("SHOW wal_level", &[]).await?.get(0);
    assert_eq!(level, "logical");
    let plugin = "SELECT pg_create_logical_replication_slot('s', 'test_decoding', true)";
    usual.execute(plugin, &[]).await?;

    let mut options = ClusterOptions::new()?;
    options.wal_level = "replica".to_owned();
    options.output_plugins = None;
    let bare = options.start().await?;
    let level: String = bare.connect().await?.query_one("SHOW wal_level", &[]).await?.get(0);
    assert_eq!(level, "replica");
    Ok(())
}

/// A server that sends back what it receives.
async fn echo() -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    Ok(address)
}

const ONE_WAY: Duration = Duration::from_millis(40);

#[tokio::test]
async fn a_link_delays_each_direction_and_keeps_order() -> Result<()> {
    let proxy = DelayProxy::start(echo().await?, ONE_WAY).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await?;

    let began = Instant::now();
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut received = vec![0; sent.len()];
    let (mut read, mut write) = stream.split();
    // Many writes under way at a time: each has the delay, they do not add up.
    let (wrote, was_read) = tokio::join!(
        async {
            for chunk in sent.chunks(1000) {
                write.write_all(chunk).await?;
            }
            Ok::<_, std::io::Error>(())
        },
        read.read_exact(&mut received)
    );
    wrote?;
    was_read?;
    let took = began.elapsed();
    assert_eq!(received, sent);
    assert!(took >= 2 * ONE_WAY, "{took:?} is less than the delay of both directions");
    assert!(took < 20 * ONE_WAY, "{took:?}: delays of chunks add up");
    Ok(())
}

#[tokio::test]
async fn a_cut_link_resets_and_a_restored_one_works() -> Result<()> {
    let proxy = DelayProxy::start(echo().await?, Duration::ZERO).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await?;
    proxy.cut();
    assert!(matches!(stream.read(&mut [0]).await, Err(_) | Ok(0)));
    proxy.restore();
    let mut again = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    again.write_all(b"y").await?;
    let mut byte = [0];
    again.read_exact(&mut byte).await?;
    assert_eq!(&byte, b"y");
    Ok(())
}

#[tokio::test]
async fn a_stalled_link_holds_bytes_back_and_loses_none() -> Result<()> {
    let proxy = DelayProxy::start(echo().await?, Duration::ZERO).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await?;
    proxy.stall();
    stream.write_all(b"held").await?;
    let early = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0])).await;
    assert!(early.is_err(), "something arrived over a stalled link");
    proxy.restore();
    let mut held = [0; 4];
    stream.read_exact(&mut held).await?;
    assert_eq!(&held, b"held");
    Ok(())
}

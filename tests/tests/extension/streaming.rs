//! What only a walsender meets: it goes on while rights and partitions change, and has no snapshot of a statement.

use std::time::Duration;

use anyhow::{Context, Result};
use foreshard_protocol::{Event, Frame, decode};
use foreshard_tests::{EdgeLogin, Sidecar, eventually};
use pg_walstream::{CancellationToken, PgReplicationConnection};
use tokio::time::timeout;

use crate::origin::{Origin, in_words};

const SOON: Duration = Duration::from_secs(30);

/// A connection that follows an edge's stream.
struct Stream {
    connection: PgReplicationConnection,
    never: CancellationToken,
}

impl Stream {
    async fn of(origin: &Origin, login_url: &str, edge: &str) -> Result<Stream> {
        let create =
            format!("SELECT pg_create_logical_replication_slot(foreshard.edge_slot('{edge}'), 'foreshard')");
        origin.db.batch_execute(&create).await?;
        let slot: String = origin.value(&format!("SELECT foreshard.edge_slot('{edge}')")).await?;
        let url = format!("{login_url}?replication=database&sslmode=disable");
        let edge = edge.to_owned();
        let connection = tokio::task::spawn_blocking(move || -> Result<PgReplicationConnection> {
            let mut connection = PgReplicationConnection::connect(&url)?;
            connection.start_replication(
                &slot,
                0,
                &[("edge", &edge), ("protocol", "2"), ("deltas", "on")],
            )?;
            Ok(connection)
        });
        Ok(Stream { connection: connection.await??, never: CancellationToken::new() })
    }

    /// The next frame, or the error that the stream ended with.
    async fn next(&mut self) -> Result<Frame> {
        loop {
            let data = self.connection.get_copy_data_async(&self.never);
            let data = timeout(SOON, data).await.context("nothing comes")??;
            if data.first() == Some(&b'w') {
                return Ok(decode(&data[25..])?);
            }
        }
    }

    /// Events up to one of this shard, in words.
    async fn up_to(&mut self, shard: &str) -> Result<Vec<String>> {
        let mut words = Vec::new();
        loop {
            let frame = self.next().await?;
            words.extend(in_words(std::slice::from_ref(&frame)));
            if frame
                .events
                .iter()
                .any(|event| matches!(event, Event::Shard { shard: told, .. } if told == shard))
            {
                return Ok(words);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_gone_while_its_detachment_waits_for_readers() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (10);
             CREATE TABLE high PARTITION OF root FOR VALUES FROM (10) TO (20);
             INSERT INTO root VALUES (1), (11); CREATE TABLE mark (id int PRIMARY KEY);
             SELECT foreshard.create_shard('root', 'root'); SELECT foreshard.create_shard('mark', 'mark')",
        )
        .await?;
    origin.map_all().await?;
    let mut stream = Stream::of(&origin, &origin.cluster.url(), "jfk").await?;
    origin.db.batch_execute("INSERT INTO mark VALUES (1)").await?;
    assert_eq!(stream.up_to("mark").await?, ["mark +1"]);
    let reader = origin.cluster.connect().await?;
    reader.batch_execute("BEGIN; SELECT * FROM root").await?;
    let detaching = origin.cluster.connect().await?;
    let detachment = tokio::spawn(async move {
        detaching.batch_execute("ALTER TABLE root DETACH PARTITION high CONCURRENTLY").await
    });
    eventually("the first half of the detachment", SOON, || async {
        let rows: i64 = origin.value("SELECT count(*) FROM root").await?;
        Ok((rows == 1).then_some(()))
    })
    .await?;
    origin.db.batch_execute("INSERT INTO mark VALUES (2)").await?;
    assert_eq!(stream.up_to("mark").await?, ["root Whole(Ddl)", "mark +2"]);
    // Its rows are no longer the root's, and it is no news when the wait is over.
    origin.db.batch_execute("INSERT INTO high VALUES (12); INSERT INTO mark VALUES (3)").await?;
    assert_eq!(stream.up_to("mark").await?, ["mark +3"]);
    reader.batch_execute("COMMIT").await?;
    detachment.await??;
    origin.db.batch_execute("INSERT INTO mark VALUES (4); INSERT INTO root VALUES (2)").await?;
    assert_eq!(stream.up_to("root").await?.last().map(String::as_str), Some("root +2"));
    Ok(())
}

const MARK: &str = "CREATE TABLE mark (id int PRIMARY KEY); SELECT foreshard.create_shard('mark', 'mark');
    CREATE ROLE sidecar LOGIN REPLICATION PASSWORD 'sidecar'";

/// An edge's stream, followed by a member of its role.
async fn followed_by_a_member(origin: &Origin) -> Result<(EdgeLogin, Stream)> {
    origin.db.batch_execute(MARK).await?;
    origin.map_all().await?;
    let edge = origin.cluster.create_edge("ewr").await?;
    origin.db.batch_execute(&format!("GRANT {} TO sidecar", edge.role)).await?;
    let url = origin.cluster.url_of("sidecar", "sidecar", "postgres");
    let mut stream = Stream::of(origin, &url, "ewr").await?;
    origin.db.batch_execute("INSERT INTO mark VALUES (1)").await?;
    assert_eq!(stream.up_to("mark").await?, ["mark +1"]);
    Ok((edge, stream))
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_taken_end_a_running_stream() -> Result<()> {
    for taken in ["REVOKE edge_ewr FROM sidecar", "ALTER ROLE sidecar NOREPLICATION", "DROP ROLE sidecar"] {
        let origin = Origin::start().await?;
        let (_, mut stream) = followed_by_a_member(&origin).await?;
        origin.db.batch_execute(taken).await?;
        origin.db.batch_execute("INSERT INTO mark VALUES (2)").await?;
        let error = match stream.up_to("mark").await {
            Ok(words) => anyhow::bail!("after {taken} still {words:?}"),
            Err(error) => format!("{error:#}"),
        };
        assert!(error.contains("may no longer follow edge"), "{taken}: {error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_other_roles_end_no_stream() -> Result<()> {
    let origin = Origin::start().await?;
    let (edge, mut stream) = followed_by_a_member(&origin).await?;
    origin
        .db
        .batch_execute("CREATE ROLE other; GRANT pg_monitor TO other; CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO other; DROP SCHEMA s")
        .await?;
    // Taken and given back before the stream comes to it: what counts is now.
    let role = &edge.role;
    let both = format!(
        "BEGIN; REVOKE {role} FROM sidecar; INSERT INTO mark VALUES (2); GRANT {role} TO sidecar; COMMIT"
    );
    origin.db.batch_execute(&both).await?;
    origin.db.batch_execute("DROP ROLE other; INSERT INTO mark VALUES (3)").await?;
    assert_eq!(stream.up_to("mark").await?, ["mark +2"]);
    assert_eq!(stream.up_to("mark").await?, ["mark +3"]);
    Ok(())
}

/// It says why, and tries with pauses.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_whose_rights_are_taken_waits_for_them() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(MARK).await?;
    origin.map_all().await?;
    let mut edge = origin.cluster.create_edge("ewr").await?;
    origin.db.batch_execute(&format!("GRANT {} TO sidecar", edge.role)).await?;
    edge.url = origin.cluster.url_of("sidecar", "sidecar", "postgres");
    let mut sidecar = Sidecar::start(&edge).await?;
    origin.db.batch_execute(&format!("REVOKE {} FROM sidecar", edge.role)).await?;
    origin.db.batch_execute("INSERT INTO mark VALUES (1)").await?;
    eventually("the sidecar says what is wrong", SOON, || async {
        Ok(sidecar.log_text().contains("may no longer follow edge").then_some(()))
    })
    .await
    .with_context(|| sidecar.log_text())?;
    eventually("it tries again", SOON, || async {
        let tried = sidecar.log_text().matches("the change stream is interrupted").count();
        Ok((tried >= 3).then_some(()))
    })
    .await?;
    origin.db.batch_execute(&format!("GRANT {} TO sidecar", edge.role)).await?;
    sidecar.wait_ready().await
}

//! Follows the change stream: creates or resumes the slot, hands every frame to the core, acknowledges what is applied.

#[cfg(test)]
mod fuzz;
mod past;
mod replication;
mod slot;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use foreshard_protocol::{Frame, Lsn, decode};
use rand::Rng;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::config::Config;
use crate::fetch::{OriginError, connect, reason};
use crate::persist::Keeper;
use crate::serve::Shared;
pub(crate) use past::{Identity, Past};
use replication::{Message, Replication};

/// Nothing at all from the origin for this long, although it was asked: the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(20);
/// How often the position is acknowledged while frames flow.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_millis(500);

/// Follows the stream; every end of it is followed by another attempt. That the edge was dropped is no reason to stop: it may be
/// created again.
pub(crate) async fn run(config: Arc<Config>, shared: Arc<Shared>, keeper: Option<Arc<Keeper>>) -> Infallible {
    let mut attempt = 0_u32;
    let mut past = keeper.as_ref().and_then(|keeper| keeper.past()).unwrap_or_default();
    loop {
        let connected = Instant::now();
        let Err(error) = follow(&config, &shared, &mut past, keeper.as_deref()).await;
        if connected.elapsed() > Duration::from_secs(10) {
            attempt = 0;
            past.followed();
        }
        let words = one_line(&format!("{error:#}"));
        past.failed(&words);
        shared.origin_failed(reason(&words));
        tracing::warn!(error = words, attempt, "the change stream is interrupted");
        shared.set_trouble(Some(words));
        // Full jitter, so that edges that lost the same origin do not return together.
        let most = 100 * 2_u64.pow(attempt.min(6));
        let pause = rand::rng().random_range(most / 4..=most);
        sleep(Duration::from_millis(pause)).await;
        attempt += 1;
    }
}

async fn follow(
    config: &Arc<Config>,
    shared: &Arc<Shared>,
    past: &mut Past,
    keeper: Option<&Keeper>,
) -> anyhow::Result<Infallible> {
    let client = connect(&config.origin, config.connect_timeout).await?;
    let slot = slot::prepare(config, &client, past.undecodable()).await?;
    if let Some((label, reason)) = slot.lost {
        shared.past_lost(label);
        tracing::warn!(slot = slot.name, reason, "the slot is made anew");
    }
    let mut stream = Replication::start(config, &slot.name, slot.create).await?;
    let start = match stream.created_at {
        Some(created_at) => created_at,
        None => slot::confirmed(config, &client, &slot.name).await?,
    };
    drop(client);
    // What was applied since the last acknowledgement counts, too.
    past.moved(shared.look(|core, _| core.relied_on()), Lsn::ZERO);
    let loss = past.loss(&stream.origin, start, stream.created_at.is_some());
    match &loss {
        None => tracing::info!(slot = slot.name, %start, "the change stream goes on"),
        Some(loss) if loss.label().is_none() => {
            tracing::info!(slot = slot.name, %start, "following the change stream");
        }
        Some(loss) => tracing::warn!(slot = slot.name, %start, reason = %loss, "every copy is dropped"),
    }
    if let Some(label) = loss.as_ref().and_then(past::Loss::label) {
        shared.past_lost(label);
    }
    past.started(stream.origin.clone(), start, loss.is_some());
    Shared::count(&shared.stream_connects, 1);
    shared.set_trouble(None);
    let kept = keeper.and_then(|keeper| keeper.started(&stream.origin, &slot.name, loss.is_some()));
    shared.with(|core, now| {
        core.stream_started(now, start, loss.is_none());
        if let Some(kept) = kept {
            core.warm(now, kept.position, kept.witness, kept.copies);
        }
    });
    let mut acknowledge = interval(ACKNOWLEDGE_EVERY);
    acknowledge.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let mut ask = false;
        tokio::select! {
            message = stream.next() => {
                heard = Instant::now();
                let mut next = Some(message?);
                let mut wanted = false;
                while let Some(message) = next {
                    wanted |= apply(shared, message)?;
                    next = stream.buffered()?;
                }
                if shared.look(|core, _| core.definitions().edge_dropped()) {
                    let edge = &config.edge;
                    anyhow::bail!("edge {edge:?} was dropped at the origin: run SELECT foreshard.create_edge('{edge}', ...), or stop this sidecar");
                }
                // A commit may be waiting for this edge: see strict mode in the documentation.
                if !wanted && !shared.commits_wait.load(Ordering::Relaxed) { continue }
            }
            () = shared.ask_for_progress.notified() => ask = true,
            // A server that shuts down waits until what it has sent is acknowledged. What nobody can see to be visible
            // any more is not: left open, the stream would keep the server from ending.
            () = shared.origin_closes.notified() => anyhow::bail!("the origin shuts down"),
            () = shared.reconnect.notified() => {
                past.doubt();
                anyhow::bail!("the origin's log does not hold what it has streamed: another state of it answers")
            }
            _ = acknowledge.tick() => {
                anyhow::ensure!(heard.elapsed() < SILENCE, "no sign of life from the origin for {SILENCE:?}");
                ask = heard.elapsed() > ACKNOWLEDGE_EVERY;
            }
        }
        let (applied, flushed) = shared.look(|core, _| (core.applied(), core.acknowledged()));
        let sent = stream.acknowledge(applied, flushed, ask);
        timeout(config.connect_timeout, sent).await.context("the origin takes no acknowledgements")??;
        past.moved(applied, flushed);
    }
}

/// Hands one message to the core. True if the origin wants an acknowledgement.
fn apply(shared: &Shared, message: Message) -> anyhow::Result<bool> {
    match message {
        Message::Data(bytes) => {
            let frame: Frame = decode(&bytes).context(past::NOT_FRAMES)?;
            shared.with(|core, now| core.frame(now, frame));
            Ok(false)
        }
        Message::Position { lsn, reply } => {
            shared.with(|core, now| core.position(now, lsn));
            Ok(reply)
        }
    }
}

/// The replication library tells errors as the server's fields, one a line. Where in the server's sources it was raised helps nobody here.
fn one_line(words: &str) -> String {
    let fields = words.lines().map(str::trim);
    let telling = fields.filter(|line| {
        !line.is_empty() && !["FILE:", "LINE:", "ROUTINE:"].iter().any(|field| line.starts_with(field))
    });
    telling.collect::<Vec<_>>().join("; ")
}

/// Checks once that the origin can be used at all: a mistake that waiting does not mend is an error.
pub(crate) async fn preflight(config: &Config) -> Result<(), OriginError> {
    slot::check(config).await
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn errors_are_told_in_one_line() {
        let told = "Transient connection error: [55006] replication slot \"s\" is active for PID 7\nHINT: wait\n\nROUTINE: ReplicationSlotAcquire";
        assert_eq!(
            one_line(told),
            "Transient connection error: [55006] replication slot \"s\" is active for PID 7; HINT: wait"
        );
    }
}

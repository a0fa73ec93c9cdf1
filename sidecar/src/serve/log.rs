//! The execution log on its way to the origin: bounded, in batches, never in the way of an answer.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::{Json, ToSql};

use super::Shared;
use crate::fetch::OriginError;

/// One execution of a function, as `foreshard.log_executions` takes it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Execution {
    pub(crate) function_id: String,
    /// RFC 3339.
    pub(crate) started_at: String,
    pub(crate) tables: Vec<String>,
    /// Parameters and filters by name.
    pub(crate) filters: serde_json::Map<String, serde_json::Value>,
    pub(crate) shards: Vec<String>,
    pub(crate) served_from: &'static str,
    pub(crate) wait_us: u64,
    pub(crate) bytes: u64,
}

/// Where handlers put executions.
#[derive(Clone)]
pub(crate) struct Logger {
    sender: mpsc::Sender<Execution>,
}

/// The other end: what waits to be written.
pub(crate) struct Log {
    receiver: mpsc::Receiver<Execution>,
    waiting: VecDeque<Execution>,
    most: usize,
}

/// Most executions in one statement, and most statements in one interval: however busy an edge is, its log costs the
/// origin no more than that. What does not fit is dropped and counted.
const BATCH: usize = 500;
const BATCHES: usize = 4;

/// A logger and its log, holding at most `most` executions each.
pub(crate) fn channel(most: usize) -> (Logger, Log) {
    let (sender, receiver) = mpsc::channel(most.max(1));
    (Logger { sender }, Log { receiver, waiting: VecDeque::new(), most })
}

impl Logger {
    /// Notes an execution, or counts it as dropped if the buffer is full; it is only put together if there is room.
    pub(crate) fn log(&self, shared: &Shared, execution: impl FnOnce() -> Execution) {
        match self.sender.try_reserve() {
            Ok(room) => room.send(execution()),
            Err(_) => Shared::count(&shared.executions_dropped, 1),
        }
    }
}

impl Log {
    /// Waits for executions and takes them in. Never returns while the buffer is full.
    pub(crate) async fn collect(&mut self) {
        if self.waiting.len() >= self.most {
            return std::future::pending().await;
        }
        match self.receiver.recv().await {
            Some(execution) => self.waiting.push_back(execution),
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn collect_forever(&mut self) {
        loop {
            self.collect().await;
        }
    }

    /// Writes what waits. On an error everything not written stays.
    pub(crate) async fn ship(
        &mut self,
        edge: &str,
        client: &Client,
        within: Duration,
        shared: &Shared,
    ) -> anyhow::Result<()> {
        for _ in 0..BATCHES {
            if self.waiting.is_empty() {
                break;
            }
            let count = self.waiting.len().min(BATCH);
            let batch: Vec<&Execution> = self.waiting.iter().take(count).collect();
            let parameters: [&(dyn ToSql + Sync); 2] = [&edge, &Json(&batch)];
            let written = client.execute("SELECT foreshard.log_executions($1, $2)", &parameters);
            match timeout(within, written).await.context("no answer from the origin")? {
                Ok(_) => Shared::count(&shared.executions_logged, count as u64),
                Err(error) if error.as_db_error().is_some() => {
                    // The origin refused this batch: another attempt would be refused too, and block those behind it.
                    tracing::error!(error = %OriginError::of(&error), count, "executions could not be logged and are dropped");
                    Shared::count(&shared.executions_dropped, count as u64);
                }
                Err(error) => return Err(OriginError::of(&error).into()),
            }
            self.waiting.drain(..count);
        }
        Ok(())
    }
}

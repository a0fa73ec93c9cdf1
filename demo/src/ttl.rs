//! A cache before the edge that keeps an answer for a time, as CDNs do, whatever happens to the rows meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use chrono::{DateTime, Duration, Utc};

/// How long an answer is kept, in time of the day that is replayed.
const KEPT: i64 = 60;

/// The answers kept at all edges, by what was asked.
#[derive(Debug)]
pub(crate) struct TtlCache<T>(Mutex<HashMap<String, Place<T>>>);

/// One answer and when it was fetched. Held while it is fetched: who asks for the same meanwhile waits for that fetch.
type Place<T> = Arc<tokio::sync::Mutex<Option<(DateTime<Utc>, T)>>>;

impl<T: Clone> TtlCache<T> {
    pub(crate) fn new() -> Self {
        TtlCache(Mutex::default())
    }

    /// What is kept under `key`, or what `fetch` brings; and whether it was kept.
    pub(crate) async fn get(
        &self,
        key: String,
        now: impl Fn() -> DateTime<Utc>,
        fetch: impl Future<Output = Result<T>>,
    ) -> Result<(T, bool)> {
        let place = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let mut kept = place.lock().await;
        if let Some((at, answer)) = &*kept
            && now() < *at + Duration::seconds(KEPT)
        {
            return Ok((answer.clone(), true));
        }
        let answer = fetch.await?;
        *kept = Some((now(), answer.clone()));
        Ok((answer, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_kept_for_its_time_whatever_changes() -> Result<()> {
        let cache = TtlCache::new();
        let at = |seconds: i64| move || DateTime::UNIX_EPOCH + Duration::seconds(seconds);
        let get = |seconds, answer| cache.get("a".to_owned(), at(seconds), async move { Ok(answer) });
        assert_eq!(get(0, 1).await?, (1, false));
        assert_eq!(get(KEPT - 1, 2).await?, (1, true));
        assert_eq!(get(KEPT, 3).await?, (3, false));
        assert_eq!(cache.get("b".to_owned(), at(KEPT), async { Ok(4) }).await?, (4, false));
        Ok(())
    }
}

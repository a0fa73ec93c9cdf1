//! Each proposal is run and taken back in a transaction that is rolled back: what would fail, or could not be taken back exactly,
//! is not proposed. Proposals that alter tables are left out of it, since they would hold up writers.

use foreshard_planner::advice::Advice;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::{begin, explained};

/// All definitions as text: the same text means the same definitions. Generations are no part of it; what identifies the rows of tables is if they
/// are named.
pub(super) const ALL: &str = "SELECT md5(coalesce(string_agg(line, E'\\n' ORDER BY line COLLATE \"C\"), '')) FROM (
    SELECT row(s.name, s.source::oid, s.predicate, s.key, s.columns, s.owner::oid, q.query, q.param_types)::text AS line
        FROM foreshard.shard s LEFT JOIN foreshard.shard_query q ON q.shard = s.name WHERE $1::text[] IS NULL OR s.name = ANY ($1)
    UNION ALL SELECT row(m.function_id, m.ordinal, m.shard)::text FROM foreshard.mapping m
        WHERE $2::text[] IS NULL OR m.function_id = ANY ($2)
    UNION ALL SELECT row(c.oid, c.relreplident, pg_get_indexdef(i.indexrelid), i.indisvalid)::text
        FROM unnest($3::text[]) AS t(name) JOIN pg_class c ON c.oid = to_regclass(t.name)
        LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident) AS lines";

/// What there is to say when a trial can't be held.
const UNTRIED: [SqlState; 4] = [
    SqlState::INSUFFICIENT_PRIVILEGE,
    SqlState::LOCK_NOT_AVAILABLE,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::T_R_DEADLOCK_DETECTED,
];

/// Leaves what works, and gives the others with the reason.
pub(super) async fn keep_what_works(
    client: &mut Client,
    advice: &mut Vec<Advice>,
) -> anyhow::Result<Vec<(Advice, String)>> {
    let mut left_out = Vec::new();
    let mut kept = Vec::with_capacity(advice.len());
    for one in advice.drain(..) {
        if one.kind.alters_tables() {
            kept.push(one);
            continue;
        }
        let transaction = begin(client, IsolationLevel::RepeatableRead).await?;
        let outcome = there_and_back(&transaction, &one).await;
        transaction.rollback().await.map_err(explained)?;
        match outcome {
            Ok(true) => kept.push(one),
            Ok(false) => left_out.push((one, "taking it back would not restore what was".to_owned())),
            Err(error) if error.as_db_error().is_some_and(|db| UNTRIED.contains(db.code())) => {
                tracing::info!(subject = one.subject, "not tried: {}", explained(error));
                kept.push(one);
            }
            Err(error) if error.as_db_error().is_some() => left_out.push((one, explained(error).to_string())),
            Err(error) => return Err(explained(error)),
        }
    }
    *advice = kept;
    Ok(left_out)
}

async fn there_and_back(transaction: &Transaction<'_>, one: &Advice) -> Result<bool, tokio_postgres::Error> {
    let everything = || async {
        let none: Option<Vec<String>> = None;
        transaction.query_one(ALL, &[&none, &none, &none]).await?.try_get::<_, String>(0)
    };
    transaction.batch_execute("SET LOCAL lock_timeout = '2s'").await?;
    let before = everything().await?;
    transaction.batch_execute(&one.statement).await?;
    transaction.batch_execute(&one.undo).await?;
    Ok(everything().await? == before)
}

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Html;
use chrono::DateTime;
use foreshard_edge::Refusal;
use foreshard_protocol::InstanceId;
use serde_json::{Value, json};

use super::auth::Bearer;
use super::params::Function;
use super::{App, Problem};

/// Instances listed for one shard.
const MOST_INSTANCES: usize = 100;

/// `GET /v1/functions/{function_id}/shards`
pub(super) async fn shards(
    State(app): State<Arc<App>>,
    Function(function): Function,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let bearer = app.guard.admit(&headers, &function)?;
    app.shared.look(|core, now| {
        let definitions = core.definitions();
        if !definitions.ready() {
            return Err(Refusal::NotReady.into());
        }
        let names = definitions.shards_of(&function).ok_or(Refusal::UnknownFunction)?;
        let shards: Vec<Value> = names
            .iter()
            .filter_map(|name| definitions.shard(name))
            .map(|def| {
                let held = core.held(now, &def.name, MOST_INSTANCES, |instance| shows(&bearer, instance));
                let held: Vec<Value> = held
                    .into_iter()
                    .map(|(instance, from, bytes, age)| {
                        json!({"instance": &*instance, "cache": from.as_str(), "bytes": bytes, "age_seconds": age / 1_000_000})
                    })
                    .collect();
                json!({"shard": def.name, "source": def.source, "key": def.key, "held": held})
            })
            .collect();
        Ok(Json(json!({
            "function_id": function,
            "fresh": core.is_fresh(now),
            "lsn": core.applied().to_string(),
            "shards": shards,
        })))
    })
}

/// Whether this may be told to the bearer.
fn shows(bearer: &Bearer, instance: &str) -> bool {
    instance.parse::<InstanceId>().is_ok_and(|instance| bearer.may_read(&instance).is_ok())
}

/// `GET /v1/schedule`: all of it, or what concerns the function that the token is for.
pub(super) async fn schedule(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let (function, bearer) = app.guard.admit_any(&headers)?;
    let moment = |micros: i64| DateTime::from_timestamp_micros(micros).map(|time| time.to_rfc3339());
    let schedule = app.shared.look(|core, now| {
        core.schedule_in_force(now).map(|schedule| {
            let entry = |entry: &foreshard_protocol::ScheduleEntry| {
                // An instance id holds a key value: a token sees those it may read.
                let shards: Vec<&String> =
                    entry.shard_list.iter().filter(|instance| shows(&bearer, instance)).collect();
                json!({"function_id": entry.function_id, "shard_list": shards, "confidence": entry.confidence})
            };
            let own = |entry: &&foreshard_protocol::ScheduleEntry| {
                function.as_ref().is_none_or(|function| *function == entry.function_id)
            };
            let entries: Vec<Value> = schedule.entries.iter().filter(own).map(entry).collect();
            json!({
                "edge": app.config.edge,
                "schedule_id": schedule.id,
                "starts_at": moment(schedule.starts_at),
                "ends_at": moment(schedule.ends_at),
                "entries": entries,
            })
        })
    });
    let none = || json!({"edge": app.config.edge, "schedule_id": null, "starts_at": null, "ends_at": null, "entries": []});
    Ok(Json(schedule.unwrap_or_else(none)))
}

/// `GET /live`: the process serves.
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// `GET /ready`: the stream is followed and copies may be served.
pub(super) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, String) {
    if app.shared.look(|core, now| core.is_ready(now)) {
        return (StatusCode::OK, "ready\n".into());
    }
    let reason = app.shared.trouble().unwrap_or_else(|| "the stream is catching up".into());
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
}

/// `GET /`: for people.
pub(super) async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

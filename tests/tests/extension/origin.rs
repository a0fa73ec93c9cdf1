//! A cluster with one edge, its slot, and what the slot gives in words.

use anyhow::{Context, Result, bail};
use foreshard_protocol::{
    CatalogChange, CatalogSnapshot, Event, FetchPart, Frame, KeyChange, KeyPart, RowChange, decode,
};
use foreshard_tests::{Cluster, ClusterOptions};
use tokio_postgres::Client;
use tokio_postgres::error::{DbError, SqlState};

pub(crate) struct Origin {
    pub(crate) cluster: Cluster,
    pub(crate) db: Client,
}

impl Origin {
    /// With the extension and the edge `jfk`.
    pub(crate) async fn start() -> Result<Self> {
        Self::with(ClusterOptions::new()?).await
    }

    pub(crate) async fn with(options: ClusterOptions) -> Result<Self> {
        let cluster = options.start().await?;
        let db = cluster.connect().await?;
        db.batch_execute("CREATE EXTENSION foreshard; SELECT foreshard.create_edge('jfk')").await?;
        Ok(Origin { cluster, db })
    }

    /// Runs `setup`, maps all shards to function `f`, and creates the slot: what follows is in its stream.
    pub(crate) async fn followed(setup: &str) -> Result<Self> {
        let origin = Self::start().await?;
        origin.db.batch_execute(setup).await?;
        origin.map_all().await?;
        origin.create_slot().await?;
        Ok(origin)
    }

    pub(crate) async fn map_all(&self) -> Result<()> {
        let map = "SELECT foreshard.map_function('f', array_agg(name ORDER BY name)) FROM foreshard.shards HAVING count(*) > 0";
        Ok(self.db.batch_execute(map).await?)
    }

    pub(crate) async fn create_slot(&self) -> Result<()> {
        let create = "SELECT pg_create_logical_replication_slot(foreshard.edge_slot('jfk'), 'foreshard')";
        Ok(self.db.batch_execute(create).await?)
    }

    /// Runs statements that need an optional part of PostgreSQL; false if this build came without it.
    pub(crate) async fn built_with(&self, statements: &str) -> Result<bool> {
        match self.db.batch_execute(statements).await {
            Err(error) if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) => Ok(false),
            done => done.map(|()| true).with_context(|| statements.to_owned()),
        }
    }

    /// Everything that has been committed since the last call.
    pub(crate) async fn frames(&self) -> Result<Vec<Frame>> {
        self.read("get", "'edge', 'jfk', 'protocol', '2'").await
    }

    /// What is in the slot, once more, in a new decoding session.
    pub(crate) async fn peek(&self) -> Result<Vec<Frame>> {
        self.read("peek", "'edge', 'jfk', 'protocol', '2'").await
    }

    /// As `frames`, for a consumer that asks for changes of rows.
    pub(crate) async fn frames_with_rows(&self) -> Result<Vec<Frame>> {
        self.read("get", "'edge', 'jfk', 'protocol', '2', 'deltas', 'on'").await
    }

    /// Runs `statements` and gives the events that follow, in words, with what becomes of rows.
    pub(crate) async fn rows_after(&self, statements: &str) -> Result<Vec<String>> {
        self.db.batch_execute(statements).await.with_context(|| statements.to_owned())?;
        Ok(in_words(&self.frames_with_rows().await?))
    }

    async fn read(&self, how: &str, options: &str) -> Result<Vec<Frame>> {
        let query = format!(
            "SELECT data FROM pg_logical_slot_{how}_binary_changes(foreshard.edge_slot('jfk'), NULL, NULL, {options})"
        );
        let rows = self.db.query(&query, &[]).await?;
        rows.iter().map(|row| Ok(decode(row.get::<_, &[u8]>(0))?)).collect()
    }

    /// Runs `statements` and gives the events that follow, in words.
    pub(crate) async fn after(&self, statements: &str) -> Result<Vec<String>> {
        self.db.batch_execute(statements).await.with_context(|| statements.to_owned())?;
        Ok(in_words(&self.frames().await?))
    }

    /// The parts of a fetch.
    pub(crate) async fn fetch(&self, instances: &[&str]) -> Result<Vec<FetchPart>> {
        let rows = self.db.query("SELECT foreshard.fetch('jfk', $1)", &[&instances]).await?;
        rows.iter().map(|row| Ok(decode(row.get::<_, &[u8]>(0))?)).collect()
    }

    /// Rows of one instance, columns joined by `|`, NULL as `-`; a failure in words.
    pub(crate) async fn rows(&self, instance: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for part in self.fetch(&[instance]).await? {
            match part {
                FetchPart::Rows { rows, .. } => lines.extend(rows.iter().map(|row| {
                    row.iter().map(|value| value.as_deref().unwrap_or("-")).collect::<Vec<_>>().join("|")
                })),
                FetchPart::Failed { failure, .. } => lines.push(format!("{failure:?}")),
                FetchPart::Header(_) | FetchPart::Horizon(_) | FetchPart::Instance { .. } => {}
            }
        }
        Ok(lines)
    }

    pub(crate) async fn catalog(&self) -> Result<CatalogSnapshot> {
        let row = self.db.query_one("SELECT foreshard.edge_catalog('jfk')", &[]).await?;
        Ok(decode(row.get::<_, &[u8]>(0))?)
    }

    /// One value.
    pub(crate) async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        query: &str,
    ) -> Result<T> {
        Ok(self.db.query_one(query, &[]).await.with_context(|| query.to_owned())?.try_get(0)?)
    }
}

/// The error of a statement that must fail.
pub(crate) async fn error_of(db: &Client, statement: &str) -> Result<DbError> {
    match db.batch_execute(statement).await {
        Ok(()) => bail!("no error from: {statement}"),
        Err(error) => Ok(error.as_db_error().with_context(|| format!("{error} from: {statement}"))?.clone()),
    }
}

fn values<'a>(values: impl Iterator<Item = &'a Option<String>>) -> String {
    values.map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("/")
}

fn row_in_words(row: &RowChange) -> String {
    match row {
        RowChange::Put { row } => format!("+{}", values(row.iter())),
        RowChange::Remove { identity } => format!("-{}", values(identity.iter())),
    }
}

/// One line per event: `cart 1 2` (keys), `cart 1: +1/a -2; 2: +2/b` (rows put and removed, by key), `cart Whole(Rows)`, `+shard cart`, `-shard cart`, `f = cart,products`, `-f`, `schedule 1`.
pub(crate) fn in_words(frames: &[Frame]) -> Vec<String> {
    frames.iter().flat_map(|frame| &frame.events).map(event_in_words).collect()
}

fn event_in_words(event: &Event) -> String {
    match event {
        Event::Shard { shard, change: KeyChange::Whole(reason) } => format!("{shard} Whole({reason:?})"),
        Event::Shard { shard, change: KeyChange::Rows(deltas) } => {
            let instances = deltas.instances.iter().map(|instance| {
                let key = values(instance.key.iter().map(|part| &part.value));
                let rows: Vec<String> = instance.rows.iter().map(row_in_words).collect();
                if key.is_empty() { rows.join(" ") } else { format!("{key}: {}", rows.join(" ")) }
            });
            format!("{shard} {}", instances.collect::<Vec<_>>().join("; "))
        }
        Event::Shard { shard, change } => {
            let key = |key: &[KeyPart]| {
                let values: Vec<&str> =
                    key.iter().map(|part| part.value.as_deref().unwrap_or("NULL")).collect();
                values.join("/")
            };
            let keys: Vec<String> = change.keys().into_iter().flatten().map(key).collect();
            format!("{shard} {}", keys.join(" "))
        }
        Event::Unsettled(xids) => format!("unsettled {}", xids.len()),
        Event::Catalog(CatalogChange::Shard(shard)) => format!("+shard {}", shard.name),
        Event::Catalog(CatalogChange::ShardDropped(name)) => format!("-shard {name}"),
        Event::Catalog(CatalogChange::Function(mapping)) => {
            format!("{} = {}", mapping.function_id, mapping.shards.join(","))
        }
        Event::Catalog(CatalogChange::FunctionUnmapped(id)) => format!("-{id}"),
        Event::Catalog(CatalogChange::EdgeDropped) => "edge dropped".to_owned(),
        Event::Schedule(schedule) => format!("schedule {}", schedule.id),
    }
}

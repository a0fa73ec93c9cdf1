//! Definitions in migration files, through the tools people use for them: the files of `examples/migrations`, up, once more,
//! down and up again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use foreshard_tests::Cluster;
use tokio_postgres::Client;

const DEFINED: &str = "SELECT concat((SELECT string_agg(concat_ws(' ', name, source, predicate, key, generation), ', ' ORDER BY name) FROM foreshard.shards),
    (SELECT string_agg(function_id || '=' || shard, ' ' ORDER BY function_id, ordinal) FROM foreshard.function_shards),
    (SELECT string_agg(name || ' ' || role, ' ') FROM foreshard.edges))";

struct Shop {
    cluster: Cluster,
    db: Client,
}

impl Shop {
    async fn new() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let db = cluster.connect().await?;
        db.batch_execute("CREATE ROLE edge_paris LOGIN REPLICATION").await?;
        Ok(Shop { cluster, db })
    }

    async fn defined(&self) -> Result<String> {
        Ok(self.db.query_one(DEFINED, &[]).await?.get(0))
    }

    /// Everything the example defines is there.
    async fn is_up(&self) -> Result<String> {
        let defined = self.defined().await?;
        for part in [
            "cart shop.cart_line {customer_id}",
            "offers shop.product (discount > 0)",
            "checkout=products checkout=cart home=offers",
            "paris edge_paris",
        ] {
            assert!(defined.contains(part), "{part} is missing: {defined}");
        }
        Ok(defined)
    }

    fn url(&self, scheme: &str) -> String {
        self.cluster.url().replacen("postgresql", scheme, 1)
    }
}

fn examples(tool: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/migrations").join(tool)
}

/// Where `scripts/setup.sh` keeps a tool; fetched or built now if it is not there.
fn tool(name: &str) -> Result<PathBuf> {
    let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/setup.sh");
    let output = Command::new(setup).arg(name).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[tokio::test]
async fn sqlx_migrates_up_and_down() -> Result<()> {
    let (shop, sqlx) = (Shop::new().await?, tool("sqlx")?);
    let migrate = |arguments: &[&str]| {
        let mut command = Command::new(&sqlx);
        command.arg("migrate").args(arguments).arg("--source").arg(examples("sqlx"));
        run(command.args(["--database-url", &shop.url("postgresql")]))
    };
    migrate(&["run"])?;
    let first = shop.is_up().await?;
    migrate(&["run"])?;
    assert_eq!(shop.is_up().await?, first);
    migrate(&["revert"])?;
    assert_eq!(shop.defined().await?, "");
    migrate(&["run"])?;
    shop.is_up().await?;
    migrate(&["revert", "--target-version", "0"])?;
    assert_eq!(shop.defined().await?, "");
    Ok(())
}

#[tokio::test]
async fn refinery_migrates_forward_and_retires() -> Result<()> {
    let mut shop = Shop::new().await?;
    let load = |folder: &str| refinery::load_sql_migrations(examples(folder));
    let migrations = load("refinery")?;
    let runner = refinery::Runner::new(&migrations);
    runner.run_async(&mut shop.db).await?;
    let first = shop.is_up().await?;
    let again = runner.run_async(&mut shop.db).await?;
    assert!(again.applied_migrations().is_empty());
    assert_eq!(shop.is_up().await?, first);
    // The same statements once more, without the tool's own memory of them: nothing changes either.
    let statements = std::fs::read_to_string(examples("refinery").join("V2__shards.sql"))?;
    shop.db.batch_execute(&statements).await?;
    assert_eq!(shop.is_up().await?, first);
    // refinery only goes forward: what a down script would do is a migration of its own.
    let retired = [migrations, load("refinery_retire")?].concat();
    refinery::Runner::new(&retired).run_async(&mut shop.db).await?;
    assert_eq!(shop.defined().await?, "");
    Ok(())
}

#[tokio::test]
async fn alembic_migrates_up_and_down() -> Result<()> {
    let (shop, alembic) = (Shop::new().await?, tool("alembic")?);
    let migrate = |arguments: &[&str]| {
        let mut command = Command::new(&alembic);
        command.arg("-c").arg(examples("alembic").join("alembic.ini")).args(arguments);
        run(command.env("DATABASE_URL", shop.url("postgresql+psycopg")).env("PYTHONDONTWRITEBYTECODE", "1"))
    };
    migrate(&["upgrade", "head"])?;
    let first = shop.is_up().await?;
    migrate(&["upgrade", "head"])?;
    assert_eq!(shop.is_up().await?, first);
    migrate(&["downgrade", "-1"])?;
    assert_eq!(shop.defined().await?, "");
    migrate(&["upgrade", "head"])?;
    shop.is_up().await?;
    Ok(())
}

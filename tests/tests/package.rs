//! The Debian packages of `make package`, unpacked by dpkg into a root of their own, and at work from there.
//!
//! They are made of what was built for the other tests; that a release names no folder of the machine that made it is checked by
//! `cargo xtask package` itself, and that check by a test of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{ClusterOptions, Server, foreshard_binary};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = [&*output.stdout, &output.stderr].concat();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    Ok(String::from_utf8(output.stdout)?)
}

/// A package, made now.
fn package(out: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let mut xtask = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    xtask.current_dir(WORKSPACE).args(["run", "--quiet", "--locked", "--package", "xtask", "--", "package"]);
    let said = output(xtask.args(arguments).arg("--quick").arg("--out").arg(out))?;
    Ok(PathBuf::from(said.lines().last().context("the package's path")?))
}

fn field(package: &Path, name: &str) -> Result<String> {
    Ok(output(Command::new("dpkg-deb").arg("--field").arg(package).arg(name))?.trim().to_owned())
}

/// What Debian's own checker would say about fields, owners and modes; `private` files are for root alone.
fn check(package: &Path, name: &str, private: &[&str]) -> Result<()> {
    assert_eq!(field(package, "Package")?, name);
    assert_eq!(field(package, "Version")?, concat!(env!("CARGO_PKG_VERSION"), "-1"));
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    assert_eq!(field(package, "Architecture")?, architecture.trim());
    assert!(field(package, "Maintainer")?.ends_with('>'));
    assert!(field(package, "Depends")?.contains("libc6 (>="), "what the binary is linked with");
    let description = field(package, "Description")?;
    let (summary, more) = description.split_once('\n').context("a description of several lines")?;
    assert!(summary.len() < 80 && !summary.ends_with('.'), "{summary}");
    assert!(more.lines().all(|line| line.starts_with(' ') && line.len() <= 81), "{more}");

    let listed = output(Command::new("dpkg-deb").arg("--contents").arg(package))?;
    for line in listed.lines() {
        let [mode, owner, _, _, _, path] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("{line}")
        };
        assert_eq!(owner, "root/root", "{line}");
        let wanted = match path {
            _ if mode.starts_with('d') => "drwxr-xr-x",
            _ if private.contains(&path) => "-rw-------",
            _ if path.starts_with("./usr/bin/") => "-rwxr-xr-x",
            _ => "-rw-r--r--",
        };
        assert_eq!(mode, wanted, "{line}");
    }
    for document in ["copyright", "changelog.gz", "changelog.Debian.gz", "operations.md"] {
        assert!(listed.contains(&format!("./usr/share/doc/{name}/{document}\n")), "{document}\n{listed}");
    }
    Ok(())
}

/// An empty machine.
fn root() -> Result<tempfile::TempDir> {
    let root = tempfile::Builder::new().prefix("foreshard-root-").tempdir()?;
    // Servers run as another account.
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
    let database = root.path().join("var/lib/dpkg");
    for folder in ["info", "updates", "triggers"] {
        fs::create_dir_all(database.join(folder))?;
    }
    fs::write(database.join("status"), "")?;
    Ok(root)
}

/// dpkg on that machine, where nothing is that packages depend on, and no shell for their scripts.
fn dpkg(root: &Path, arguments: &[&str]) -> Result<String> {
    let mut dpkg = Command::new("dpkg");
    dpkg.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg(format!("--root={}", root.display()));
    dpkg.arg("--force-depends,not-root,script-chrootless");
    output(dpkg.args(arguments))
}

/// No text of a package tells where it was made.
fn tells_nothing_of_this_machine(below: &Path) -> Result<()> {
    let here = fs::canonicalize(WORKSPACE)?;
    for entry in fs::read_dir(below)? {
        let path = entry?.path();
        if path.is_dir() {
            tells_nothing_of_this_machine(&path)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            assert!(!text.contains(&*here.to_string_lossy()), "{}", path.display());
        }
    }
    Ok(())
}

/// Servers that are not Debian's look in folders of their own: what dpkg has unpacked for the major is put there, too.
fn reached_by_server(root: &Path, pg_config: &str, major: u32) -> Result<()> {
    for (asked, below, folder) in [
        ("--pkglibdir", "", format!("usr/lib/postgresql/{major}/lib")),
        ("--sharedir", "extension", format!("usr/share/postgresql/{major}/extension")),
    ] {
        let place = output(Command::new(pg_config).arg(asked))?;
        let place = root.join(place.trim().trim_start_matches('/')).join(below);
        for entry in fs::read_dir(root.join(folder))? {
            let entry = entry?;
            let target = place.join(entry.file_name());
            if entry.file_name().to_string_lossy().starts_with("foreshard") && !target.exists() {
                fs::copy(entry.path(), target)?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_extension_of_a_package_works_on_a_clean_cluster() -> Result<()> {
    packaged(15).await
}

#[tokio::test]
async fn the_extension_of_a_package_works_on_a_clean_cluster_of_16() -> Result<()> {
    packaged(16).await
}

#[tokio::test]
async fn the_extension_of_a_package_works_on_a_clean_cluster_of_18() -> Result<()> {
    packaged(18).await
}

async fn packaged(major: u32) -> Result<()> {
    let name = format!("postgresql-{major}-foreshard");
    let built = Server::of_major(major)?;
    let pg_config = built.pg_config()?.display().to_string();
    let out = tempfile::tempdir()?;
    let tree = built.root().display().to_string();
    let made = package(out.path(), &["extension", "--pg-config", &pg_config, "--tree", &tree])?;
    check(&made, &name, &[])?;
    let depends = field(&made, "Depends")?;
    assert!(depends.starts_with(&format!("postgresql-{major} (>= {major}.")), "{depends}");

    let root = root()?;
    dpkg(root.path(), &["--install", &made.display().to_string()])?;
    assert_eq!(dpkg(root.path(), &["--verify", &name])?, "", "files are as they were packed");
    tells_nothing_of_this_machine(root.path())?;
    let server = Server::around_package(root.path(), Path::new(&pg_config))?;
    reached_by_server(root.path(), &pg_config, major)?;
    let cluster = ClusterOptions::on(server).start().await?;
    let db = cluster.connect().await?;
    db.batch_execute(
        "CREATE EXTENSION foreshard;
         CREATE TABLE t (id int PRIMARY KEY, k int); SELECT foreshard.create_edge('jfk');
         SELECT foreshard.create_shard('t', 't', key => '{id}'); SELECT foreshard.map_function('f', '{t}')",
    )
    .await?;
    let version: String = db.query_one("SELECT foreshard.version()", &[]).await?.get(0);
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    db.batch_execute("SELECT pg_create_logical_replication_slot(foreshard.edge_slot('jfk'), 'foreshard')")
        .await?;
    db.batch_execute("INSERT INTO t VALUES (1, 1)").await?;
    let decoded: i64 = db
        .query_one(
            "SELECT count(*) FROM pg_logical_slot_get_binary_changes(foreshard.edge_slot('jfk'), NULL, NULL, 'edge', 'jfk', 'protocol', '2')",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(decoded, 1);
    // A database of the first release finds its way, too.
    db.batch_execute("CREATE DATABASE old").await?;
    let old = cluster.connect_to("old").await?;
    old.batch_execute("CREATE EXTENSION foreshard VERSION '0.1.0'; ALTER EXTENSION foreshard UPDATE").await?;

    let packed = output(Command::new("dpkg-deb").arg("--contents").arg(&made))?;
    let packed = packed.lines().filter_map(|line| line.split_whitespace().last());
    let own: Vec<&str> = packed.filter(|path| path.contains("foreshard")).collect();
    assert!(own.len() > 5 && own.iter().all(|path| root.path().join(path).exists()), "{own:?}");
    dpkg(root.path(), &["--purge", &name])?;
    let left: Vec<_> = own.iter().filter(|path| root.path().join(path).exists()).collect();
    assert!(left.is_empty(), "of the package is left: {left:?}");
    for entry in fs::read_dir(root.path().join("var/lib/dpkg/info"))? {
        assert!(!entry?.file_name().to_string_lossy().contains("foreshard"), "dpkg knows of it");
    }
    Ok(())
}

#[test]
fn the_sidecar_of_a_package_reads_its_configuration() -> Result<()> {
    let out = tempfile::tempdir()?;
    let binary = foreshard_binary()?.display().to_string();
    let made = package(out.path(), &["sidecar", "--binary", &binary])?;
    check(&made, "foreshard", &["./etc/foreshard/edge.toml", "./etc/foreshard/plan.toml"])?;
    let root = root()?;
    dpkg(root.path(), &["--install", &made.display().to_string()])?;
    assert_eq!(dpkg(root.path(), &["--verify", "foreshard"])?, "");
    tells_nothing_of_this_machine(root.path())?;
    let at = |path: &str| root.path().join(path);

    // The example as it is names what is missing; with its lines switched on it is a configuration.
    let program = at("usr/bin/foreshard");
    let config = at("etc/foreshard/edge.toml");
    let said = Command::new(&program).args(["check", "--config"]).arg(&config).env_clear().output()?;
    assert_eq!(said.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&said.stderr).contains("origin"), "{said:?}");
    let example = fs::read_to_string(&config)?;
    let switched_on: String = example
        .lines()
        .filter_map(|line| line.strip_prefix("# ").filter(|line| line.split(' ').nth(1) == Some("=")))
        .map(|line| line.replace("/etc/foreshard", &out.path().display().to_string()) + "\n")
        .collect();
    assert!(switched_on.lines().count() >= 8, "{switched_on}");
    let edited = out.path().join("edge.toml");
    fs::write(&edited, &switched_on)?;
    fs::write(out.path().join("functions.jwks"), "a shared secret that has thirty-two bytes and more")?;
    fs::write(out.path().join("cache.keys"), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")?;
    output(Command::new(&program).args(["check", "--config"]).arg(&edited).env_clear())?;

    // systemd finds the units sound, and the programs they start, on a machine that has them.
    for unit in ["foreshard.service", "foreshard-plan.service"] {
        let text = fs::read_to_string(at("usr/lib/systemd/system").join(unit))?;
        for line in ["User=foreshard", "ProtectSystem=strict", "LoadCredential=", "NoNewPrivileges=yes"] {
            assert!(text.contains(line), "{unit} lacks {line}");
        }
        for part in text
            .split(['=', ':', ' ', '\n'])
            .filter(|part| part.starts_with("/etc/foreshard/") || part.starts_with("/usr/bin/"))
        {
            assert!(
                at(part.trim_start_matches('/')).exists(),
                "{unit} names {part}, which is not in the package"
            );
        }
    }
    let has_systemd =
        Command::new("systemd-analyze").arg("--version").output().is_ok_and(|said| said.status.success());
    for unit in ["foreshard.service", "foreshard-plan.service"].iter().filter(|_| has_systemd) {
        let text = fs::read_to_string(at("usr/lib/systemd/system").join(unit))?;
        // The program lies elsewhere here.
        let text = text.replace("ExecStart=/usr", &format!("ExecStart={}/usr", root.path().display()));
        let here = out.path().join(unit);
        fs::write(&here, text)?;
        let said = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output()?;
        assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
        // Of 100, what systemd counts as exposed.
        output(
            Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=20"]).arg(&here),
        )?;
    }

    // What the administrator wrote outlives the package, until it is purged.
    fs::write(&config, &switched_on)?;
    dpkg(root.path(), &["--remove", "foreshard"])?;
    assert!(config.exists() && !program.exists());
    dpkg(root.path(), &["--purge", "foreshard"])?;
    assert!(!config.exists());
    Ok(())
}

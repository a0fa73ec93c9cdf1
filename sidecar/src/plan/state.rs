//! `--state FILE`: what was learned, over restarts.
//!
//! The file is believed only as a whole: of this format, undamaged, of this origin and these settings. Anything else is said and
//! left aside, for the log tells it all again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::learner::{Learner, Place};
use super::settings::Settings;

/// The format, to be changed with it.
const MAGIC: &[u8; 8] = b"fsplan01";
const CHECKSUM: usize = size_of::<u128>();

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    origin: String,
    place: Place,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is no state of a planner, or of another version")]
    Format,
    #[error("it is damaged")]
    Damaged,
    #[error("it is of another origin")]
    Origin,
    #[error("the origin's log ends before it: the origin was restored, or the clock set back")]
    Future,
    #[error("{0}")]
    Engine(#[from] foreshard_planner::StateError),
}

/// Replaces the file by what the learner knows; returns its size. Key values of the application are in it, so only its owner may
/// read it.
pub(super) fn save(path: &Path, learner: &Learner, origin: &str) -> io::Result<u64> {
    let Some(place) = learner.place() else { return Ok(0) };
    let head = serde_json::to_vec(&Head { origin: origin.to_owned(), place })?;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let next = Path::new(&name);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(next)?;
    let mut out = Summed { inner: BufWriter::new(file), sum: Xxh3::new(), size: 0 };
    out.write_all(MAGIC)?;
    out.write_all(&(head.len() as u32).to_le_bytes())?;
    out.write_all(&head)?;
    learner.engine().save(&mut out)?;
    let Summed { mut inner, sum, size } = out;
    inner.write_all(&sum.digest128().to_le_bytes())?;
    let file: File = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    std::fs::rename(next, path)?;
    Ok(size)
}

/// What the file holds; `None` when there is none. `latest` is a transaction id that the origin has not given out yet.
pub(super) fn load(
    path: &Path,
    settings: &Settings,
    origin: &str,
    latest: i64,
) -> Result<Option<Learner>, Unusable> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let body = bytes.strip_prefix(MAGIC).ok_or(Unusable::Format)?;
    let body = body.len().checked_sub(CHECKSUM).map(|end| &body[..end]).ok_or(Unusable::Damaged)?;
    let (content, sum) = bytes.split_at(bytes.len() - CHECKSUM);
    if xxh3_128(content).to_le_bytes() != sum {
        return Err(Unusable::Damaged);
    }
    let (length, body) = body.split_first_chunk::<4>().ok_or(Unusable::Damaged)?;
    let (head, engine) =
        body.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(Unusable::Damaged)?;
    let head: Head = serde_json::from_slice(head).map_err(|_| Unusable::Format)?;
    if head.origin != origin {
        return Err(Unusable::Origin);
    }
    let learner = Learner::restored(settings, head.place, engine)?;
    let ahead = learner.engine().clock().is_some_and(|c| c * 60 > settings.clock.now().timestamp());
    if ahead || learner.cursor().is_some_and(|c| c.xid >= latest) {
        return Err(Unusable::Future);
    }
    Ok(Some(learner))
}

/// Counts and sums what is written.
struct Summed {
    inner: BufWriter<File>,
    sum: Xxh3,
    size: u64,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::learner::{Cursor, LogRow};
    use crate::plan::settings::PlanArgs;

    fn settings(window: i64) -> Settings {
        let args = PlanArgs {
            origin: Some("host=localhost".to_owned()),
            window: Some(window),
            ..PlanArgs::default()
        };
        Settings::load(&args).unwrap()
    }

    fn learned() -> Learner {
        let settings = settings(900);
        let now = settings.clock.now();
        let mut learner = Learner::new(&settings);
        for i in 0..500 {
            let row = LogRow {
                edge: "ams1".into(),
                function: format!("f{}", i % 7),
                started_at: now.timestamp() - 86_400 + i * 60,
                shards: vec!["products".into()],
                missed: true,
                wait_us: 1,
                bytes: 1,
            };
            learner.learn(&row, now);
        }
        learner.read_up_to(Cursor { xid: 700, id: 500 });
        learner
    }

    #[test]
    fn comes_back_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let learner = learned();
        let load = |path: &Path, window, origin, latest| {
            super::load(path, &settings(window), origin, latest).map_err(|e| e.to_string())
        };
        assert!(load(&path, 900, "here", 800).unwrap().is_none());
        assert!(save(&path, &learner, "here").unwrap() > 1000);
        let restored = load(&path, 900, "here", 800).unwrap().unwrap();
        assert_eq!(restored.cursor(), learner.cursor());
        assert_eq!(restored.engine().counters(), learner.engine().counters());
        for (window, origin, latest, says) in [
            (1800, "here", 800, "settings"),
            (900, "there", 800, "another origin"),
            (900, "here", 700, "ends before"),
        ] {
            let error = load(&path, window, origin, latest).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(good.len() / 40) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            assert!(load(&path, 900, "here", 800).is_err(), "byte {at} changed");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(load(&path, 900, "here", 800).is_err(), "cut at {at}");
        }
    }
}

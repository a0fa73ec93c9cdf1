//! The file of predictions: `minute,function_id,edge,horizon,p`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};

/// Where the bytes go; gzip needs a proper end.
enum Sink {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Sink::Plain(w) => w.write(buf),
            Sink::Gzip(w) => w.write(buf),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Sink::Plain(w) => w.flush(),
            Sink::Gzip(w) => w.flush(),
        }
    }
}

/// A file of predictions being written.
pub(super) struct PredictionsFile(csv::Writer<Sink>);

impl PredictionsFile {
    /// Creates (or truncates) the file and writes its header.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("could not create {}", path.display()))?;
        let file = BufWriter::new(file);
        let sink = if path.extension().is_some_and(|e| e == "gz") {
            Sink::Gzip(GzEncoder::new(file, Compression::fast()))
        } else {
            Sink::Plain(file)
        };
        let mut writer = csv::Writer::from_writer(sink);
        writer.write_record(["minute", "function_id", "edge", "horizon", "p"])?;
        Ok(PredictionsFile(writer))
    }

    /// Adds one prediction.
    pub(super) fn write(
        &mut self,
        minute: i64,
        function: &str,
        edge: &str,
        horizon: u32,
        p: f32,
    ) -> anyhow::Result<()> {
        let (minute, horizon, p) = (minute.to_string(), horizon.to_string(), p.to_string());
        Ok(self.0.write_record([minute.as_str(), function, edge, horizon.as_str(), p.as_str()])?)
    }

    /// Writes what is buffered and closes the file.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let sink =
            self.0.into_inner().map_err(|e| anyhow::anyhow!("could not write predictions: {}", e.error()))?;
        let mut file = match sink {
            Sink::Plain(w) => w,
            Sink::Gzip(w) => w.finish()?,
        };
        Ok(file.flush()?)
    }
}

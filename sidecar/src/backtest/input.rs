//! A file of a trace, compressed or not, whatever its name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

/// What every gzip member begins with (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The file's contents, unpacked.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::new(File::open(path)?);
    let packed = file.fill_buf()?.starts_with(&GZIP);
    Ok(if packed { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn what_is_compressed_is_told_from_its_contents() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(b"minute").unwrap();
        for contents in [packed.finish().unwrap(), b"minute".to_vec()] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&contents).unwrap();
            let mut text = String::new();
            open(file.path()).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "minute");
        }
    }
}

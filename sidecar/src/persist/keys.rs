//! The keys that the persistent cache is encrypted with.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

/// Says which key without saying anything about it.
pub(crate) type KeyId = [u8; 8];

/// XChaCha20-Poly1305: its nonce is long enough to be drawn at random for as many entries as there will ever be.
pub(crate) const NONCE: usize = 24;

/// One key.
#[derive(Clone)]
pub(crate) struct Key {
    bytes: [u8; 32],
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The first one encrypts, all of them decrypt.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Vec<Key>);

impl Keys {
    /// One key per line, 32 bytes in base64 or hexadecimal. The error never holds what is in the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<Key> = lines.map(Key::parse).collect::<Option<_>>().ok_or(
            "expected 32 bytes in base64 or hexadecimal on each line, as `openssl rand -base64 32` gives them",
        )?;
        if keys.is_empty() { Err("there is no key".into()) } else { Ok(Keys(keys)) }
    }

    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let shown = file.display();
        let text =
            std::fs::read_to_string(file).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        Self::parse(&text).map_err(|mistake| format!("{shown}: {mistake}"))
    }

    pub(super) fn current(&self) -> &Key {
        &self.0[0]
    }

    pub(super) fn by_id(&self, id: KeyId) -> Option<&Key> {
        self.0.iter().find(|key| key.id() == id)
    }
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        let hex = || {
            let digits = text.as_bytes().chunks_exact(2).map(|pair| std::str::from_utf8(pair).ok());
            digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<Vec<u8>>>()
        };
        let bytes = if text.len() == 64 { hex()? } else { STANDARD.decode(text).ok()? };
        let bytes: [u8; 32] = bytes.try_into().ok()?;
        Some(Key { bytes, cipher: XChaCha20Poly1305::new(&bytes.into()) })
    }

    /// Half a hash of it and of other things, under a name of its own.
    fn hash(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(self.bytes);
        hash.update(purpose.as_bytes());
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let whole: [u8; 32] = hash.finalize().into();
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        half
    }

    pub(super) fn id(&self) -> KeyId {
        let hash = self.hash("id", &[]);
        let mut id = KeyId::default();
        id.copy_from_slice(&hash[..8]);
        id
    }

    /// Where an instance is kept: its name holds key values, so it is not there to be read.
    pub(super) fn place(&self, instance: &str) -> [u8; 16] {
        self.hash("place", &[instance.as_bytes()])
    }

    /// What an entry adds to the digest of all of them.
    pub(super) fn mark(&self, place: &[u8], nonce: &[u8]) -> u128 {
        u128::from_le_bytes(self.hash("mark", &[place, nonce]))
    }

    /// Nonce and ciphertext. `place` is bound to it: an entry that is moved elsewhere does not open.
    pub(super) fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: plain, aad: place };
        // Fails only beyond 256 GiB.
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload).unwrap_or_default();
        [&nonce[..], &sealed].concat()
    }

    /// The plaintext, if these bytes were sealed with this key for this place.
    pub(super) fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
        self.cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: place }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_never_shown() {
        let base64 = STANDARD.encode([7; 32]);
        let hex = "07".repeat(32);
        let keys = Keys::parse(&format!("# rotated in May\n{base64}\n\n{hex}\n")).unwrap();
        assert_eq!(keys.0[0].id(), keys.0[1].id());
        assert!(!format!("{keys:?}").contains('7'));
        for bad in ["", "short", &base64[1..], &"zz".repeat(32), "# only a comment"] {
            let error = Keys::parse(bad).err().unwrap();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn what_is_sealed_opens_only_with_its_key_in_its_place() {
        let keys = Keys::parse(&format!("{}\n{}", "01".repeat(32), "02".repeat(32))).unwrap();
        let (one, two) = (&keys.0[0], &keys.0[1]);
        let sealed = one.seal(b"here", b"rows");
        assert_eq!(one.open(b"here", &sealed).as_deref(), Some(&b"rows"[..]));
        assert_eq!((one.open(b"there", &sealed), two.open(b"here", &sealed)), (None, None));
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(one.open(b"here", &bent), None, "{at}");
            assert_eq!(one.open(b"here", &sealed[..at]), None, "{at}");
        }
        assert!(!sealed.windows(4).any(|window| window == b"rows"));
    }
}

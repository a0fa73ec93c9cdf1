use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};
use serde_json::{Value, json};

use super::*;
use crate::fuzzing::fuzz;
use axum::http::HeaderMap;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const FAR: u64 = 4_000_000_000;

fn rules(file: &tempfile::NamedTempFile) -> TokenRules {
    TokenRules {
        key_file: file.path().into(),
        audience: "foreshard".into(),
        leeway: Duration::from_secs(5),
        pins: vec![("customer_id".into(), "cust".into())],
    }
}

/// A guard that trusts what is in `keys`.
fn guard(keys: &str) -> Guard {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{keys}").unwrap();
    Guard::new(&Auth::Token(rules(&file))).unwrap()
}

fn claims() -> Value {
    json!({"sub": "f", "aud": "foreshard", "exp": FAR, "cust": 42})
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
}

fn hs256(claims: &Value, secret: &str) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// A token signed with the shared secret under any head.
fn with_head(head: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(head), part(claims));
    let signature = jsonwebtoken::crypto::sign(
        message.as_bytes(),
        &EncodingKey::from_secret(SECRET.as_bytes()),
        Algorithm::HS256,
    );
    format!("{message}.{}", signature.unwrap())
}

struct Signer {
    pair: KeyPair,
    algorithm: Algorithm,
}

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        let kind = if algorithm == Algorithm::EdDSA { &PKCS_ED25519 } else { &PKCS_ECDSA_P256_SHA256 };
        Signer { pair: KeyPair::generate_for(kind).unwrap(), algorithm }
    }

    fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let pem = self.pair.serialize_pem();
        let key = match self.algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()),
        };
        let head = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        encode(&head, claims, &key.unwrap()).unwrap()
    }

    fn jwk(&self, kid: &str) -> Value {
        let raw = self.pair.der_bytes();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self.algorithm {
            Algorithm::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(raw)}),
            _ => {
                json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": text(&raw[1..33]), "y": text(&raw[33..])})
            }
        }
    }
}

#[test]
fn only_a_valid_token_for_the_function_is_admitted() {
    let guard = guard(SECRET);
    assert!(guard.admit(&bearer(&hs256(&claims(), SECRET)), "f").is_ok());
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    assert!(guard.admit(&bearer(&hs256(&with("sub", json!("*")), SECRET)), "g").is_ok());
    assert!(guard.admit(&bearer(&hs256(&with("aud", json!(["x", "foreshard"])), SECRET)), "f").is_ok());
    assert!(guard.admit(&bearer(&hs256(&claims(), SECRET)), "g").is_err(), "for another function");
    assert!(guard.admit(&bearer(&hs256(&claims(), "another-secret-another-secret-123")), "f").is_err());
    assert!(guard.admit(&HeaderMap::new(), "f").is_err());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(
        guard.admit(&bearer(&hs256(&with("exp", json!(now - 1)), SECRET)), "f").is_ok(),
        "within the leeway"
    );
    for bad in [
        with("exp", json!(now - 60)),
        with("exp", json!("4000000000")),
        with("nbf", json!(now + 60)),
        with("nbf", json!("soon")),
        with("aud", json!("other")),
        with("aud", json!([])),
        with("sub", json!(7)),
        without("exp"),
        without("aud"),
        without("sub"),
    ] {
        assert!(guard.admit(&bearer(&hs256(&bad, SECRET)), "f").is_err(), "{bad}");
    }
}

#[test]
fn a_head_that_asks_for_anything_else_is_refused() {
    let guard = guard(SECRET);
    assert!(guard.admit(&bearer(&with_head(&json!({"alg": "HS256"}), &claims())), "f").is_ok());
    for head in [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "HS512"}),
        json!({"alg": "RS256"}),
        json!({"alg": "HS256", "crit": ["b64"], "b64": false}),
        json!({"alg": "HS256", "crit": null}),
        json!({"typ": "JWT"}),
        json!({"alg": ["HS256"]}),
    ] {
        assert!(guard.admit(&bearer(&with_head(&head, &claims())), "f").is_err(), "{head}");
    }
    let unsigned = with_head(&json!({"alg": "none"}), &claims());
    let unsigned = unsigned.rsplit_once('.').unwrap().0;
    for token in
        [format!("{unsigned}."), unsigned.to_owned(), String::new(), "a.b.c".into(), ".".repeat(9000)]
    {
        assert!(guard.admit(&bearer(&token), "f").is_err());
    }
    let twice = format!("{}.x", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","alg":"none"}"#));
    assert!(guard.admit(&bearer(&twice), "f").is_err());
    let mut long = claims();
    long["padding"] = json!("x".repeat(9000));
    let problem = guard.admit(&bearer(&hs256(&long, SECRET)), "f").unwrap_err();
    assert!(format!("{problem:?}").contains("too long"), "{problem:?}");
    let mut two = bearer(&hs256(&claims(), SECRET));
    two.append(header::AUTHORIZATION, "Bearer x".parse().unwrap());
    assert!(guard.admit(&two, "f").is_err(), "which of the two counts would be anybody's guess");
}

#[test]
fn what_everybody_has_is_no_secret_in_any_form() {
    let signer = Signer::new(Algorithm::EdDSA);
    let pem = signer.pair.public_key_pem();
    let ssh = format!("ssh-ed25519 {} somebody@somewhere", "A".repeat(68));
    let array =
        r#"[{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}]"#;
    let lines = format!("{}\n{}", "a".repeat(40), "b".repeat(40));
    let der = signer.pair.subject_public_key_info();
    for text in [ssh.as_bytes(), array.as_bytes(), lines.as_bytes(), &der] {
        let refused = Keys::parse(text).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(refused.contains("public key"), "{refused}");
    }
    // Remarks around a block, and a byte order mark before it, make no other key of it.
    for text in [format!("# of the issuer\n{pem}\n# end\n"), format!("\u{feff}{pem}")] {
        let guard = guard(&text);
        let forged = hs256(&claims(), text.trim());
        assert!(guard.admit(&bearer(&forged), "f").is_err());
        assert!(guard.admit(&bearer(&signer.token(None, &claims())), "f").is_ok());
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    for algorithm in [Algorithm::EdDSA, Algorithm::ES256] {
        let signer = Signer::new(algorithm);
        let public = signer.pair.public_key_pem();
        let guard = guard(&public);
        assert!(guard.admit(&bearer(&signer.token(None, &claims())), "f").is_ok(), "{algorithm:?}");
        for forged in [hs256(&claims(), &public), hs256(&claims(), public.trim())] {
            assert!(guard.admit(&bearer(&forged), "f").is_err(), "{algorithm:?}");
        }
        let other = Signer::new(algorithm);
        assert!(guard.admit(&bearer(&other.token(None, &claims())), "f").is_err());
    }
}

#[test]
fn keys_rotate_by_name_and_without_a_restart() {
    let (old, new) = (Signer::new(Algorithm::EdDSA), Signer::new(Algorithm::ES256));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa"});
    write!(file, "{}", json!({"keys": [rsa, old.jwk("old")]})).unwrap();
    let guard = Guard::new(&Auth::Token(rules(&file))).unwrap();
    let (by_old, by_new) = (old.token(Some("old"), &claims()), new.token(Some("new"), &claims()));
    let admits = |token: &str| guard.admit(&bearer(token), "f").is_ok();
    assert!(admits(&by_old) && !admits(&by_new));
    assert!(!admits(&old.token(Some("new"), &claims())), "a key under another name");
    std::fs::write(file.path(), json!({"keys": [old.jwk("old"), new.jwk("new")]}).to_string()).unwrap();
    guard.reload().unwrap();
    assert!(admits(&by_old) && admits(&by_new));
    std::fs::write(file.path(), "{\"keys\": [").unwrap();
    assert!(guard.reload().is_err());
    assert!(admits(&by_old) && admits(&by_new), "a file that makes no sense changes nothing");
    std::fs::write(file.path(), json!({"keys": [new.jwk("new")]}).to_string()).unwrap();
    guard.reload().unwrap();
    assert!(!admits(&by_old) && admits(&by_new));
}

#[test]
fn key_files_that_can_not_be_used_are_refused_without_being_shown() {
    let private = Signer::new(Algorithm::EdDSA).pair.serialize_pem();
    let short = json!({"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}).to_string();
    for bad in
        ["short", "{\"keys\": []}", "{\"kyes\": [\"hunter22\"]}", &short, &private, "-----BEGIN hunter22"]
    {
        let error = format!("{:#}", Keys::parse(bad.as_bytes()).err().unwrap());
        assert!(!error.contains("hunter22") && !error.contains("c2hvcnQ"), "{error}");
    }
}

#[test]
fn a_pinned_column_has_one_value() {
    let guard = guard(SECRET);
    let admit = |cust: Value| {
        let mut claims = claims();
        claims["cust"] = cust;
        guard.admit(&bearer(&hs256(&claims, SECRET)), "f").unwrap()
    };
    let may = |bearer: &Bearer, id: &str| bearer.may_read(&id.parse().unwrap()).is_ok();
    for bearer in [admit(json!(42)), admit(json!("42")), admit(json!([7, 42]))] {
        assert!(may(&bearer, "cart?customer_id=42") && may(&bearer, "products"));
        assert!(may(&bearer, "seat?row=1"), "other columns are free");
        assert!(!may(&bearer, "cart?customer_id=43") && !may(&bearer, "cart?customer_id"));
    }
    for bearer in [admit(Value::Null), admit(json!({"42": 42})), admit(json!([[42]]))] {
        assert!(!may(&bearer, "cart?customer_id=42") && may(&bearer, "products"));
    }
}

#[test]
fn fuzz_tokens() {
    let ec = Signer::new(Algorithm::ES256);
    let set = json!({"keys": [ec.jwk("a"), {"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "kid": "b"}]});
    let guard = guard(&set.to_string());
    let good = [hs256(&claims(), SECRET), ec.token(Some("a"), &claims())];
    let head = |head: &str| format!("Bearer {}.e30.x", URL_SAFE_NO_PAD.encode(head)).into_bytes();
    let mut samples: Vec<Vec<u8>> = good.iter().map(|token| format!("Bearer {token}").into_bytes()).collect();
    samples.extend([
        head(r#"{"alg":"ES256","kid":"a"}"#),
        head(r#"{"alg":"none"}"#),
        set.to_string().into_bytes(),
    ]);
    let words: [&[u8]; 6] = [b".", b"Bearer ", b"eyJ", b"=", b"\"kty\":\"OKP\"", b"bnVsbA"];
    fuzz("tokens", &samples, &words, |input| {
        // As a set of keys, and as the header of a request.
        let _ = Keys::parse(input.trim_ascii());
        let Ok(value) = axum::http::HeaderValue::from_bytes(input) else { return false };
        let admitted = guard.admit(&HeaderMap::from_iter([(header::AUTHORIZATION, value)]), "f").is_ok();
        // Whatever is admitted is one of the two tokens, give or take white space and the case of the scheme.
        let token = String::from_utf8_lossy(input).split_once(' ').map(|(_, token)| token.trim().to_owned());
        assert!(!admitted || token.is_some_and(|token| good.contains(&token)), "forged");
        admitted
    });
}

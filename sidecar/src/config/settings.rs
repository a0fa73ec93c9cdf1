//! The table of settings.

/// One setting: its name in the file (upper-cased with `FORESHARD_` before it in the environment; as a flag of `serve`
/// with dashes), its default, and what it means.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
}

/// Every setting of `serve`. Sizes take B, KiB, MiB, GiB; times take us, ms, s, min, h.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        name: "origin",
        default: "",
        help: "connection string of the origin, postgresql://USER@HOST:PORT/DATABASE, with sslmode (disable, require, verify-ca, verify-full) and sslrootcert where needed; an origin that is not on this machine is verified in full unless sslmode says otherwise",
    },
    Setting {
        name: "edge",
        default: "",
        help: "name of this edge, as registered with foreshard.create_edge",
    },
    Setting { name: "listen", default: "127.0.0.1:8420", help: "ADDRESS:PORT or unix:PATH for functions" },
    Setting { name: "auth", default: "token", help: "token, or none (loopback and Unix sockets only)" },
    Setting {
        name: "auth_key_file",
        default: "",
        help: "with auth = token: file with a JSON Web Key Set, a PEM public key (Ed25519, ES256) or the HS256 secret; read again when it changes and on SIGHUP",
    },
    Setting { name: "auth_audience", default: "foreshard", help: "audience a token must name" },
    Setting {
        name: "auth_leeway",
        default: "30s",
        help: "clocks may differ by this much when a token's exp and nbf are checked",
    },
    Setting {
        name: "auth_pins",
        default: "",
        help: "key columns that a token pins, as COLUMN=CLAIM,…: a keyed shard is read only where that column equals that claim",
    },
    Setting {
        name: "tls_cert",
        default: "",
        help: "serve HTTPS with this PEM certificate chain; read again when it changes and on SIGHUP",
    },
    Setting { name: "tls_key", default: "", help: "PEM private key of tls_cert" },
    Setting {
        name: "tls_client_ca",
        default: "",
        help: "PEM certificates of authorities: clients without a certificate of one of them are refused",
    },
    Setting {
        name: "prefetch",
        default: "on",
        help: "on, or off to ignore schedules and only cache reactively",
    },
    Setting { name: "prefetch_bytes", default: "256MiB", help: "budget of the prefetch cache" },
    Setting { name: "reactive_bytes", default: "64MiB", help: "budget of the reactive cache" },
    Setting {
        name: "min_confidence",
        default: "0.2",
        help: "schedule entries at or below this confidence are dropped",
    },
    Setting {
        name: "lead",
        default: "60s",
        help: "how long before its window a schedule is acted on, in schedule time",
    },
    Setting {
        name: "prefetch_bytes_per_second",
        default: "0",
        help: "most bytes that prefetches bring in any second; 0: no limit but what the link bears",
    },
    Setting { name: "prefetch_concurrency", default: "4", help: "most prefetches under way at once" },
    Setting { name: "prefetch_batch", default: "16", help: "most instances in one prefetch" },
    Setting {
        name: "max_staleness",
        default: "5s",
        help: "without proof of freshness for this long, copies are not served",
    },
    Setting {
        name: "request_timeout",
        default: "15s",
        help: "a request waits at most this long for its rows",
    },
    Setting {
        name: "min_lsn_wait",
        default: "2s",
        help: "a request waits at most this long for the stream to reach its Foreshard-Min-Lsn",
    },
    Setting {
        name: "fetch_timeout",
        default: "10s",
        help: "a fetch from the origin takes at most this long",
    },
    Setting {
        name: "connect_timeout",
        default: "5s",
        help: "a connection to the origin is given up after this",
    },
    Setting {
        name: "fetch_connections",
        default: "2",
        help: "connections for fetches on demand, and as many for prefetches",
    },
    Setting {
        name: "fetch_concurrency",
        default: "256",
        help: "most fetches on demand under way at once; further ones wait for their turn",
    },
    Setting { name: "heartbeat", default: "500ms", help: "how often the origin is asked how far its log is" },
    Setting {
        name: "log_buffer",
        default: "10000",
        help: "executions kept while the origin is out of reach; more are dropped and counted",
    },
    Setting { name: "log_interval", default: "1s", help: "how often executions are written to the origin" },
    Setting { name: "max_body", default: "64KiB", help: "largest request body; a larger one gets 413" },
    Setting {
        name: "max_head",
        default: "64KiB",
        help: "largest request line and header fields together, 8 KiB to 1 MiB; larger ones, and more than 256 fields, get 431",
    },
    Setting {
        name: "max_url",
        default: "32KiB",
        help: "longest path with query, at most 64 KiB; a longer one gets 414",
    },
    Setting {
        name: "max_connections",
        default: "10000",
        help: "connections open at once; further ones wait to be accepted",
    },
    Setting {
        name: "max_requests",
        default: "5000",
        help: "requests under way at once; further ones get 503 with Retry-After",
    },
    Setting {
        name: "head_timeout",
        default: "20s",
        help: "a request's head has to arrive within this time; an idle connection is closed after it",
    },
    Setting { name: "body_timeout", default: "10s", help: "a request's body has to arrive within this time" },
    Setting {
        name: "write_timeout",
        default: "20s",
        help: "a client that takes nothing of its answer for this long is cut off",
    },
    Setting {
        name: "cache_dir",
        default: "",
        help: "folder of the persistent cache: copies are kept there, encrypted, and a restart finds them; empty for none",
    },
    Setting {
        name: "cache_key_file",
        default: "",
        help: "file with the keys of the persistent cache, one a line, 32 bytes in base64 or hexadecimal: the first one encrypts, all decrypt; read again when it changes and on SIGHUP",
    },
    Setting {
        name: "cache_key",
        default: "",
        help: "the same without a file, in FORESHARD_CACHE_KEY; never a flag",
    },
    Setting {
        name: "cache_interval",
        default: "1s",
        help: "how often what has changed is written to the persistent cache",
    },
    Setting {
        name: "log",
        default: crate::logging::USUAL,
        help: "what is said on standard error: a level, or tracing directives; read again from the file on SIGHUP",
    },
    Setting { name: "clock", default: "wall", help: "wall, or replay:T0@W0*RATE to replay a trace" },
];

/// Settings that are secrets themselves: not flags, because a command line is everybody's to read.
pub(crate) const SECRET: &[&str] = &["cache_key"];

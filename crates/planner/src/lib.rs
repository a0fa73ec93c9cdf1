//! The predictive analytics engine of foreshard: which functions will run at which edge, and which rows they will need.
//!
//! Pure: no I/O, no clock, no randomness. The caller feeds [`Engine`] what ran ([`Engine::observe`]), tells it which
//! minute has ended ([`Engine::tick`]), and asks for a schedule ([`Engine::schedule`]). A prediction made at minute `m`
//! uses nothing after `m`.
//!
//! | module | concept |
//! |---|---|
//! | `engine` | takes executions in, ticks, predicts |
//! | `registry` | edges, functions and histories, within fixed limits |
//! | `history`, `minutes`, `gaps`, `seasons`, `rhythm` | what is remembered of one function at one edge |
//! | `residues`, `stretches` | at which minutes of the hour it starts; which half-hours, hours, … it was called in |
//! | `transitions`, `heat` | which function follows which; how busy an edge is against what is usual |
//! | `archetypes` | functions of a kind, clustered: what to expect of those with little history |
//! | `experts`, `tables` | what each side of a history says |
//! | `model`, `mixer`, `calibration`, `guard` | one probability out of all experts, made honest, watched for drift |
//! | `keys`, `associations` | which shard instances a function reads; which key follows which |
//! | `bindings` | which function reads the key that another has just read |
//! | `places` | which edges are near one another |
//! | `hints` | what somebody has declared, and how far it is true |
//! | `window` | windows that are none of the horizons |
//! | `schedule` | from probabilities to what is published |
//! | `explain` | the same in words and numbers, for one function |
//! | `quality` | the control group, and what published schedules were worth |
//! | `state` | all that is known, as bytes |
//! | `measure` | baselines, and replays of a cache that acts on predictions: what they are worth |
//! | `advice` | from what functions read, which shards would serve them better |
//! | `score` | average precision, recall, Brier score, calibration error |
pub mod advice;
mod archetypes;
mod associations;
mod bindings;
mod calibration;
mod config;
mod engine;
mod experts;
mod explain;
mod gaps;
mod guard;
mod heat;
mod hints;
mod history;
mod keys;
pub mod measure;
mod minutes;
mod mixer;
mod model;
mod numeric;
mod places;
mod quality;
mod recall;
mod refinement;
mod registry;
mod residues;
mod rhythm;
mod schedule;
mod score;
mod season_experts;
mod seasons;
mod state;
mod stretches;
mod tables;
mod transitions;
mod turns;
mod window;

pub use associations::{Associations, Expected};
pub use config::{ConfigError, EngineConfig, Horizon, PREDICTIONS_PER_TICK, Part};
pub use engine::{Counters, Engine, Invocation, Observed, Prediction, Sink};
pub use explain::{Announcement, Contribution, Explanation, InstanceRead};
pub use hints::{Declaration, HintSays};
pub use quality::{Execution, Group, Quality, Scored};
pub use schedule::{EdgeSchedule, ScheduleEntry, ScheduleError, WindowRequest};
pub use score::{Score, score};
pub use state::StateError;

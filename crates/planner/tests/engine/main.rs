//! The engine as its callers see it, on generated traces.

mod ablation;
mod bindings;
mod calibration;
mod cold_start;
mod harm;
mod hints;
mod honesty;
mod hostile;
mod regions;
mod restart;
mod scale;
mod schedules;
mod trace;

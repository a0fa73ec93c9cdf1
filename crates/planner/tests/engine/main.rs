//! The engine as its callers see it, on generated traces.

mod calibration;
mod cold_start;
mod honesty;
mod hostile;
mod schedules;
mod trace;

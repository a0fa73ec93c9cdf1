//! How busy the machine is, from the kernel's files; a container's limits and pressure count where there are any.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use foreshard_edge::Resources;
use tokio::time::interval;

use super::Shared;

/// Reports CPU and memory to the core, several times a second, until the sidecar ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut every = interval(Duration::from_millis(250));
    let mut before = None;
    loop {
        every.tick().await;
        let ticks = fs::read_to_string("/proc/stat").ok().as_deref().and_then(cpu_ticks);
        let cpu = match (before, ticks) {
            (Some((busy0, all0)), Some((busy, all))) if all > all0 => {
                (busy - busy0) as f64 / (all - all0) as f64
            }
            _ => 0.0,
        };
        before = ticks;
        let memory = cgroup_memory().or_else(machine_memory).unwrap_or(0.0);
        let (cpu_pressure, memory_pressure) = (pressure("cpu"), pressure("memory"));
        shared.with(|core, _| core.resources(Resources { cpu, memory, cpu_pressure, memory_pressure }));
    }
}

/// Busy and all ticks since boot, over all processors.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
    let all = fields.iter().sum::<u64>();
    let idle = fields.get(3)? + fields.get(4)?;
    Some((all - idle, all))
}

/// Share of the last ten seconds in which something waited for the resource; `None` where the kernel does not say.
fn pressure(resource: &str) -> Option<f64> {
    let read = |path: String| fs::read_to_string(path).ok();
    let text = read(format!("/sys/fs/cgroup/{resource}.pressure"))
        .or_else(|| read(format!("/proc/pressure/{resource}")))?;
    some_avg10(&text)
}

/// Of a file of pressure stall information.
fn some_avg10(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    Some(percent / 100.0)
}

fn cgroup_memory() -> Option<f64> {
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit: f64 = read("memory.max")?.trim().parse().ok()?;
    let current: f64 = read("memory.current")?.trim().parse().ok()?;
    // File pages count as used but go when they are needed.
    let stat = read("memory.stat")?;
    let file: f64 =
        stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok()).unwrap_or(0.0);
    Some((current - file) / limit)
}

fn machine_memory() -> Option<f64> {
    available_share(&fs::read_to_string("/proc/meminfo").ok()?).map(|available| 1.0 - available)
}

fn available_share(meminfo: &str) -> Option<f64> {
    let field = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(field("MemAvailable:")? / field("MemTotal:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files() {
        assert_eq!(cpu_ticks("cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 1 1"), Some((30, 100)));
        assert_eq!(cpu_ticks("nonsense"), None);
        let pressure = "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(some_avg10(pressure), Some(0.125));
        assert_eq!(some_avg10(""), None);
        assert_eq!(available_share("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"), Some(0.25));
    }
}

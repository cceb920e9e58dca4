//! What a process has used so far, from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// CPU time and memory of some processes together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU seconds since each began, of user and system.
    pub cpu: f64,
    /// Bytes that are resident now.
    pub resident: u64,
}

/// What these processes have used, with all their threads.
///
/// # Errors
/// Where one of them has ended.
pub fn usage(pids: &[u32]) -> Result<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let stat =
            fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} has ended"))?;
        // The name, in parentheses, may hold anything: what counts begins behind it.
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        // Fields 14, 15 and 24 of proc(5), less the two before the parenthesis and counted from 0.
        sum.cpu += (number(11) + number(12)) as f64 / rustix::param::clock_ticks_per_second() as f64;
        sum.resident += number(21) * rustix::param::page_size() as u64;
    }
    Ok(sum)
}

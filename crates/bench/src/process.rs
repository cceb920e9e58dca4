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

/// What a process and those it started have used, the ended ones included.
///
/// # Errors
/// Where it has ended.
pub fn usage_of_tree(pid: u32) -> Result<Usage> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut sum = usage(&[pid])?;
    sum.cpu += waited_for(pid)?;
    for child in children.split_whitespace() {
        // One that ends meanwhile is counted with its parent the next time.
        if let Ok(used) = child.parse().map_err(Into::into).and_then(|child| usage(&[child])) {
            sum.cpu += used.cpu;
            sum.resident += used.resident;
        }
    }
    Ok(sum)
}

/// CPU seconds of what a process had started and waited for.
fn waited_for(pid: u32) -> Result<f64> {
    let fields = fields(pid)?;
    // Fields 16 and 17.
    Ok((fields.number(13) + fields.number(14)) as f64 / ticks())
}

/// What these processes have used, with all their threads.
///
/// # Errors
/// Where one of them has ended.
pub fn usage(pids: &[u32]) -> Result<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let fields = fields(*pid)?;
        // Fields 14, 15 and 24 of proc(5), less the two before the parenthesis and counted from 0.
        sum.cpu += (fields.number(11) + fields.number(12)) as f64 / ticks();
        sum.resident += fields.number(21) * rustix::param::page_size() as u64;
    }
    Ok(sum)
}

/// What `/proc/<pid>/stat` tells after the process's name.
struct Fields(Vec<u64>);

impl Fields {
    fn number(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or_default()
    }
}

fn fields(pid: u32) -> Result<Fields> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} has ended"))?;
    // The name, in parentheses, may hold anything: what counts begins behind it.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    Ok(Fields(fields.map(|text| text.parse().unwrap_or_default()).collect()))
}

fn ticks() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

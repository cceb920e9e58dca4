//! The resource usage of processes, from `/proc`.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// The sum of CPU time, context switches and memory of some processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system CPU time since the processes started, in seconds.
    pub cpu: f64,
    /// Resident memory now, in bytes.
    pub resident: u64,
    /// Context switches of the threads that exist now.
    pub switches: u64,
}

impl Usage {
    /// The usage since an earlier time, and the resident memory now.
    fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            resident: self.resident,
            // The counts of threads that have ended meanwhile are lost.
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// The resource usage of a turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// The contestant's own processes.
    pub own: Usage,
    /// The servers behind the contestant.
    pub others: Usage,
    /// This process, which generates the load.
    pub load: Usage,
}

/// Measures the resource usage of servers from a start time.
pub struct Watch {
    own: Vec<u32>,
    others: Vec<u32>,
    before: Spent,
}

impl Watch {
    /// Begins to measure. The usage of the others includes their child processes.
    ///
    /// # Errors
    /// If one of the processes has ended.
    pub fn begin(own: &[u32], others: &[u32]) -> Result<Self> {
        let mut watch = Self { own: own.to_vec(), others: others.to_vec(), before: Spent::default() };
        watch.before = watch.spent()?;
        Ok(watch)
    }

    /// The usage since the beginning.
    ///
    /// # Errors
    /// If one of the processes has ended.
    pub fn spent(&self) -> Result<Spent> {
        let mut others = Usage::default();
        for pid in &self.others {
            add(&mut others, usage_of_tree(*pid)?);
        }
        let now = Spent { own: usage(&self.own)?, others, load: usage(&[std::process::id()])? };
        let before = &self.before;
        Ok(Spent {
            own: now.own.since(&before.own),
            others: now.others.since(&before.others),
            load: now.load.since(&before.load),
        })
    }
}

/// The usage of a process and its children, including those that have ended.
///
/// # Errors
/// If the process has ended.
pub fn usage_of_tree(pid: u32) -> Result<Usage> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut sum = usage(&[pid])?;
    sum.cpu += waited_for(pid)?;
    for child in children.split_whitespace() {
        // A child that ends meanwhile is counted with its parent the next time.
        if let Ok(used) = child.parse().map_err(Into::into).and_then(|child| usage(&[child])) {
            add(&mut sum, used);
        }
    }
    Ok(sum)
}

/// The usage of these processes, with all their threads.
///
/// # Errors
/// If one of the processes has ended.
pub fn usage(pids: &[u32]) -> Result<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let fields = fields(*pid)?;
        // These are the fields 14, 15 and 24 of proc(5). Here the index begins at 0 with the third field.
        let cpu = (fields.number(11) + fields.number(12)) as f64 / ticks();
        let resident = fields.number(21) * rustix::param::page_size() as u64;
        add(&mut sum, Usage { cpu, resident, switches: switches(*pid)? });
    }
    Ok(sum)
}

/// The peak resident memory of a process since it started, or since [`forget_peak`], in bytes.
///
/// # Errors
/// If the process has ended.
pub fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(of_status(&status, "VmHWM:").context("no VmHWM")? * 1024)
}

/// Resets the peak resident memory of a process.
///
/// # Errors
/// If the process has ended or belongs to another user.
pub fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn add(sum: &mut Usage, more: Usage) {
    sum.cpu += more.cpu;
    sum.resident += more.resident;
    sum.switches += more.switches;
}

/// The context switches of all threads of a process.
fn switches(pid: u32) -> Result<u64> {
    let count = |task: &Path| {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
            .into_iter()
            .filter_map(|label| of_status(&status, label))
            .sum::<u64>()
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(tasks.filter_map(Result::ok).map(|task| count(&task.path())).sum())
}

/// A number of `/proc/<pid>/status`.
fn of_status(status: &str, label: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(label)?.split_whitespace().next()?.parse().ok())
}

/// The CPU seconds of ended children that a process has waited for.
fn waited_for(pid: u32) -> Result<f64> {
    let fields = fields(pid)?;
    // Fields 16 and 17.
    Ok((fields.number(13) + fields.number(14)) as f64 / ticks())
}

/// The fields of `/proc/<pid>/stat` after the process name.
struct Fields(Vec<u64>);

impl Fields {
    fn number(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or_default()
    }
}

fn fields(pid: u32) -> Result<Fields> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} has ended"))?;
    // The name is in parentheses and may contain anything, so parsing begins after the last parenthesis.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    Ok(Fields(fields.map(|text| text.parse().unwrap_or_default()).collect()))
}

fn ticks() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

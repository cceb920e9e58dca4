//! What processes have used so far, from `/proc`.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// CPU time, context switches and memory of some processes together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU seconds since each began, of user and system.
    pub cpu: f64,
    /// Bytes that are resident now.
    pub resident: u64,
    /// Context switches of the threads that live now.
    pub switches: u64,
}

impl Usage {
    /// What was used since an earlier moment, and what is resident now.
    fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            resident: self.resident,
            // Threads that ended meanwhile took their count with them.
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// Who used what in a turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// The contestant's own processes.
    pub own: Usage,
    /// The other servers behind it.
    pub others: Usage,
    /// This process, which makes the load.
    pub load: Usage,
}

/// What servers use from one moment on.
pub struct Watch {
    own: Vec<u32>,
    others: Vec<u32>,
    before: Spent,
}

impl Watch {
    /// From now on. What the others start and end counts as theirs.
    ///
    /// # Errors
    /// If one of them has ended.
    pub fn begin(own: &[u32], others: &[u32]) -> Result<Self> {
        let mut watch = Self { own: own.to_vec(), others: others.to_vec(), before: Spent::default() };
        watch.before = watch.spent()?;
        Ok(watch)
    }

    /// What was used since.
    ///
    /// # Errors
    /// If one of them has ended.
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

/// What a process and those it started have used, the ended ones included.
///
/// # Errors
/// If it has ended.
pub fn usage_of_tree(pid: u32) -> Result<Usage> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut sum = usage(&[pid])?;
    sum.cpu += waited_for(pid)?;
    for child in children.split_whitespace() {
        // One that ends meanwhile is counted with its parent the next time.
        if let Ok(used) = child.parse().map_err(Into::into).and_then(|child| usage(&[child])) {
            add(&mut sum, used);
        }
    }
    Ok(sum)
}

/// What these processes have used, with all their threads.
///
/// # Errors
/// If one of them has ended.
pub fn usage(pids: &[u32]) -> Result<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let fields = fields(*pid)?;
        // Fields 14, 15 and 24 of proc(5), less the two before the parenthesis and counted from 0.
        let cpu = (fields.number(11) + fields.number(12)) as f64 / ticks();
        let resident = fields.number(21) * rustix::param::page_size() as u64;
        add(&mut sum, Usage { cpu, resident, switches: switches(*pid)? });
    }
    Ok(sum)
}

/// The most that was resident of a process since it began, or since [`forget_peak`], in bytes.
///
/// # Errors
/// If it has ended.
pub fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(of_status(&status, "VmHWM:").context("no VmHWM")? * 1024)
}

/// Counts the most that is resident of a process again.
///
/// # Errors
/// If it has ended or is not ours.
pub fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn add(sum: &mut Usage, more: Usage) {
    sum.cpu += more.cpu;
    sum.resident += more.resident;
    sum.switches += more.switches;
}

/// Context switches of all threads of a process.
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

/// CPU seconds of what a process had started and waited for.
fn waited_for(pid: u32) -> Result<f64> {
    let fields = fields(pid)?;
    // Fields 16 and 17.
    Ok((fields.number(13) + fields.number(14)) as f64 / ticks())
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

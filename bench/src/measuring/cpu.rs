//! CPU time of the bridge, of its Postgres and of ourselves, as Linux counts it.

use std::fs;

/// Linux counts in hundredths of a second, whatever the kernel's own tick (sysconf(_SC_CLK_TCK) is 100).
const MS_PER_TICK: u64 = 10;

/// CPU time at a moment.
pub struct Usage {
    pid: u32,
    bridge_ms: u64,
    postgres_ms: u64,
    own_ms: u64,
}

/// CPU time used in between.
pub struct Used {
    bridge_ms: u64,
    postgres_ms: u64,
    own_ms: u64,
}

impl Usage {
    /// CPU time of the bridge, of the Postgres that it started, and of the bench until now.
    pub fn of(pid: u32) -> Self {
        let (bridge_ms, postgres_ms) = read(pid);
        Self { pid, bridge_ms, postgres_ms, own_ms: own() }
    }

    /// CPU time since then.
    pub fn until_now(&self) -> Used {
        let (bridge_ms, postgres_ms) = read(self.pid);
        Used {
            bridge_ms: bridge_ms.saturating_sub(self.bridge_ms),
            postgres_ms: postgres_ms.saturating_sub(self.postgres_ms),
            own_ms: own().saturating_sub(self.own_ms),
        }
    }
}

impl Used {
    /// CPU time of the bridge with its Postgres.
    pub const fn bridge_and_postgres_ms(&self) -> u64 {
        self.bridge_ms + self.postgres_ms
    }

    /// CPU time of the bench, with the simulators and receivers in it.
    pub const fn own_ms(&self) -> u64 {
        self.own_ms
    }

    /// The same as shares of one core over a time, for people.
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "figures for people to read")]
    pub fn of_a_core(&self, time: std::time::Duration) -> String {
        let share = |ms: u64| ms as f64 / time.as_secs_f64() / 10.0;
        format!(
            "CPU: bridge {:.1} %, Postgres {:.1} %, bench {:.1} % of a core",
            share(self.bridge_ms),
            share(self.postgres_ms),
            share(self.own_ms)
        )
    }

    /// The same for one delivery, for people.
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "figures for people to read")]
    pub fn per(&self, deliveries: u64) -> String {
        let each = |ms: u64| ms as f64 / deliveries.max(1) as f64;
        format!(
            "CPU per delivery: {:.3} ms = bridge {:.3} + Postgres {:.3}; and bench {:.3}",
            each(self.bridge_ms + self.postgres_ms),
            each(self.bridge_ms),
            each(self.postgres_ms),
            each(self.own_ms)
        )
    }
}

/// Ours: the simulated upstream and the receiver, which share the machine with the bridge.
fn own() -> u64 {
    stat(std::process::id()).map_or(0, |own| own.own_ms)
}

/// A process' own time, and that of its children and theirs (ended ones are in their parent's account).
fn read(pid: u32) -> (u64, u64) {
    let all: Vec<Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
        .collect();
    let own = all.iter().find(|p| p.pid == pid).map_or(0, |p| p.own_ms);
    let postmasters: Vec<&Stat> = all.iter().filter(|p| p.parent == pid).collect();
    let backends = all.iter().filter(|p| postmasters.iter().any(|master| master.pid == p.parent));
    let postgres = postmasters.iter().map(|p| p.own_ms + p.children_ms).sum::<u64>()
        + backends.map(|p| p.own_ms).sum::<u64>();
    (own, postgres)
}

struct Stat {
    pid: u32,
    parent: u32,
    own_ms: u64,
    children_ms: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything; fields are counted behind it.
    let fields: Vec<u64> =
        text.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let field = |n: usize| fields.get(n).copied().unwrap_or(0);
    Some(Stat {
        pid,
        parent: u32::try_from(field(1)).ok()?,
        own_ms: (field(11) + field(12)) * MS_PER_TICK,
        children_ms: (field(13) + field(14)) * MS_PER_TICK,
    })
}

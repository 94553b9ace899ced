//! Carries out examinations of sources' settings (`examinations.rs`), each in a task of its own on this
//! thread.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

use crate::config::EgressProxy;
use crate::domain::presence::examination::{Finding, Step, Trouble};
use crate::domain::webhook::target::TargetPolicy;
use crate::examinations::{Examinations, Order};
use crate::genesys::examination::examine;

/// An examination ends within this.
const WITHIN: Duration = Duration::from_secs(120);
/// How often old ones are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Starts what examines settings of sources, on this thread.
#[must_use]
pub fn start(targets: TargetPolicy, proxy: Option<EgressProxy>) -> Arc<Examinations> {
    let (examinations, orders) = Examinations::new();
    let examinations = Arc::new(examinations);
    actix::spawn(run(orders, targets, proxy));
    actix::spawn(forget(Arc::downgrade(&examinations)));
    examinations
}

/// Carries out what is ordered; ends with the last sender of orders.
async fn run(mut orders: mpsc::Receiver<Order>, targets: TargetPolicy, proxy: Option<EgressProxy>) {
    while let Some(order) = orders.recv().await {
        actix::spawn(carry_out(order, targets.clone(), proxy.clone()));
    }
}

/// Forgets old examinations, and the secrets in them, as long as somebody holds them.
async fn forget(examinations: Weak<Examinations>) {
    let mut ticks = interval(FORGET_EVERY);
    loop {
        ticks.tick().await;
        let Some(examinations) = examinations.upgrade() else { return };
        examinations.forget_old();
    }
}

async fn carry_out(order: Order, targets: TargetPolicy, proxy: Option<EgressProxy>) {
    let Order(examination) = &order;
    let targets = examination.draft.guarded.then_some(targets);
    let bad = |name, what: &str, remedy| {
        let what = what.to_owned();
        examination.tell(Step { name, finding: Finding::Bad(Trouble { what, remedy }) });
    };
    let steps = examine(&examination.draft.settings, targets, proxy, |step| examination.tell(step));
    match timeout(WITHIN, steps).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "failed to set up TLS for an examination of a source; showing that it did");
            bad("settings", "TLS cannot be set up on this machine", "see the log of the bridge");
        }
        Err(_) => bad(
            "time",
            "the examination took more than two minutes",
            "see which of the steps was slow, and try again; the platform or a proxy on the way may be overloaded",
        ),
    }
}

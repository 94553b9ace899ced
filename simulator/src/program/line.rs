//! One arriving POST as one line for people.

use genesys_simulator::clock::time_of_day;
use genesys_simulator::crm::Post;

/// `09:30:00.250  agent-07  AVAILABLE → ON_QUEUE  1.8 ms  signature ok`
pub fn of(post: &Post, latency_ms: Option<f64>) -> String {
    let at = time_of_day(post.arrived_at);
    let signature = match &*post.verdict {
        Ok(()) => "signature ok".to_owned(),
        Err(why) => format!("SIGNATURE WRONG ({why})"),
    };
    let Ok(event) = &*post.event else {
        let kind = post.kind().unwrap_or_else(|| "unreadable body".to_owned());
        return format!("{at}  {kind}  {signature}");
    };
    let latency = latency_ms.map_or_else(|| "-".to_owned(), |latency| format!("{latency:.1} ms"));
    format!(
        "{at}  {:<12} {:>9} → {:<9} {latency:>9}  {signature}",
        event.agent(),
        event.previous().unwrap_or("?"),
        event.state()
    )
}

/// Latency by the frame's own timestamp and our clock, for a CRM that knows nothing else.
pub fn wall_latency_ms(post: &Post) -> Option<f64> {
    post.latency_ms().and_then(|latency| i32::try_from(latency).ok()).map(f64::from)
}

//! What every connection does once the database is in a new incarnation (docs/adr/0057).

use actix::prelude::*;
use time::OffsetDateTime;

use super::Supervisor;
use crate::actors::connection::WriteAgain;

/// The database is in a new incarnation.
#[derive(Message)]
#[rtype(result = "()")]
pub struct DatabaseFailedOver {
    /// Events since then may be lost; `None`: none is.
    pub lost_since: Option<OffsetDateTime>,
}

impl Handler<DatabaseFailedOver> for Supervisor {
    type Result = ();

    fn handle(&mut self, failed_over: DatabaseFailedOver, _ctx: &mut Self::Context) {
        // One that ends, or is started later, has nothing to tell.
        for managed in self.managed.values().filter(|managed| managed.closing.is_none()) {
            managed.addr.do_send(WriteAgain { lost_since: failed_over.lost_since });
        }
    }
}

//! Deliveries, as far as more than a read is to it.

use super::Result;
use super::caller::Caller;
use crate::domain::ids::DeliveryId;
use crate::store::views::deliveries::DeliveryRow;

/// Makes a delivery due now, be it open or ended, and gives it as it is then.
///
/// # Errors
/// If there is none, its webhook takes no part, a later one of its lane is being sent, or the database
/// refuses.
pub async fn retry(caller: &Caller, id: DeliveryId) -> Result<DeliveryRow> {
    caller.store.retry_delivery(id, caller.principal.as_str()).await?;
    Ok(caller.store.delivery(id).await?)
}

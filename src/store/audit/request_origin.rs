//! Where the call comes from that is being carried out. `api/http/auth.rs` says it once; every audit entry that names a
//! principal tells it, whichever step writes it.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::domain::audit::Entry;

tokio::task_local! {
    static FROM: IpAddr;
}

/// Carries out a call that comes from this address.
pub async fn calling_from<F: Future>(address: IpAddr, call: F) -> F::Output {
    FROM.scope(address, call).await
}

/// The particulars of an entry, with the address in them if somebody asked for it.
pub(in crate::store) fn data_with_origin(entry: &Entry) -> Map<String, Value> {
    let mut data = entry.data.clone();
    if entry.principal.is_some() {
        let _ = FROM.try_with(|address| data.insert("from".to_owned(), Value::String(address.to_string())));
    }
    data
}

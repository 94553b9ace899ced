//! Address of the caller whose request is running. `api/http/auth.rs` sets it once; every audit entry that
//! names a principal gets it, whichever step writes the entry.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::domain::audit::Entry;

tokio::task_local! {
    static FROM: IpAddr;
}

/// Runs a call that comes from this address.
pub async fn calling_from<F: Future>(address: IpAddr, call: F) -> F::Output {
    FROM.scope(address, call).await
}

/// Fields of an entry, with the caller's address if it names a principal.
pub(in crate::store) fn data_with_origin(entry: &Entry) -> Map<String, Value> {
    let mut data = entry.data.clone();
    if entry.principal.is_some() {
        let _ = FROM.try_with(|address| data.insert("from".to_owned(), Value::String(address.to_string())));
    }
    data
}

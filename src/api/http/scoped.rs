//! What handlers below `/v1` work with: the state of the API, and the database as the caller's tenant sees it.

use std::future::{Ready, ready};
use std::ops::Deref;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};

use crate::api::ApiState;
use crate::api::http::auth::Principal;
use crate::api::http::problem::ApiError;
use crate::store::Store;

/// The state of the API for one caller.
pub(in crate::api) struct Scoped {
    /// Nothing of another tenant is in it.
    pub(in crate::api) store: Store,
    state: web::Data<ApiState>,
}

impl Deref for Scoped {
    type Target = ApiState;

    fn deref(&self) -> &ApiState {
        &self.state
    }
}

impl FromRequest for Scoped {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let state = request.app_data::<web::Data<ApiState>>().cloned();
        let tenant = request.extensions().get::<Principal>().map(Principal::tenant);
        ready(match state.zip(tenant) {
            Some((state, tenant)) => Ok(Self { store: state.whole_store.for_tenant(tenant), state }),
            None => Err(ApiError::internal("a handler was reached without its state, or without a caller")),
        })
    }
}

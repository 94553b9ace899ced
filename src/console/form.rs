//! A form that was sent: read with the limits of every body.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use serde::de::DeserializeOwned;

use super::Result;
use crate::api::http::body_reader::{media_type, read};
use crate::api::http::problem::{ApiError, Code};

/// The fields of a form, as they came.
#[derive(Clone, Debug)]
pub struct Form(Vec<u8>);

impl FromRequest for Form {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            if media_type(&request) != "application/x-www-form-urlencoded" {
                return Err(ApiError::new(Code::UnsupportedMediaType, "Send a form of the console."));
            }
            let fields = read(&request, payload).await?.to_vec();
            // Postgres keeps no NUL in a text, and no field of ours needs one.
            if fields.contains(&0) || fields.windows(3).any(|piece| piece == b"%00") {
                return Err(ApiError::new(Code::InvalidParameter, "A field of the form has NUL in it."));
            }
            Ok(Self(fields))
        })
    }
}

impl Form {
    /// The fields as this type has them. Fields that repeat, such as those of check boxes, become a list.
    ///
    /// # Errors
    /// If one is missing or of another shape.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_html_form::from_bytes(&self.0)
            .map_err(|error| ApiError::new(Code::InvalidParameter, format!("A field of the form: {error}.")))
    }
}

//! Domain words as column types, so that queries name them and the core stays free of sqlx.

use serde_json::Value;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use uuid::Uuid;

use crate::domain::audit::verification::VerificationState;
use crate::domain::delivery::recovery::RecoveryFailure;
use crate::domain::delivery::signature::SecretKind;
use crate::domain::erasure::ErasureState;
use crate::domain::ids::{
    AgentId, ApiKeyId, BatchId, ConnectionId, ConsoleSessionId, DeliveryId, DispatcherId, ErasureId, EventId,
    GapId, ProcessId, ProvisioningId, QuarantineId, RecoveryId, SourceId, TenantId, VerificationId,
    WebhookId, WebhookSecretId,
};
use crate::domain::presence::connection::{ConnectionState, DesiredState};
use crate::domain::presence::source::SourceOrigin;
use crate::domain::presence::{Detail, EventKind};
use crate::domain::webhook::state::{StateReason, WebhookState, WorkKind};

macro_rules! column_type {
    ($inner:ty: $($name:ident),+) => {$(
        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                <$inner as Type<Postgres>>::type_info()
            }
            fn compatible(ty: &PgTypeInfo) -> bool {
                <$inner as Type<Postgres>>::compatible(ty)
            }
        }
        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <$inner as Encode<'_, Postgres>>::encode_by_ref(&self.0, buf)
            }
        }
        impl<'r> Decode<'r, Postgres> for $name {
            fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                Ok(Self(<$inner as Decode<'r, Postgres>>::decode(value)?))
            }
        }
        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                <$inner as PgHasArrayType>::array_type_info()
            }
        }
    )+};
}

column_type!(Uuid: ApiKeyId, BatchId, ConnectionId, ConsoleSessionId, DeliveryId, DispatcherId, ErasureId, EventId, GapId, ProcessId, ProvisioningId, QuarantineId, RecoveryId, SourceId, TenantId, VerificationId, WebhookId, WebhookSecretId);
column_type!(String: AgentId);

/// Enums whose values stand in a text column by their names.
macro_rules! word_type {
    ($($name:ty),+ $(,)?) => {$(
        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                <str as Type<Postgres>>::type_info()
            }
            fn compatible(ty: &PgTypeInfo) -> bool {
                <str as Type<Postgres>>::compatible(ty)
            }
        }
        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <&str as Encode<'_, Postgres>>::encode_by_ref(&self.as_str(), buf)
            }
        }
        impl<'r> Decode<'r, Postgres> for $name {
            fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                let word = <&str as Decode<'r, Postgres>>::decode(value)?;
                Self::from_name(word).ok_or_else(|| format!("holds a word that is not known: {word:?}").into())
            }
        }
    )+};
}

word_type!(
    ConnectionState,
    DesiredState,
    ErasureState,
    RecoveryFailure,
    SecretKind,
    SourceOrigin,
    VerificationState,
    StateReason,
    WebhookState,
    WorkKind,
);

/// Column `state` of an event of this kind; `None` if it cannot be read, which our own writing rules out.
pub(super) fn detail(kind: EventKind, state: Value) -> Option<Detail> {
    Some(match kind {
        EventKind::PresenceUpdated | EventKind::PresenceSnapshot => {
            Detail::Agent(serde_json::from_value(state).ok()?)
        }
        EventKind::SourceStale | EventKind::SourceRecovered => {
            Detail::Source(serde_json::from_value(state).ok()?)
        }
        EventKind::PresenceGap => Detail::Gap(serde_json::from_value(state).ok()?),
        EventKind::WebhookFailing | EventKind::WebhookDisabled | EventKind::WebhookRecovered => {
            Detail::Webhook(serde_json::from_value(state).ok()?)
        }
        EventKind::DatabaseFailedOver => Detail::Failover(serde_json::from_value(state).ok()?),
        EventKind::WebhookTest => return None,
    })
}

/// Values of one column of rows that a statement gets as arrays.
pub(super) fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

//! How much of what costs memory a tenant may have.

use std::ops::RangeInclusive;

/// Most webhooks, and most items in all their filters together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantQuota {
    /// Webhooks that are not removed.
    pub webhooks: u32,
    /// Items of their `agents`, `topics`, `presences` and `sources`.
    pub filter_items: u32,
}

impl Default for TenantQuota {
    fn default() -> Self {
        Self { webhooks: 20_000, filter_items: 2_000_000 }
    }
}

impl TenantQuota {
    /// What the operator may set for `webhooks`.
    pub const WEBHOOKS: RangeInclusive<u32> = 1..=1_000_000;
    /// What the operator may set for `filter_items`.
    pub const FILTER_ITEMS: RangeInclusive<u32> = 1..=100_000_000;

    /// Whether a tenant may have these numbers of both.
    ///
    /// # Errors
    /// What it may have at most, if it is less.
    pub fn check(self, webhooks: i64, filter_items: i64) -> Result<(), String> {
        if webhooks > self.webhooks.into() {
            return Err(format!("a tenant may have {} webhooks", self.webhooks));
        }
        if filter_items > self.filter_items.into() {
            return Err(format!(
                "all webhooks of a tenant together may have {} filter items, and would have {filter_items}",
                self.filter_items
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_may_be_had_and_one_more_may_not() {
        let quota = TenantQuota { webhooks: 2, filter_items: 5 };
        assert_eq!(quota.check(2, 5), Ok(()));
        assert!(quota.check(3, 0).unwrap_err().contains("2 webhooks"));
        assert!(quota.check(2, 6).unwrap_err().contains("5 filter items, and would have 6"));
    }
}

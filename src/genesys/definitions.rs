//! Presence definitions of a source, shared by its connections, so that events can carry the labels.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::protocol::Definition;

/// The definitions of one source in its language. Clones share them; lives on one thread.
#[derive(Clone, Default)]
pub struct Definitions(Rc<Inner>);

#[derive(Default)]
struct Inner {
    by_id: RefCell<HashMap<String, Definition>>,
    unknown_seen: Cell<bool>,
}

impl Definitions {
    /// The definition of an id. An unknown id is remembered, so that the definitions are read again.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Definition> {
        let found = self.0.by_id.borrow().get(id).cloned();
        if found.is_none() {
            self.0.unknown_seen.set(true);
        }
        found
    }

    /// Replaces all definitions.
    pub fn replace(&self, definitions: Vec<Definition>) {
        *self.0.by_id.borrow_mut() =
            definitions.into_iter().map(|definition| (definition.id.clone(), definition)).collect();
        self.0.unknown_seen.set(false);
    }

    /// Whether an unknown id was asked for since the last call.
    #[must_use]
    pub fn take_unknown_seen(&self) -> bool {
        self.0.unknown_seen.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_id_asks_for_a_new_reading_once() {
        let definitions = Definitions::default();
        assert!(!definitions.take_unknown_seen());
        assert_eq!(definitions.get("d"), None);
        assert!(definitions.take_unknown_seen());
        assert!(!definitions.take_unknown_seen());
        let definition = Definition {
            id: "d".to_owned(),
            system: Some("BREAK".to_owned()),
            label: Some("Pause".to_owned()),
        };
        definitions.replace(vec![definition.clone()]);
        assert_eq!(definitions.get("d"), Some(definition));
        assert!(!definitions.take_unknown_seen());
    }
}

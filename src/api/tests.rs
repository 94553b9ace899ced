//! The contract and the code are one: held against each other in both directions.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::ROUTES;
use super::problem::Code;
use crate::domain::audit::Kind;

/// The contract as JSON.
fn contract() -> Value {
    serde_saphyr::from_str(include_str!("../../openapi.yaml")).unwrap()
}

fn words(value: &Value) -> BTreeSet<String> {
    let words = value.as_array().unwrap().iter();
    words.map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_route_is_in_the_contract_and_the_other_way_round() {
    let routed: BTreeSet<String> = ROUTES
        .iter()
        .map(|route| format!("{} {}", route.method, route.path.replace(":.*", "")))
        .collect();
    assert_eq!(routed.len(), ROUTES.len(), "a route is there twice");
    let contract = contract();
    let mut promised = BTreeSet::new();
    for (path, item) in contract["paths"].as_object().unwrap() {
        for method in [
            "get", "put", "post", "delete", "options", "head", "patch", "trace",
        ] {
            if item.get(method).is_some() {
                promised.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    assert_eq!(routed, promised);
}

#[test]
fn what_wants_a_key_is_what_the_contract_says() {
    let contract = contract();
    for route in ROUTES {
        let path = route.path.replace(":.*", "");
        let operation = &contract["paths"][&path][route.method.to_lowercase()];
        let open = operation["security"] == json!([]);
        assert_eq!(open, !path.starts_with(super::KEY_WANTED_BELOW), "{path}");
    }
}

#[test]
fn codes_and_audit_kinds_are_those_of_the_contract() {
    let contract = contract();
    let schemas = &contract["components"]["schemas"];
    let codes: BTreeSet<String> = Code::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(codes, words(&schemas["ProblemCode"]["enum"]));
    let kinds: BTreeSet<String> = Kind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    assert_eq!(kinds, words(&schemas["AuditKind"]["enum"]));
}

#[test]
fn every_example_of_the_contract_keeps_its_schema() {
    let contract = contract();
    let mut checked = 0;
    check_examples(&contract, &contract, &mut checked);
    assert!(checked > 10, "only {checked} examples were found");
}

/// Looks for media types, which have a schema beside their examples.
fn check_examples(contract: &Value, at: &Value, checked: &mut usize) {
    match at {
        Value::Array(items) => items
            .iter()
            .for_each(|item| check_examples(contract, item, checked)),
        Value::Object(fields) => {
            if let (Some(schema), Some(Value::Object(examples))) =
                (fields.get("schema"), fields.get("examples"))
            {
                for (name, example) in examples {
                    let example = match example.get("$ref").and_then(Value::as_str) {
                        Some(reference) => contract.pointer(&reference[1..]).unwrap(),
                        None => example,
                    };
                    let errors = errors_of(contract, schema, &example["value"]);
                    assert!(errors.is_empty(), "{name}: {errors:?}");
                    *checked += 1;
                }
            }
            fields
                .values()
                .for_each(|value| check_examples(contract, value, checked));
        }
        _ => {}
    }
}

/// What is wrong with a value by a schema of the contract.
fn errors_of(contract: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": contract["components"],
        "allOf": [schema],
    });
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&whole)
        .unwrap();
    validator
        .iter_errors(value)
        .map(|error| error.to_string())
        .collect()
}

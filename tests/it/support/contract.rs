//! Holds every answer that any test gets against openapi.yaml.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::client::Answer;

static CONTRACT: LazyLock<Value> =
    LazyLock::new(|| serde_saphyr::from_str(include_str!("../../../openapi.yaml")).unwrap());

/// Operations of the contract whose success was seen by some test of this run, as `GET /v1/webhooks`.
pub static SEEN: LazyLock<Mutex<std::collections::BTreeSet<String>>> = LazyLock::new(Mutex::default);

static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

/// Every operation of the contract.
pub fn operations() -> Vec<String> {
    let mut all = Vec::new();
    for (path, item) in CONTRACT["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "patch", "delete"] {
            if item.get(method).is_some() {
                all.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    all
}

/// Every operation that wants a key, with the scope that it wants.
pub fn scopes() -> Vec<(String, String, String)> {
    let split = |operation: String| {
        let (method, path) = operation.split_once(' ').unwrap();
        let scope = CONTRACT["paths"][path][method.to_lowercase()]["security"][0]["bearer"][0].as_str()?;
        Some((method.to_owned(), path.to_owned(), scope.to_owned()))
    };
    operations().into_iter().filter_map(split).collect()
}

/// Fails unless the contract knows this answer: operation, status, media type, schema.
pub fn check(method: &str, target: &str, answer: &Answer) {
    // As GET, without a body that could be looked at.
    if method == "HEAD" {
        return;
    }
    let path = target.split('?').next().unwrap();
    let Some(template) = template_of(path) else {
        assert!(
            answer.status >= 400,
            "{method} {target} is not in the contract and answered {}",
            answer.status
        );
        return;
    };
    let operation = &CONTRACT["paths"][&template][method.to_lowercase()];
    if operation.is_null() {
        assert!([404, 405].contains(&answer.status), "{method} {target} answered {}", answer.status);
        return;
    }
    let responses = &operation["responses"];
    let named = &responses[answer.status.to_string()];
    let response = resolve(if named.is_null() { &responses["default"] } else { named });
    assert!(!response.is_null(), "{method} {template}: status {} is not in the contract", answer.status);
    assert!(
        !named.is_null() || answer.status >= 400,
        "{method} {template}: success {} is not promised",
        answer.status
    );
    let media = answer.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap().trim();
    if media.ends_with("json") && !media.ends_with("ndjson") {
        let schema = &response["content"][media]["schema"];
        assert!(!schema.is_null(), "{method} {template} {}: {media} is not in the contract", answer.status);
        let body = answer.json();
        let errors: Vec<_> =
            validator(schema).iter_errors(&body).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{method} {template} {}: {errors:?}\n{body}", answer.status);
    }
    if answer.status < 400 {
        SEEN.lock().unwrap().insert(format!("{method} {template}"));
    }
}

/// The template of the contract that a path fits, plain ones first.
fn template_of(path: &str) -> Option<String> {
    let paths = CONTRACT["paths"].as_object().unwrap();
    if paths.contains_key(path) {
        return Some(path.to_owned());
    }
    let parts: Vec<_> = path.split('/').collect();
    paths
        .keys()
        .find(|template| {
            let wanted: Vec<_> = template.split('/').collect();
            wanted.len() == parts.len()
                && wanted.iter().zip(&parts).all(|(w, p)| w.starts_with('{') || w == p)
        })
        .cloned()
}

fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(pointer) => resolve(CONTRACT.pointer(pointer.trim_start_matches('#')).unwrap()),
        None => value,
    }
}

fn validator(schema: &Value) -> Arc<Validator> {
    let mut known = VALIDATORS.lock().unwrap();
    let build = || {
        let whole = json!({"allOf": [schema], "components": CONTRACT["components"]});
        Arc::new(jsonschema::options().should_validate_formats(true).build(&whole).unwrap())
    };
    known.entry(schema.to_string()).or_insert_with(build).clone()
}

//! The contract and the code are one: held against each other in both directions.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeSet, HashMap};

use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{App, test as actix_test};
use serde_json::{Value, json};

use super::ROUTES;
use crate::api::http::problem::Code;
use crate::domain::access::scope::Scope;
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
    let routed: BTreeSet<String> =
        ROUTES.iter().map(|route| format!("{} {}", route.method, route.path.replace(":.*", ""))).collect();
    assert_eq!(routed.len(), ROUTES.len(), "a route is there twice");
    let contract = contract();
    let mut promised = BTreeSet::new();
    for (path, item) in contract["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "delete", "options", "head", "patch", "trace"] {
            if item.get(method).is_some() {
                promised.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    assert_eq!(routed, promised);
}

#[test]
fn what_a_key_must_be_allowed_is_what_the_contract_says() {
    let contract = contract();
    for route in ROUTES {
        let path = route.path.replace(":.*", "");
        let operation = &contract["paths"][&path][route.method.to_lowercase()];
        let wanted = route.scope.map_or(json!([]), |scope| json!([{"bearer": [scope.as_str()]}]));
        assert_eq!(operation["security"], wanted, "{} {path}", route.method);
        assert_eq!(route.scope.is_some(), path.starts_with(super::KEY_WANTED_BELOW), "{path}");
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
    let scopes: BTreeSet<String> = Scope::ALL.iter().map(|scope| scope.as_str().to_owned()).collect();
    assert_eq!(scopes, words(&schemas["Scope"]["enum"]));
}

#[test]
fn every_example_of_the_contract_keeps_its_schema() {
    let contract = contract();
    let mut checked = 0;
    check_examples(&contract, &contract, &mut checked);
    assert!(checked > 10, "only {checked} examples were found");
}

#[test]
fn every_item_of_a_batch_is_as_the_body_of_its_type() {
    let contract = contract();
    let posts = &contract["paths"]["/v1/webhooks"]["post"]["callbacks"];
    let batch = &contract["components"]["examples"]["PresenceBatchPost"]["value"]["data"];
    for item in batch.as_array().unwrap() {
        let post = &posts[item["type"].as_str().unwrap()]["{$request.body#/url}"]["post"];
        let body = &post["requestBody"]["content"]["application/json"]["schema"];
        assert!(body["$ref"].is_string(), "{item}");
        let errors = errors_of(&contract, body, item);
        assert!(errors.is_empty(), "{errors:?}");
    }
}

/// Looks for media types, which have a schema and examples.
fn check_examples(contract: &Value, at: &Value, checked: &mut usize) {
    match at {
        Value::Array(items) => items.iter().for_each(|item| check_examples(contract, item, checked)),
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
            fields.values().for_each(|value| check_examples(contract, value, checked));
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
    let validator = jsonschema::options().should_validate_formats(true).build(&whole).unwrap();
    validator.iter_errors(value).map(|error| error.to_string()).collect()
}

/// Answers a request that needs no state.
async fn ask(method: Method, path: &str) -> (u16, HashMap<String, String>, Vec<u8>) {
    let app =
        actix_test::init_service(App::new().wrap(from_fn(super::outermost)).configure(super::configure))
            .await;
    let request = actix_test::TestRequest::with_uri(path).method(method).to_request();
    let response = actix_test::call_service(&app, request).await;
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    (status, headers, actix_test::read_body(response).await.to_vec())
}

#[actix_web::test]
async fn an_unknown_path_and_a_wrong_method_get_problem_documents() {
    for (method, path, status, code) in [
        (Method::GET, "/nothing", 404, "not_found"),
        (Method::GET, "/docs/nothing", 404, "not_found"),
        (Method::POST, "/healthz", 405, "method_not_allowed"),
    ] {
        let (got, headers, body) = ask(method, path).await;
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{path}");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(problem["request_id"], headers["x-request-id"]);
        assert_eq!(headers.contains_key("allow"), status == 405);
        let errors = errors_of(&contract(), &json!({"$ref": "#/components/schemas/Problem"}), &problem);
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[actix_web::test]
async fn the_documentation_page_loads_nothing_from_elsewhere() {
    let (status, headers, page) = ask(Method::GET, "/docs/").await;
    assert_eq!(status, 200);
    let policy = &headers["content-security-policy"];
    assert!(policy.contains("script-src 'self'"), "{policy}");
    let page = String::from_utf8(page).unwrap();
    let named =
        page.split(['"', '\'']).filter(|text| [".js", ".css", ".png"].iter().any(|end| text.ends_with(end)));
    let mut files = 0;
    for name in named {
        let (status, ..) = ask(Method::GET, &format!("/docs/{}", name.trim_start_matches("./"))).await;
        assert_eq!(status, 200, "{name}");
        files += 1;
    }
    assert!(files >= 4, "{page}");
    let (_, _, initializer) = ask(Method::GET, "/docs/swagger-initializer.js").await;
    assert!(String::from_utf8(initializer).unwrap().contains("/openapi.yaml"));
}

#[actix_web::test]
async fn the_contract_is_served_as_it_is_written() {
    let (status, headers, body) = ask(Method::GET, "/openapi.yaml").await;
    assert_eq!((status, headers["content-type"].as_str()), (200, "application/yaml"));
    assert_eq!(body, include_bytes!("../../openapi.yaml"));
}

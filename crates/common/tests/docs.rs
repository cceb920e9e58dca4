//! docs/errors.md equals the contract and the code. `SOUK_UPDATE_DOCS=1 cargo test -p souk-common --test docs`
//! regenerates it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

use std::{fmt::Write, fs, path::Path};

use souk_common::{
    contract::Contract,
    error::{Problem, Reason},
};

const HEAD: &str = "# Errors

Every error has a *reason*. On gRPC it stands in the `google.rpc.ErrorInfo` of the status (domain `souk`), with
`BadRequest`, `PreconditionFailure` and `RetryInfo` where there is more to say. On REST the same error is an
`application/problem+json` (RFC 9457): `type` ends in the reason, `errors` names each field by its path and its JSON
pointer, `violations` each condition that was not met, and `request_id` finds the request in the logs. Reasons are never
renamed.

This page is made from `souk/common/v1/error_reason.proto` and the table in `souk_common::error`; a test holds them
together.

| reason | gRPC | HTTP | what it means |
|---|---|---|---|
";

#[test]
fn the_errors_page_is_what_the_contract_and_the_code_say() {
    let contract = Contract::souk().unwrap();
    let reasons = contract.pool().get_enum_by_name("souk.common.v1.ErrorReason").unwrap();
    let file = reasons.parent_file().file_descriptor_proto().clone();
    let comments = file.source_code_info.unwrap().location;
    let mut page = HEAD.to_owned();
    for (index, value) in reasons.values().enumerate().filter(|(_, value)| value.number() != 0) {
        // The path of a value's comment: enum 0 of the file (5), its value (2).
        let path = [5, 0, 2, index as i32];
        let comment = comments.iter().find(|location| location.path == path).unwrap().leading_comments();
        let problem = Problem::new(Reason::try_from(value.number()).unwrap(), "");
        let (name, status) = (problem.reason_name(), problem.http_status());
        let code = code_name(problem.code());
        writeln!(page, "| `{name}` | {code} | {status} | {} |", comment.trim().replace('\n', "")).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    if std::env::var_os("SOUK_UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), page, "run this test with SOUK_UPDATE_DOCS=1");
}

/// The name of a code in the specifications, such as `NOT_FOUND`.
fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for (index, letter) in format!("{code:?}").chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

//! Signatures against values that AWS publishes: its test suite of version 4, and the examples of S3.

use super::*;
use crate::secrets::value::Secret;
use hyper::Request;

const SUITE: Scope<'_> = Scope { service: "service", region: "us-east-1" };
const SUITE_TIME: &str = "20150830T123600Z";
const SUITE_SECRET: &str = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const S3_SECRET: &str = "AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn secret(text: &str) -> Secret {
    Secret::of_text("test", Zeroizing::new(text.into())).unwrap()
}

fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The signature of a request of the suite, whose every field is signed.
fn suite(method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> String {
    let (keys, mut all) = (secret(SUITE_SECRET), vec![("Host", "example.amazonaws.com")]);
    all.extend(fields);
    all.push(("X-Amz-Date", SUITE_TIME));
    let head = head(method, target, &all);
    let keys = Keys::read(keys.bytes()).unwrap();
    let digest = digest_of(body.as_bytes());
    let value = authorization(&head, &digest, SUITE, &keys, (SUITE_TIME, &|_| true));
    let (begin, signature) = value.split_once(", Signature=").unwrap();
    let wanted = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=";
    assert!(begin.starts_with(wanted), "{begin}");
    signature.to_owned()
}

const VANILLA: &str = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";

#[test]
fn the_published_suite_s_signatures_are_these() {
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for (name, method, target, fields, body, wanted) in [
        ("get-vanilla", "GET", "/", &[][..], "", VANILLA),
        ("get-slash", "GET", "//", &[], "", VANILLA),
        ("get-slash-dot-slash", "GET", "/./", &[], "", VANILLA),
        ("get-relative", "GET", "/example/..", &[], "", VANILLA),
        ("get-relative-relative", "GET", "/example1/example2/../..", &[], "", VANILLA),
        (
            "post-vanilla",
            "POST",
            "/",
            &[],
            "",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "get-vanilla-query-order-key-case",
            "GET",
            "/?Param2=value2&Param1=value1",
            &[],
            "",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-vanilla-query-unreserved",
            "GET",
            "/?-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            &[],
            "",
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        ),
        (
            "get-unreserved",
            "GET",
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            &[],
            "",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "get-header-value-trim",
            "GET",
            "/",
            &[("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")],
            "",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "post-header-key-sort",
            "POST",
            "/",
            &[("My-Header1", "value1")],
            "",
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        ),
        (
            "post-x-www-form-urlencoded",
            "POST",
            "/",
            &[form],
            "Param1=value1",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ] {
        assert_eq!(suite(method, target, fields, body), wanted, "{name}");
    }
}

#[test]
fn the_examples_of_s3_are_signed_so() {
    let keys = secret(S3_SECRET);
    let now = DateTime::parse_from_rfc3339("2013-05-24T00:00:00Z").unwrap().to_utc();
    for (target, wanted) in [
        ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "/?max-keys=2&prefix=J",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ] {
        let host = ("Host", "examplebucket.s3.amazonaws.com");
        let mut head = head("GET", target, &[host, ("X-Other", "is not signed")]);
        let scope = Scope { service: "s3", region: "us-east-1" };
        sign(&mut head, &digest_of(b""), scope, &Keys::read(keys.bytes()).unwrap(), now).unwrap();
        let value = head.headers[AUTHORIZATION].to_str().unwrap();
        let wanted = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={wanted}"
        );
        assert_eq!(value, wanted, "{target}");
        assert!(format!("{head:?}").contains("Sensitive"));
    }
}

#[test]
fn paths_and_queries_have_one_form() {
    let s3 = Scope { service: "s3", region: "r" };
    for (text, of_s3, of_others) in [
        ("/", "/", "/"),
        ("/a%20b//c/../d/", "/a%20b//c/../d/", "/a%2520b/d/"),
        ("/a!b(c)%21%2f", "/a%21b%28c%29%21/", "/a%21b%28c%29%2521%252f"),
        (
            "/model/anthropic.x-v1%3A0/invoke",
            "/model/anthropic.x-v1%3A0/invoke",
            "/model/anthropic.x-v1%253A0/invoke",
        ),
        ("/a/b/..", "/a/b/..", "/a/"),
        ("/../..", "/../..", "/"),
    ] {
        assert_eq!(path(text, s3), of_s3);
        assert_eq!(path(text, SUITE), of_others);
    }
    for (text, form) in [
        ("", ""),
        ("b=2&a=1&a=0&a", "a=&a=0&a=1&b=2"),
        ("a=x+y&b=x%2By&c=%e1", "a=x%20y&b=x%2By&c=%E1"),
        ("&&a==&", "a=%3D"),
    ] {
        assert_eq!(query(text), form);
    }
}

#[test]
fn what_the_agent_signed_with_goes_and_a_query_that_signs_is_refused() {
    let fields = [
        ("Authorization", "AWS4-HMAC-SHA256 own"),
        ("Authorization", "again"),
        ("X-Amz-Date", "own"),
        ("X-Amz-Security-Token", "own"),
        ("X-Amz-Content-Sha256", "own"),
        ("X-Amz-Target", "Service.Act"),
    ];
    let mut parts = head("POST", "/?x-amz-meta=1", &fields);
    assert_eq!(clear(&mut parts).unwrap().unwrap(), "own");
    let left: Vec<&str> = parts.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["x-amz-target"]);
    for query in
        ["X-Amz-Signature=1", "a=1&x-amz-%63redential", "AWSAccessKeyId=x", "X-AMZ-ALGORITHM="]
    {
        assert!(clear(&mut head("GET", &format!("/a?{query}"), &[])).is_err(), "{query}");
    }
}

#[test]
fn keys_are_read_and_what_is_none() {
    let all = secret("AKID:key/with+signs=:token:with/colon=");
    let keys = Keys::read(all.bytes()).unwrap();
    assert_eq!((keys.id, keys.secret), ("AKID", &b"key/with+signs="[..]));
    assert_eq!(keys.session, Some(&b"token:with/colon="[..]));
    for text in ["AKID", "AKID:", ":key", "AKID:key:", "AK ID:key", "AK/ID:key", "::"] {
        assert!(Keys::read(text.as_bytes()).is_none(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_path_or_query_is_too_much(text in "[ -~]{0,200}") {
        for scope in [SUITE, Scope { service: "s3", region: "r" }] {
            let form = path(&text, scope);
            assert!(form.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        assert_eq!(query(&query(&text)), query(&text));
    }
}

use super::*;

#[test]
fn answers_as_servers_give_them() {
    for (text, seconds, refresh) in [
        (r#"{"access_token":"a","token_type":"Bearer","expires_in":3600}"#, 3570, None),
        (r#"{"access_token":"a","token_type":"bearer","expires_in":"120"}"#, 90, None),
        (r#"{"access_token":"a","expires_in":40,"refresh_token":"b","x":[1]}"#, 20, Some("b")),
        (r#"{"access_token":"a"}"#, 300, None),
        (r#"{"access_token":"a","expires_in":null,"refresh_token":""}"#, 300, None),
        (r#"{"access_token":"a","expires_in":0}"#, 5, None),
        (r#"{"access_token":"a","expires_in":18446744073709551615}"#, 86370, None),
    ] {
        let answer = Answer::read(200, text.as_bytes()).unwrap();
        assert_eq!(answer.access.bytes(), b"a", "{text}");
        assert_eq!(answer.life.as_secs(), seconds, "{text}");
        let bytes = answer.refresh.as_ref().map(Secret::bytes);
        assert_eq!(bytes, refresh.map(str::as_bytes), "{text}");
    }
}

#[test]
fn answers_that_are_none_tell_nothing_of_them() {
    let long = format!(r#"{{"access_token":"{}"}}"#, "s3cret".repeat(2000));
    for (status, text, what) in [
        (200, "", "not JSON"),
        (200, "s3cret", "not JSON"),
        (200, "[]", "not JSON"),
        (200, r#"{"error":"invalid_grant"}"#, "no access token"),
        (200, r#"{"access_token":""}"#, "no request can have"),
        (200, r#"{"access_token":1}"#, "not JSON"),
        (200, r#"{"access_token":"s3cret\r\nX: 1"}"#, "no request can have"),
        (200, r#"{"access_token":"s3cret\n"}"#, "no request can have"),
        (200, &long, "no request can have"),
        (200, r#"{"access_token":"s3cret","token_type":"mac"}"#, "another type"),
        (200, r#"{"access_token":"s3cret","expires_in":-1}"#, "not JSON"),
        (200, r#"{"access_token":"s3cret","expires_in":"soon"}"#, "in seconds"),
        (200, r#"{"access_token":"s3cret","refresh_token":"s3cret\u0000"}"#, "can't be kept"),
        (400, r#"{"error":"invalid_grant","error_description":"s3cret"}"#, "400, invalid_grant"),
        (401, r#"{"error":"s3cret"}"#, "refuses: 401"),
        (500, "s3cret", "refuses: 500"),
        (302, "s3cret", "sends elsewhere (302)"),
        (204, "", "refuses: 204"),
    ] {
        let error = Answer::read(status, text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(what) && !error.contains("s3cret"), "{text}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_answer_is_too_much(status in 100_u16..600, body in ".{0,200}") {
        drop(Answer::read(status, body.as_bytes()));
    }
}

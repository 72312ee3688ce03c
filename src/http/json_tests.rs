//! Verdicts and texts below were recorded from a real OpenBao 2.7.2.

use serde_json::json;

use super::*;

#[test]
fn decode_refused_bodies_have_the_real_texts() {
    for (body, text) in REFUSED {
        let error = decode_object(body).expect_err("a real server refuses it");
        assert_eq!(&error.0, text, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn decode_accepted_bodies_are_accepted() {
    for body in ACCEPTED {
        if let Err(error) = decode_object(body) {
            panic!("{}: {error}", String::from_utf8_lossy(body));
        }
    }
}

#[test]
fn decode_value_details() {
    let check = |body: &[u8], expected: Value| {
        let map = decode_object(body).expect("valid").expect("an object");
        assert_eq!(Value::Object(map), expected);
    };
    check(br#"{"a":1}{"b":2}"#, json!({"a": 1}));
    check(br#"{"a":1,"a":2}"#, json!({"a": 2}));
    check(b"{\"a\":\"\xff\"}", json!({"a": "\u{fffd}"}));
    check(
        br#"{"a":"\ud83d\ude00\uD83Dx"}"#,
        json!({"a": "\u{1f600}\u{fffd}x"}),
    );
    check(
        br#"{"\u0061":[true,false,null,{},[]]}"#,
        json!({"a": [true, false, null, {}, []]}),
    );
}

#[test]
fn decode_number_keeps_its_spelling() {
    for number in ["1.50", "12345678901234567890123", "1e-400", "-0"] {
        let body = format!("{{\"a\":{number}}}");
        let map = decode_object(body.as_bytes())
            .expect("valid")
            .expect("an object");
        assert_eq!(serde_json::to_string(&map).expect("serialises"), body);
    }
}

#[test]
fn decode_nesting_is_bounded() {
    for (depth, accepted) in [
        (DEPTH_MAX - 1, true),
        (DEPTH_MAX, false),
        (20_000, false),
        (5_000_000, false),
    ] {
        let body = format!("{{\"a\":{}", "[".repeat(depth)) + &"]".repeat(depth) + "}";
        let verdict = decode_object(body.as_bytes());
        assert_eq!(verdict.is_ok(), accepted, "depth {depth}");
        if let Err(error) = verdict {
            assert_eq!(
                error.to_string(),
                "failed to decode JSON input: exceeded max depth"
            );
        }
    }
}

#[test]
fn decode_never_panics_on_any_prefix_or_byte_flip() {
    let body = br#"{"a":[1.5e+3,-0,"\ud83d\ude00\n\u00e9",{"b":null}],"c":true,"d":false} x"#;
    for length in 0..=body.len() {
        let _ = decode_object(&body[..length]);
        for byte in [0u8, b'"', b'\\', b'{', b']', b',', 0x80, 0xff] {
            let mut changed = body.to_vec();
            if length < changed.len() {
                changed[length] = byte;
            }
            let _ = decode_object(&changed);
        }
    }
}

#[rustfmt::skip]
const REFUSED: &[(&[u8], &str)] = &[
    (b"{bad", "invalid character 'b' looking for beginning of value"),
    (b"{\"a\"", "unexpected EOF"),
    (b"{\"a\" 1", "invalid character '1' after object key"),
    (b"{\"a\":", "unexpected EOF"),
    (b"{\"a\":1", "unexpected EOF"),
    (b"{\"a\":1 \"b\"", "invalid character '\"' after object key:value pair"),
    (b"{\"a\":1,", "unexpected EOF"),
    (b"{\"a\":1,}", "invalid character ',' looking for beginning of value"),
    (b"[1", "unexpected EOF"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b"[1,]", "invalid character ',' looking for beginning of value"),
    (b"tru", "unexpected EOF"),
    (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
    (b"nul", "unexpected EOF"),
    (b"nulx", "invalid character 'x' in literal null (expecting 'l')"),
    (b"falsy", "invalid character 'y' in literal false (expecting 'e')"),
    (b"{\"a\":tru}", "invalid character '}' in literal true (expecting 'e')"),
    (b"\"abc", "unexpected EOF"),
    (b"{\"a\":\"x\x0ay\"}", "invalid character '\\n' in string"),
    (b"{\"a\":\"\\x\"}", "invalid escape sequence `\\x` in string"),
    (b"{\"a\":\"\\u12\"}", "invalid escape sequence `\\u12\"}` in string"),
    (b"{\"a\":\"\\u12zz\"}", "invalid escape sequence `\\u12zz` in string"),
    (b"01", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
    (b"-", "unexpected EOF"),
    (b"-a", "invalid character 'a' in numeric literal"),
    (b"1.", "unexpected EOF"),
    (b"1.x", "invalid character 'x' in numeric literal"),
    (b"1e", "unexpected EOF"),
    (b"1ex", "invalid character 'x' in numeric literal"),
    (b"{\"a\":01}", "invalid character '1' after object key:value pair"),
    (b"{\"a\":1.}", "invalid character '}' in numeric literal"),
    (b"{\"a\":-}", "invalid character '}' in numeric literal"),
    (b"}", "invalid character '}' looking for beginning of value"),
    (b"]", "invalid character ']' looking for beginning of value"),
    (b",", "invalid character ',' looking for beginning of value"),
    (b":", "invalid character ':' looking for beginning of value"),
    (b"{", "unexpected EOF"),
    (b"[", "unexpected EOF"),
    (b"5", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
    (b"\"s\"", "json: cannot unmarshal string into Go value of type map[string]interface {}"),
    (b"true", "json: cannot unmarshal bool into Go value of type map[string]interface {}"),
    (b"{} x", "invalid character 'x' looking for beginning of value"),
    (b"{}}", "invalid character '}' looking for beginning of value"),
    (b"{}]", "invalid character ']' looking for beginning of value"),
    (b"{\"a\":1},", "invalid character ',' looking for beginning of value"),
    (b"{\"a\":1} nul", "unexpected EOF"),
    (b"{\"a\":{\"b\":}}", "missing value after object key"),
    (b"{\"a\":[1,}", "invalid character ',' looking for beginning of value"),
    (b"{\"a\":[}", "invalid character '}' looking for beginning of value"),
    (b"{1:2}", "object member name must be a string"),
    (b"{\"a\":1,b}", "invalid character 'b' looking for beginning of value"),
    (b"{\"a\":1:2}", "invalid character ':' after object key:value pair"),
    (b"{\"a\"::1}", "invalid character ':' looking for beginning of value"),
    (b"{,}", "invalid character ',' looking for beginning of value"),
    (b"[,]", "invalid character ',' looking for beginning of value"),
    (b"{\"a\":\xc3\xa9}", "invalid character '\u{e9}' looking for beginning of value"),
    (b"{\"a\":1e400}", "json: cannot unmarshal number 1e400 into Go value of type float64"),
    (b"{\"a\":\x01}", "invalid character '\\x01' looking for beginning of value"),
    (b"\x01", "invalid character '\\x01' looking for beginning of value"),
    (b"'", "invalid character '\\'' looking for beginning of value"),
    (b"\"\x09\"", "invalid character '\\t' in string"),
    (b"{\"a\":+1}", "invalid character '+' looking for beginning of value"),
    (b"{\"a\":.5}", "invalid character '.' looking for beginning of value"),
    (b"{\"a\":NaN}", "invalid character 'N' looking for beginning of value"),
    (b"{\"a\":Infinity}", "invalid character 'I' looking for beginning of value"),
    (b"\xef\xbb\xbf{}", "invalid character '\\ufeff' looking for beginning of value"),
    (b"<a>", "invalid character '<' looking for beginning of value"),
    (b"a=b&c=d", "invalid character 'a' looking for beginning of value"),
    (b"[]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
    (b"{\"a\":\"\xc3\xa9", "unexpected EOF"),
    (b"{\"a\":1}\"abc", "unexpected EOF"),
    (b"{\"a\":}", "missing value after object key"),
    (b"{\"a\":1,2:3}", "object member name must be a string"),
    (b"{\"a\" , 1}", "invalid character ',' after object key"),
    (b"[\"a\":1]", "invalid character ':' after array element"),
    (b"{\"a\":[1}", "invalid character '}' after array element"),
    (b"{\"a\":1]", "invalid character ']' after object key:value pair"),
    (b"[1}", "invalid character '}' after array element"),
    (b"{\"a\":nul", "unexpected EOF"),
    (b"{\"a\":\"\\", "unexpected EOF"),
    (b"{\"a\":\"\\u", "unexpected EOF"),
    (b"/", "invalid character '/' looking for beginning of value"),
    (b"\"\\/\"", "json: cannot unmarshal string into Go value of type map[string]interface {}"),
    (b"\x80", "invalid character '\\x80' looking for beginning of value"),
    (b"{\"a\":\"b\x00\"}", "invalid character '\\x00' in string"),
    (b"{\"a\":--1}", "invalid character '-' in numeric literal"),
    (b"{\"a\":tr\xc3\xa9}", "invalid character '\u{e9}' in literal true (expecting 'u')"),
    (b"[ ]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
    (b"{\"a\":\"\\u00", "unexpected EOF"),
    (b"0x10", "invalid character 'x' looking for beginning of value"),
    (b"-", "unexpected EOF"),
    (b"-01", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
    (b"{\"a\":-", "unexpected EOF"),
    (b"1e5", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
    (b"nullx", "invalid character 'x' looking for beginning of value"),
    (b"null x", "invalid character 'x' looking for beginning of value"),
    (b"{\"a\":1}:", "invalid character ':' looking for beginning of value"),
    (b"{\"a\":{}:1}", "invalid character ':' after object key:value pair"),
    (b"{\"a\":[]]}", "invalid character ']' after object key:value pair"),
    (b"{\"a\":1;}", "invalid character ';' after object key:value pair"),
    (b"{\"a\":1}\x00", "invalid character '\\x00' looking for beginning of value"),
];

#[rustfmt::skip]
const ACCEPTED: &[&[u8]] = &[
    b"   ",
    b"",
    b"null",
    b"{\"a\":\"\\ud800\"}",
    b"{\"a\":12345678901234567890}",
    b"{\"a\":\"\x7f\"}",
    b"{\"a\":1}{\"b\"",
    b"{\"a\":1}[",
    b"{\"a\":\"\xff\"}",
    b"{\"a\":1}\"abc\"",
    b"{\"a\":1} 5",
    b"{\"a\":\"\\ud83d\\ude00\"}",
    b"{\"\\u0061\":1}",
    b"{\"a\":1e-400}",
    b"{\"a\":-0}",
    b"{\"a\":1.50}",
    b"{\"a\":1 ,\x0a \"b\" : 2 }",
    b"\x0a{\"a\":1}\x0a",
    b"{ }",
    b"{\"a\":\"\\uD83Dx\"}",
];

//! The messages that the proxy writes itself, appended to a byte vector.

use super::TxStatus;

/// What an error tells a client: SQLSTATE, text, and how to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) code: std::borrow::Cow<'static, str>,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<String>,
}

impl Report {
    pub(crate) fn new(code: impl Into<std::borrow::Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), detail: None, hint: None }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Fatal,
}

/// Appends one message; `body` writes what follows the length.
pub(crate) fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - at).expect("own messages are far below 4 GiB");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// A text as a C string. An embedded zero byte would end it early, so it is left out.
pub(crate) fn cstr(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.push(0);
}

pub(crate) fn error(out: &mut Vec<u8>, severity: Severity, report: &Report) {
    let word = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    message(out, b'E', |out| {
        let mut field = |kind: u8, text: &str| {
            out.push(kind);
            cstr(out, text);
        };
        field(b'S', word);
        field(b'V', word);
        field(b'C', &report.code);
        field(b'M', &report.message);
        if let Some(detail) = &report.detail {
            field(b'D', detail);
        }
        if let Some(hint) = &report.hint {
            field(b'H', hint);
        }
        out.push(0);
    });
}

pub(crate) fn ready(out: &mut Vec<u8>, status: TxStatus) {
    out.extend_from_slice(&[b'Z', 0, 0, 0, 5, status.byte()]);
}

/// A message without a body: `1` ParseComplete, `2` BindComplete, `3` CloseComplete, `n` NoData, `I` EmptyQueryResponse, `S` Sync.
pub(crate) fn empty(out: &mut Vec<u8>, kind: u8) {
    out.extend_from_slice(&[kind, 0, 0, 0, 4]);
}

pub(crate) fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |out| cstr(out, tag));
}

/// RowDescription of one text column, as SHOW has it.
pub(crate) fn text_column(out: &mut Vec<u8>, name: &str) {
    const TEXT_OID: u32 = 25;
    message(out, b'T', |out| {
        out.extend_from_slice(&1_u16.to_be_bytes());
        cstr(out, name);
        out.extend_from_slice(&0_u32.to_be_bytes());
        out.extend_from_slice(&0_u16.to_be_bytes());
        out.extend_from_slice(&TEXT_OID.to_be_bytes());
        out.extend_from_slice(&(-1_i16).to_be_bytes());
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.extend_from_slice(&0_u16.to_be_bytes());
    });
}

pub(crate) fn text_row(out: &mut Vec<u8>, value: &str) {
    message(out, b'D', |out| {
        out.extend_from_slice(&1_u16.to_be_bytes());
        let length = u32::try_from(value.len()).expect("own values are short");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    });
}

/// ParameterDescription of a statement without parameters.
pub(crate) fn no_parameters(out: &mut Vec<u8>) {
    message(out, b't', |out| out.extend_from_slice(&0_u16.to_be_bytes()));
}

pub(crate) fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |out| {
        cstr(out, name);
        cstr(out, value);
    });
}

pub(crate) fn backend_key(out: &mut Vec<u8>, pid: u32, secret: u32) {
    message(out, b'K', |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(&secret.to_be_bytes());
    });
}

/// An authentication message: 0 is Ok, 10 SASL, 11 SASLContinue, 12 SASLFinal.
pub(crate) fn authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// "The newest minor version that I speak is 0, and these protocol options I do not know."
pub(crate) fn negotiate_version(out: &mut Vec<u8>, unknown_options: &[String]) {
    message(out, b'v', |out| {
        out.extend_from_slice(&0_u32.to_be_bytes());
        let count = u32::try_from(unknown_options.len()).expect("bounded by the startup packet");
        out.extend_from_slice(&count.to_be_bytes());
        for option in unknown_options {
            cstr(out, option);
        }
    });
}

pub(crate) fn query(out: &mut Vec<u8>, text: &str) {
    message(out, b'Q', |out| cstr(out, text));
}

/// Binds a statement without parameters to a portal.
pub(crate) fn bind(out: &mut Vec<u8>, portal: &str, name: &str) {
    message(out, b'B', |out| {
        cstr(out, portal);
        cstr(out, name);
        out.extend_from_slice(&[0; 6]);
    });
}

pub(crate) fn execute(out: &mut Vec<u8>, portal: &str) {
    message(out, b'E', |out| {
        cstr(out, portal);
        out.extend_from_slice(&0_u32.to_be_bytes());
    });
}

/// Closes a prepared statement (`S`) or portal (`P`).
pub(crate) fn close(out: &mut Vec<u8>, what: u8, name: &str) {
    message(out, b'C', |out| {
        out.push(what);
        cstr(out, name);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_fields_and_ends_in_a_zero() {
        let mut out = Vec::new();
        error(&mut out, Severity::Fatal, &Report::new("3D000", "no\0 such").hint("h"));
        let length = u32::from_be_bytes([out[1], out[2], out[3], out[4]]) as usize;
        assert_eq!(length + 1, out.len());
        assert_eq!(&out[5..], b"SFATAL\0VFATAL\0C3D000\0Mno such\0Hh\0\0");
    }
}

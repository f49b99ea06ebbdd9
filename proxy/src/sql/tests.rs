//! Tables of statements by what they must be.
use super::*;

#[test]
fn smoke() {
    assert_eq!(classify("SELECT 1").route(), Route::Read);
    assert_eq!(classify("SELECT nextval('s')").route(), Route::Write);
    assert_eq!(classify("SELEC").route(), Route::Write);
}

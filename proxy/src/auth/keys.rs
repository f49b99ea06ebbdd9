//! The keys of SCRAM and how each is made from another.

use hmac::digest::CtOutput;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::fmt;

pub(super) const KEY_BYTES: usize = 32;
type Bytes = [u8; KEY_BYTES];

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub(crate) struct $name(pub(super) Bytes);

        impl PartialEq for $name {
            /// In constant time.
            fn eq(&self, other: &Self) -> bool {
                equal(&self.0, &other.0)
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

key!(
    /// As good as the password for a login to servers with the same verifier.
    ClientKey
);
key!(
    /// Hash of the [`ClientKey`]: proves it, without being it.
    StoredKey
);
key!(
    /// Proves to the client that the server holds the verifier.
    ServerKey
);

/// PBKDF2 of the password; the root of the other keys.
pub(super) struct SaltedPassword(Bytes);

impl SaltedPassword {
    /// Takes `iterations` HMACs: milliseconds. At least one is done.
    pub(super) fn new(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let keyed = keyed(password);
        let mut block = finish(keyed.clone(), &[salt, &1_u32.to_be_bytes()]);
        let mut result = block;
        for _ in 1..iterations {
            block = finish(keyed.clone(), &[&block]);
            result = xor(&result, &block);
        }
        Self(result)
    }

    pub(super) fn client_key(&self) -> ClientKey {
        ClientKey(hmac(&self.0, &[b"Client Key"]))
    }

    pub(super) fn server_key(&self) -> ServerKey {
        ServerKey(hmac(&self.0, &[b"Server Key"]))
    }
}

impl ClientKey {
    pub(crate) fn stored_key(&self) -> StoredKey {
        StoredKey(Sha256::digest(self.0).into())
    }

    /// ClientProof: the key, hidden under the signature of this one exchange.
    pub(super) fn proof(&self, auth_message: &[&[u8]]) -> Bytes {
        xor(&self.0, &self.stored_key().client_signature(auth_message))
    }
}

impl StoredKey {
    /// The key that the proof hides, where it is the one that this stored key is the hash of.
    pub(super) fn recover(&self, proof: &Bytes, auth_message: &[&[u8]]) -> Option<ClientKey> {
        let candidate = ClientKey(xor(proof, &self.client_signature(auth_message)));
        (candidate.stored_key() == *self).then_some(candidate)
    }

    fn client_signature(&self, auth_message: &[&[u8]]) -> Bytes {
        hmac(&self.0, auth_message)
    }
}

impl ServerKey {
    pub(super) fn signature(&self, auth_message: &[&[u8]]) -> Bytes {
        hmac(&self.0, auth_message)
    }
}

pub(super) fn equal(one: &Bytes, other: &Bytes) -> bool {
    CtOutput::<Sha256>::new((*one).into()) == CtOutput::new((*other).into())
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Bytes {
    finish(keyed(key), parts)
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn finish(mut mac: Hmac<Sha256>, parts: &[&[u8]]) -> Bytes {
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn xor(one: &Bytes, other: &Bytes) -> Bytes {
    std::array::from_fn(|nth| one[nth] ^ other[nth])
}

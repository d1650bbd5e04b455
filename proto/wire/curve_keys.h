#pragma once

#include <string>
#include <string_view>

#include "proto/support/error.h"

// CURVE key pairs and the files that hold them. Keys are Z85 text of 40 characters. The files are
// of lines `name = "value"` (a part of TOML: blank lines and # comments, no escapes in values);
// anything else in one is an error that names the line. Errors are kValidation, or kNotFound for a
// file that is not there.
namespace runbus::wire {

struct KeyPair {
  std::string public_key;
  std::string secret_key;
};

// What a broker knows of a peer that may come over tcp: the file NAME.pub.
struct AuthorizedKey {
  std::string role;  // "worker", "gateway" or "subscriber"
  std::string public_key;
  std::string node;  // the only node it may claim, or empty
};

// From the system's random generator. Throws when libzmq has no CURVE.
KeyPair make_key_pair();

bool is_z85_key(std::string_view key);

// Creates `path` with mode 0600; an existing file is kConflict and is not touched.
Result<void> write_secret_file(const std::string& path, const KeyPair& pair);

// Refuses a file that others than its owner can read or write, and a pair that does not belong
// together.
Result<KeyPair> read_secret_file(const std::string& path);

// Writes NAME.pub, replacing it at once (a reader sees the old file or the new one).
Result<void> write_public_file(const std::string& path, const AuthorizedKey& key);

Result<AuthorizedKey> parse_public_file(std::string_view text);
Result<AuthorizedKey> read_public_file(const std::string& path);

}  // namespace runbus::wire

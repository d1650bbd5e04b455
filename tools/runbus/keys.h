#pragma once

#include <string>

#include "proto/support/error.h"

namespace runbus::cli {

struct ServerKey {
  std::string public_key;   // Z85
  std::string secret_file;  // 0600
};

// The broker's CURVE key pair of a state directory, made at the first use.
Result<ServerKey> server_key(const std::string& state_dir);

}  // namespace runbus::cli

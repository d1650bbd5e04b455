#pragma once

#include <string>
#include <string_view>

namespace runbus::session {

// SHA-256 (FIPS 180-4) of `bytes` as 64 lower-case hex digits. Any thread.
std::string sha256_hex(std::string_view bytes);

}  // namespace runbus::session

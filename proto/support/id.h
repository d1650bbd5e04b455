#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace runbus {

// A new UUID version 7 (RFC 9562 §5.7) in canonical lower-case text: sorts by creation time. Any thread.
std::string make_uuid();

// `bytes` bytes from the kernel's random generator as lower-case hex: tokens, epochs. Any thread.
std::string random_hex(std::size_t bytes);

// Whether `id` may name a session, an execution or a terminal: 1 to 128 characters of A-Z a-z 0-9 . _ : -
// of which the first is a letter or a digit. Clients choose ids; whoever makes a path of one hashes it first.
bool is_valid_id(std::string_view id);

// Compares in time that depends on the lengths alone: for secrets.
bool equal_constant_time(std::string_view a, std::string_view b);

}  // namespace runbus

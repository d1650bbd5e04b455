#pragma once

#include <string>
#include <string_view>

// Text helpers of the transcoder's rooms.
namespace runbus::wire {

bool is_utf8(std::string_view text);

// At most `limit` bytes of `text`, cut between characters, marked with "..." when cut: for error
// details, which must not become a mirror of what a client sent.
std::string clip(std::string_view text, std::size_t limit);

}  // namespace runbus::wire

#include "gateway/events/glob.h"

namespace runbus::gateway {
namespace {

// Matches one character against the pattern's element at `at`, which is not `*`; sets `next` past
// the element.
bool match_one(std::string_view pattern, std::size_t at, char c, std::size_t& next) {
  if (pattern[at] == '?') {
    next = at + 1;
    return true;
  }
  if (pattern[at] == '\\' && at + 1 < pattern.size()) {
    next = at + 2;
    return pattern[at + 1] == c;
  }
  // A bracket that does not end is an ordinary character; one right after the opening belongs to
  // the set.
  const bool negated =
      at + 1 < pattern.size() && (pattern[at + 1] == '!' || pattern[at + 1] == '^');
  const std::size_t first = at + (negated ? 2 : 1);
  const std::size_t end =
      pattern[at] == '[' ? pattern.find(']', first + 1) : std::string_view::npos;
  if (end == std::string_view::npos) {
    next = at + 1;
    return pattern[at] == c;
  }
  bool found = false;
  for (std::size_t i = first; i < end; ++i) {
    if (i + 2 < end && pattern[i + 1] == '-') {
      found = found || (pattern[i] <= c && c <= pattern[i + 2]);
      i += 2;
    } else {
      found = found || pattern[i] == c;
    }
  }
  next = end + 1;
  return found != negated;
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view text) {
  constexpr std::size_t kNone = std::string_view::npos;
  std::size_t at = 0;
  std::size_t star = kNone;  // past the last `*`: only that one needs to be tried again
  std::size_t star_text = 0;
  std::size_t i = 0;
  while (i < text.size()) {
    std::size_t next = 0;
    if (at < pattern.size() && pattern[at] == '*') {
      star = ++at;
      star_text = i;
    } else if (at < pattern.size() && match_one(pattern, at, text[i], next)) {
      at = next;
      ++i;
    } else if (star != kNone) {
      at = star;
      i = ++star_text;
    } else {
      return false;
    }
  }
  while (at < pattern.size() && pattern[at] == '*') {
    ++at;
  }
  return at == pattern.size();
}

std::string glob_prefix(std::string_view pattern) {
  return std::string(pattern.substr(0, pattern.find_first_of("*?[\\")));
}

bool is_pattern(std::string_view glob) { return glob_prefix(glob) != glob; }

}  // namespace runbus::gateway

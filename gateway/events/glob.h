#pragma once

#include <string>
#include <string_view>

namespace runbus::gateway {

// Shell globs over topics: `*`, `?`, `[a-z]`, `[!a]`; a backslash takes the next character
// literally. `*` also crosses dots. Takes at most pattern × text steps.
bool glob_match(std::string_view pattern, std::string_view text);

// What every topic that matches begins with.
std::string glob_prefix(std::string_view pattern);

// Whether it may match other topics than the one that it spells.
bool is_pattern(std::string_view glob);

}  // namespace runbus::gateway

#pragma once

#include <string_view>

namespace runbus::agent {

// The text of node_spare.js, put here by the build.
extern const std::string_view kNodeSpareScript;

}  // namespace runbus::agent

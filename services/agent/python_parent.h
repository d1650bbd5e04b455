#pragma once

#include <string_view>

namespace runbus::agent {

// The text of python_parent.py, put here by the build.
extern const std::string_view kPythonParentScript;

}  // namespace runbus::agent

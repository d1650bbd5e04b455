#pragma once

#include <string_view>

// What the parent of the warm Python interpreters is made of, put into the program by the build.
namespace runbus::agent {

std::string_view python_parent_script();  // memory.py and parent.py
std::string_view python_module();         // module.h, a shared object

}  // namespace runbus::agent

#pragma once

#include <string_view>

// What the parents of warm interpreters are made of, put into the program by the build.
namespace runbus::agent {

std::string_view python_parent_script();  // memory.py and parent.py of python/
std::string_view python_module();         // python/module.h, a shared object
std::string_view node_parent_script();    // node/parent.js
std::string_view node_module();           // node/module.cc, a shared object

}  // namespace runbus::agent

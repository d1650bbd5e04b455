#pragma once

#include <string>
#include <vector>

#include "proto/support/error.h"

namespace runbus::cli {

// Reads a TOML file of flags ("listen = '127.0.0.1:0'", "insecure = true") as command-line
// arguments
// ("--listen=127.0.0.1:0", "--insecure"). `known` has the names of the flags, without dashes; an
// underscore may stand for a dash. An unknown name, a table or a date is refused with the line it
// is on.
Result<std::vector<std::string>> read_config(const std::string& path,
                                             const std::vector<std::string>& known);

}  // namespace runbus::cli

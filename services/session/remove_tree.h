#pragma once

#include <string>

#include "proto/support/error.h"

namespace runbus::session {

// Removes a directory and all below it, also a hostile one: any depth (it holds three descriptors
// and no stack, and takes time in proportion), any names, any modes, symbolic links never followed.
// Blocking, so not for the loop. A path that is not there is success.
Result<void> remove_tree(const std::string& path);

}  // namespace runbus::session
